"""How much a pipe holds."""

from __future__ import annotations

import fcntl

_F_SETPIPE_SZ = 1031
_LEAST = 128 << 10

CAPACITY = 64 << 10
"""Bytes that a pipe holds unless told otherwise (sixteen pages)."""


def widen(fd: int, size: int) -> None:
    """Let a pipe hold `size` bytes, or as many as its user may still have; at worst it stays as it is.

    Without CAP_SYS_RESOURCE all pipes of a user together hold /proc/sys/fs/pipe-user-pages-soft pages, and each
    at most pipe-max-size bytes (pipe(7)); beyond that the kernel refuses a wish with EPERM.
    """
    while size >= _LEAST:
        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, size)
        except OSError:
            size //= 2
        else:
            return
