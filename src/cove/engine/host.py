"""What the engine needs to know of the host, read once.

Every decision that depends on the host takes these facts as a value, so that it can be tested on any.
"""

from __future__ import annotations

import os
import platform
import re
import resource
from pathlib import Path

import msgspec

from cove.errors import Internal

_LIMITS = {
    name: getattr(resource, f"RLIMIT_{name}")
    for name in (
        "AS CORE CPU DATA FSIZE MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK".split()
    )
    if hasattr(resource, f"RLIMIT_{name}")
}
_CAP_SYS_RESOURCE = 24


class HostFacts(msgspec.Struct, frozen=True):
    """`ceilings`: hard limits (by RLIMIT_ name) that this host does not let anyone raise; -1 is unlimited.

    `last_capability`: the highest number the kernel knows. `swap_limit`: whether swap is accounted for.
    """

    cpus: int = 1
    online_cpus: str = "0"
    online_mems: str = "0"
    memory: int = 0
    architecture: str = "x86_64"
    kernel: str = ""
    cgroup_version: int = 2
    cgroup_driver: str = "cgroupfs"
    swap_limit: bool = True
    ceilings: dict[str, int] = msgspec.field(default_factory=dict)
    last_capability: int = 40
    apparmor: bool = False
    selinux: bool = False

    @property
    def deep_attributes(self) -> bool:
        """Whether a whole tree of mounts can be made read-only (mount_setattr(2), kernel 5.12)."""
        version = re.match(r"(\d+)\.(\d+)", self.kernel)
        return version is not None and (int(version[1]), int(version[2])) >= (5, 12)


def read_facts(cgroup_driver: str = "cgroupfs") -> HostFacts:
    """Ask the running kernel; raises Internal when /proc and /sys are not what they should be."""
    try:
        return HostFacts(
            cpus=os.cpu_count() or 1,
            online_cpus=_line("/sys/devices/system/cpu/online", "0"),
            online_mems=_line("/sys/devices/system/node/online", "0"),
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            architecture=platform.machine(),
            kernel=platform.release(),
            cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
            cgroup_driver=cgroup_driver,
            swap_limit=_swap_limit(),
            ceilings=_ceilings(),
            last_capability=int(_line("/proc/sys/kernel/cap_last_cap", "40")),
            apparmor=_line("/sys/module/apparmor/parameters/enabled", "N") == "Y",
            selinux=Path("/sys/fs/selinux/enforce").exists(),
        )
    except (OSError, ValueError) as error:
        raise Internal(f"This host cannot be examined: {error}; are /proc and /sys mounted?") from error


def _line(path: str, default: str) -> str:
    try:
        return Path(path).read_text().strip()
    except FileNotFoundError:
        return default


def _swap_limit() -> bool:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return True
    return Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()


def _ceilings() -> dict[str, int]:
    """Our own hard limits, unless we may raise them (CAP_SYS_RESOURCE, setrlimit(2))."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    if int(effective, 16) >> _CAP_SYS_RESOURCE & 1:
        return {}
    return {
        f"RLIMIT_{name}": hard
        for name, number in _LIMITS.items()
        if (hard := resource.getrlimit(number)[1]) != resource.RLIM_INFINITY
    }
