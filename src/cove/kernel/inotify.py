"""inotify(7): being told when files change."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

MODIFY = 0x2
CREATE = 0x100
DELETE = 0x200
MOVED_FROM = 0x40
MOVED_TO = 0x80
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("=iIII")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


def _check(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", path)
    return result


def open_instance() -> int:
    """A new, non-blocking instance."""
    return _check(_libc.inotify_init1(_NONBLOCK_CLOEXEC), "inotify_init1")


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path`; the watch's number. One path of one instance has one watch, whose mask is replaced."""
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), mask), "inotify_add_watch", path)


def remove_watch(fd: int, watch: int) -> None:
    """Stop watching; a watch that went with its file is no error."""
    _libc.inotify_rm_watch(fd, watch)


def events(fd: int) -> Iterator[int]:
    """The numbers of the watches that something happened to; -1 when events were lost (look at everything)."""
    try:
        data = os.read(fd, 1 << 16)
    except BlockingIOError:
        return
    at = 0
    while at < len(data):
        watch, _, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        yield watch
