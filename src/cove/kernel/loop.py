"""Loop devices: a file as a block device, for as long as something has it open or mounted (loop(4)).

A file must never be two block devices: two file systems would write to it without knowing of each other. So
whoever looks for its device, or makes it, holds a lock on the file until the device is in use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cove.kernel import mounts

_GET_FREE, _CONFIGURE, _GET_STATUS = 0x4C82, 0x4C0A, 0x4C05
_AUTOCLEAR = 4
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")
_CONFIG = struct.Struct("=II")
_RESERVED = bytes(64)
_TRIES = 20


@contextmanager
def device(path: str) -> Iterator[str]:
    """The block device that the file `path` is, held meanwhile; the kernel frees it after its last use.

    Raises OSError, also where the kernel has no loop devices.
    """
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        opened, name = _existing(lock, path) or _new(path)
        try:
            yield name
        finally:
            os.close(opened)
    finally:
        os.close(lock)


def mount(kind: str, path: str, data: Iterable[str], attributes: int = 0) -> int:
    """A detached mount of the file system that the file `path` holds. Raises OSError."""
    with device(path) as name:
        return mounts.new_filesystem(kind, name, data, attributes)


def _existing(lock: int, path: str) -> tuple[int, str] | None:
    inode = os.fstat(lock).st_ino
    for disk in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{disk}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
                if file.read().rstrip("\n") != os.path.realpath(path):
                    continue
            name = f"/dev/{disk}"
            opened = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # no loop device, or one that is being freed
        status = bytearray(_INFO.size)
        try:
            fcntl.ioctl(opened, _GET_STATUS, status)
            if _INFO.unpack(status)[1] == inode:
                return opened, name
        except OSError:
            pass  # freed meanwhile
        os.close(opened)
    return None


def _new(path: str) -> tuple[int, str]:
    # Not the descriptor that the lock is on: the device keeps what it is given, and would keep the lock.
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return _configured(file, path)
    finally:
        os.close(file)


def _configured(file: int, path: str) -> tuple[int, str]:
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, os.fsencode(path)[:63], b"", b"", 0, 0)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            name = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            opened = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(opened, _CONFIGURE, bytearray(_CONFIG.pack(file, 0) + info + _RESERVED))
            except OSError as error:
                os.close(opened)
                if error.errno != errno.EBUSY:  # another one took it
                    raise
                continue
            return opened, name
        raise OSError(errno.EBUSY, "no loop device stays free", path)
    finally:
        os.close(control)
