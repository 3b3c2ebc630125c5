"""No control group at all: what a container has that was asked for without one, and who may make none.

Its processes stay in the group of whoever made it. They are found by their pid namespace instead, so that they can
still be listed, signalled and ended together; nothing of theirs can be limited, measured or frozen.
"""

from __future__ import annotations

import os
import signal as signals

from cove.errors import Unsupported
from cove.kernel.cgroups import ROOT, Cgroups, CgroupStats
from cove.oci.spec import Resources

_LIMITS = {
    "memory": "memory",
    "cpu": "CPU",
    "pids": "processes",
    "block_io": "block I/O",
    "hugepage_limits": "huge pages",
    "network": "network",
    "rdma": "RDMA",
    "unified": "unified control files",
}


class NoCgroups(Cgroups):
    """`pid`: the container's first process, 0 before it is there. `own_pids`: it began a pid namespace."""

    version = 0

    def __init__(self, pid: int = 0, *, own_pids: bool = False) -> None:
        super().__init__("")
        self._pid = pid
        self._own_pids = own_pids

    def directories(self, path: str) -> list[str]:
        return []

    def update(self, path: str, resources: Resources) -> None:
        """Rules of devices come with every configuration and hold nobody back here; a limit was meant."""
        asked = [words for name, words in _LIMITS.items() if getattr(resources, name)]
        if asked:
            raise Unsupported(
                f"without a control group nothing can be limited, and the configuration limits {', '.join(asked)}; "
                "leave the limits out, or let the container have a control group"
            )

    def freeze(self, path: str, frozen: bool) -> None:
        raise Unsupported("a container without a control group cannot be paused: that is what would be frozen")

    def kill(self, path: str) -> None:
        """The end of a pid namespace's first process is that of all in it."""
        self.signal(path, signals.SIGKILL)

    def stats(self, path: str) -> CgroupStats:
        raise Unsupported("a container without a control group has no figures of its use: nothing counts for it")

    def oom_kills(self, path: str) -> int:
        return 0

    def memory_peak(self, path: str) -> int:
        return 0

    def open_oom_events(self, path: str) -> int | None:
        return None

    def procs_file(self, path: str) -> str:
        return f"{ROOT}/cgroup.procs"

    def prepare(self, path: str) -> None:
        """There is nothing to be made."""

    def procs(self, path: str) -> list[int]:
        """Those of its pid namespace; without one of its own, the first process alone."""
        if not self._pid:
            return []
        if not self._own_pids:
            return [self._pid] if os.path.exists(f"/proc/{self._pid}") else []
        namespace = _namespace(self._pid)
        if namespace is None:
            return []
        return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _namespace(int(name)) == namespace]


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None
