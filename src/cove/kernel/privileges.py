"""What a process may do: capabilities, user and group ids, resource limits, no_new_privs.

The order of dropping is the caller's; each function here does one thing to the calling process.
Sources: capabilities(7), prctl(2), credentials(7), prlimit(2).
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cove.kernel import syscalls

CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID "
    "CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW "
    "CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT "
    "CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD "
    "CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG "
    "CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE"
).split()
"""Every capability, at the index that is its number."""

_NUMBERS = {name: number for number, name in enumerate(CAPABILITIES)}

_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 4, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_PASSES_MODES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

RLIMITS = {
    name: number
    for number, name in enumerate(
        "RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE "
        "RLIMIT_MEMLOCK RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO "
        "RLIMIT_RTTIME".split()
    )
}
"""The kernel's numbers (asm-generic/resource.h)."""


def capability_mask(names: Iterable[str]) -> int:
    """Names with the CAP_ prefix as a bit mask; ValueError names an unknown one."""
    mask = 0
    for name in names:
        if name not in _NUMBERS:
            raise ValueError(f"unknown capability {name}")
        mask |= 1 << _NUMBERS[name]
    return mask


def last_capability() -> int:
    """The number of the newest capability that this kernel knows (capabilities(7)); the last there could be, if it
    does not tell.
    """
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 63


def bounding() -> int:
    """The bounding set of this process as a bit mask: what it and its children may ever have."""
    mask = 0
    for number in range(len(CAPABILITIES)):
        try:
            mask |= syscalls.prctl(_PR_CAPBSET_READ, number) << number
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # beyond the kernel's last capability
            raise
    return mask


def limit_bounding(keep: int) -> None:
    """Drop every capability that is not in the mask `keep` from the bounding set."""
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            syscalls.prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # beyond the kernel's last capability
            raise


def set_capabilities(effective: int, permitted: int, inheritable: int, ambient: int) -> None:
    """Set all sets but the bounding one; ambient capabilities must be permitted and inheritable."""
    syscalls.capset(effective, permitted, inheritable)
    syscalls.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in range(64):
        if ambient >> number & 1:
            syscalls.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number)


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same user may look into this process (/proc/PID/fd, ptrace, core dumps)."""
    syscalls.prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """No execve may gain rights from here on."""
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become(uid: int, gid: int, groups: Iterable[int] | None) -> None:
    """Take the ids (real, effective, saved) and supplementary groups, see `set_groups`."""
    set_groups(groups, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def set_groups(groups: Iterable[int] | None, gid: int) -> None:
    """Take the supplementary groups of somebody whose own group is `gid`; None keeps those there are.

    Where a user namespace forbids it (its maker had no rights) they stay, if none but the own one is asked for.
    """
    if groups is None:
        return
    wanted = list(groups)
    try:
        os.setgroups(wanted)
    except PermissionError:
        if set(wanted) - {gid}:
            raise


def own_files(uid: int, gid: int) -> None:
    """Make files as somebody else, with every right to those of others that this process has (credentials(7))."""
    syscalls.setfsid(uid, gid)
    _, permitted, inheritable = syscalls.capget()
    syscalls.capset(permitted, permitted, inheritable)


@contextmanager
def looking_as(uid: int, gid: int) -> Iterator[None]:
    """Within, files are found with the rights of this user, and without that of passing any mode."""
    effective, permitted, inheritable = syscalls.capget()
    before = syscalls.setfsid(uid, gid)
    if uid:
        syscalls.capset(effective & ~_PASSES_MODES, permitted, inheritable)
    try:
        yield
    finally:
        syscalls.setfsid(*before)
        syscalls.capset(effective, permitted, inheritable)


def set_rlimit(name: str, soft: int, hard: int, pid: int = 0) -> bool:
    """Set a limit of `pid`, 0 for this process; -1 and 2^64-1 are unlimited. False when it is lower than asked.

    A hard limit above the present one needs CAP_SYS_RESOURCE; without it, the limit goes as high as it may.
    """
    number = RLIMITS[name]
    unlimited = (1 << 64) - 1
    wanted_soft, wanted_hard = (value & unlimited for value in (soft, hard))
    pair = [resource.RLIM_INFINITY if value == unlimited else value for value in (wanted_soft, wanted_hard)]
    try:
        resource.prlimit(pid, number, (pair[0], pair[1]))
        return True
    except (PermissionError, ValueError):
        present = resource.prlimit(pid, number)[1] & unlimited
    ceiling = min(wanted_hard, present)
    lowered = [
        resource.RLIM_INFINITY if value == unlimited else value for value in (min(wanted_soft, ceiling), ceiling)
    ]
    resource.prlimit(pid, number, (lowered[0], lowered[1]))
    return False
