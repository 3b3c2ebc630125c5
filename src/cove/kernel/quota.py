"""Project quotas: how much a directory and all below it may hold (ext4, XFS).

    set_project(directory, id) ─▶ what is made below it bears the id ─▶ set_limit(directory, id, bytes)

A file system counts and holds limits when it was mounted with prjquota (ext4 has to be made with the features quota
and project). Every function takes a descriptor of a file or directory on it and raises OSError. Sources: quotactl(2),
linux/quota.h, linux/dqblk_xfs.h, linux/fs.h.
"""

from __future__ import annotations

import fcntl
import os
import struct

from cove.kernel import syscalls

_GETXATTR, _SETXATTR = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=5I8x")  # xflags, extsize, nextents, projid, cowextsize
_INHERITED = 0x200
_PROJECTS = 2
_GETQUOTA, _SETQUOTA, _STATE = 0x800007, 0x800008, 0x5805
_DQBLK = struct.Struct("=8QI4x")  # hard and soft limit in KiB, bytes, the same of inodes, two times, what is valid
_BLOCK_LIMITS = 1
_STATE_SIZE = 256
_ENFORCED = 1 << 5
_FLAGS = struct.Struct("=2xH")  # the version and a gap, then fs_quota_stat's flags


def is_enforced(fd: int) -> bool:
    """Whether the file system holds limits of projects; False too where the kernel is older than 5.14."""
    state = bytearray(_STATE_SIZE)
    state[0] = 1
    try:
        syscalls.quotactl_fd(fd, _STATE << 8 | _PROJECTS, 0, state)
    except OSError:
        return False
    return bool(_FLAGS.unpack_from(state)[0] & _ENFORCED)


def project(fd: int) -> int:
    """The project that a file or directory belongs to, 0 for none."""
    return int(_FSXATTR.unpack(_attributes(fd))[3])


def set_project(fd: int, identity: int) -> None:
    """Put a directory into a project, with all that will be made in it."""
    flags, extent, extents, _, copied = _FSXATTR.unpack(_attributes(fd))
    fcntl.ioctl(fd, _SETXATTR, _FSXATTR.pack(flags | _INHERITED, extent, extents, identity, copied))


def _attributes(fd: int) -> bytes:
    return fcntl.ioctl(fd, _GETXATTR, bytes(_FSXATTR.size))


def set_limit(fd: int, identity: int, size: int) -> None:
    """Let a project have `size` bytes, rounded down to KiB; 0 is no limit."""
    wanted = _DQBLK.pack(size // 1024, size // 1024, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
    syscalls.quotactl_fd(fd, _SETQUOTA << 8 | _PROJECTS, identity, bytearray(wanted))


def usage(fd: int, identity: int) -> tuple[int, int, int]:
    """(bytes, limit in bytes, inodes) of a project; zeros for one that nobody knows."""
    found = bytearray(_DQBLK.size)
    try:
        syscalls.quotactl_fd(fd, _GETQUOTA << 8 | _PROJECTS, identity, found)
    except FileNotFoundError:
        return 0, 0, 0
    hard, _, size, _, _, inodes, *_ = _DQBLK.unpack(found)
    return size, hard * 1024, inodes


def open_directory(path: str | os.PathLike[str]) -> int:
    """A descriptor of a directory of Cove's own, which ioctls take."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
