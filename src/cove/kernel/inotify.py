"""inotify(7): to be told when files in a directory grow, appear or go."""

from __future__ import annotations

import ctypes
import os
import struct

IN_MODIFY = 0x2
IN_CREATE = 0x100
IN_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
_libc.inotify_add_watch.restype = ctypes.c_int
_libc.inotify_rm_watch.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.inotify_rm_watch.restype = ctypes.c_int
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_init1.restype = ctypes.c_int


def _check(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", path)
    return result


def init() -> int:
    """A non-blocking, close-on-exec inotify descriptor."""
    return _check(_libc.inotify_init1(IN_CLOEXEC_NONBLOCK), "inotify_init1")


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path`; the number that its events bear."""
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), mask), "inotify_add_watch", path)


def remove_watch(fd: int, watch: int) -> None:
    """Stop watching; a watch whose directory is gone ended by itself."""
    _libc.inotify_rm_watch(fd, watch)


def read_watches(fd: int) -> set[int]:
    """The watches that something has happened to since the last call."""
    found: set[int] = set()
    try:
        while data := os.read(fd, 1 << 16):
            at = 0
            while at < len(data):
                watch, _, _, length = _EVENT.unpack_from(data, at)
                found.add(watch)
                at += _EVENT.size + length
    except BlockingIOError:
        pass
    return found
