"""Whether this host can run another platform's programs: natively, or by an interpreter (binfmt_misc)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cove.build import ops
from cove.build.dockerfile.options import Base
from cove.build.graph import Vertex, ordered
from cove.errors import Unsupported
from cove.oci.platform import Platform, best, host_platform

_REGISTERED = Path("/proc/sys/fs/binfmt_misc")
_NAMES = {"amd64": "x86_64", "386": "i386", "arm64": "aarch64", "arm": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


def check(target: Vertex, bases: Iterable[Base]) -> None:
    """Unsupported when a RUN needs an emulator that is not there, with the words that say what to install."""
    platforms = {base.digest: base.config.platform for base in bases}
    for vertex in ordered((target,)):
        if not isinstance(vertex.step, ops.Run):
            continue
        below = vertex
        while below.inputs:
            below = below.inputs[0]
        if isinstance(below.step, ops.Image):
            _check(platforms.get(below.step.digest, host_platform()), vertex.title)


def _check(platform: Platform, title: str) -> None:
    host = host_platform()
    if not platform.architecture or best(host, [(platform, platform)]) is not None:
        return
    name = _NAMES.get(platform.architecture, platform.architecture)
    if any((_REGISTERED / f"{prefix}{name}").exists() for prefix in ("qemu-", "")):
        return
    raise Unsupported(
        f"{title} runs programs for {platform}, which this host ({host}) cannot: install an emulator for them, on "
        "Debian the packages qemu-user-static and binfmt-support"
    )
