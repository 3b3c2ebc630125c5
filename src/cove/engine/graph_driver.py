"""Where the files of containers and images lie on this host, as the Engine API's GraphDriver names it. Pure.

    UpperDir  what the container changed, or an image's topmost layer     LowerDir  the layers below, topmost first
    WorkDir   the kernel's own scratch space                              MergedDir what the container sees

Nothing is mounted on the host: what a container sees is reached through its process, and only while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cove.oci.spec import Mount
from cove.wire.containers import GraphDriver

_NAMES = {"lowerdir": "LowerDir", "upperdir": "UpperDir", "workdir": "WorkDir"}


def of_container(mount: Mount, pid: int) -> GraphDriver:
    """By the mount of its root file system; `pid`: its first process, 0 while it does not run."""
    said = dict(option.partition("=")[::2] for option in mount.options)
    data = {shown: said[name] for name, shown in _NAMES.items() if name in said}
    return GraphDriver(data=data | ({"MergedDir": f"/proc/{pid}/root"} if pid else {}))


def of_layers(directories: Sequence[Path]) -> GraphDriver:
    """By the directories of an image's unpacked layers, from the top to the bottom."""
    if not directories:
        return GraphDriver()
    top, *below = map(str, directories)
    return GraphDriver(data={"UpperDir": top} | ({"LowerDir": ":".join(below)} if below else {}))
