"""The system call filter of a container: Cove's profile or the user's, resolved for what the container may do."""

from __future__ import annotations

import errno
import platform
from collections.abc import Iterable

import msgspec

from cove.engine.host import HostFacts
from cove.engine.isolation import security
from cove.oci import seccomp_profile
from cove.oci.spec import Seccomp, SeccompArg, SeccompRule
from cove.wire.containers import HostConfig

_MOVES = (0x401C5820, 0x40086602, 0x40046602)
"""FS_IOC_FSSETXATTR, FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS: linux/fs.h."""
_WORD = 0xFFFFFFFF
"""The kernel takes an ioctl's number from the lower half of its argument."""


def resolved(profile: seccomp_profile.Profile | None, machine: str, capabilities: Iterable[str]) -> Seccomp:
    """The filter for a container with these capabilities (its bounding set, "CAP_…") on `machine` (uname -m).

    `profile`: the user's own, None for Cove's.
    """
    return seccomp_profile.resolve(
        profile or seccomp_profile.default(),
        capabilities=frozenset(capabilities),
        machine=machine,
        kernel=platform.release(),
    )


def within_project(profile: Seccomp) -> Seccomp:
    """The same filter for a container whose files have a size by a project quota: it may not take them out of it.

    The owner of a file may put it in another project, and a directory's new files in none (ioctl_xfs_fsgetxattr(2));
    the kernel refuses that only in user namespaces of one's own.
    """
    kept: list[SeccompRule] = []
    for rule in profile.syscalls:
        if "ioctl" not in rule.names or rule.args:
            kept.append(rule)
            continue
        # A rule without conditions would decide alone; this one has a condition that always holds.
        kept.append(msgspec.structs.replace(rule, names=tuple(name for name in rule.names if name != "ioctl")))
        kept.append(msgspec.structs.replace(rule, names=("ioctl",), args=(_argument(0, 0),)))
    refusal = SeccompRule(names=("file_setattr",), action="SCMP_ACT_ERRNO", errno_ret=errno.EOPNOTSUPP)
    moves = [msgspec.structs.replace(refusal, names=("ioctl",), args=(_argument(_WORD, each),)) for each in _MOVES]
    return msgspec.structs.replace(profile, syscalls=(refusal, *moves, *kept))


def _argument(mask: int, value: int) -> SeccompArg:
    return SeccompArg(index=1, op="SCMP_CMP_MASKED_EQ", value=mask, value_two=value)


def installation(asked: HostConfig, host: HostFacts) -> Seccomp | None:
    """How a container's own filter is installed in a further process, without its rules; None for plainly."""
    profile = security.security_options(asked, host).seccomp if asked.security_opt else None
    if profile is None or not (profile.flags or profile.listener_path):
        return None
    return msgspec.structs.replace(resolved(profile, host.architecture, ()), syscalls=())
