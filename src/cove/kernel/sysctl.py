"""Kernel parameters of the network, written through a verified procfs and read back where it matters.

The files under /proc/sys/net are those of the network namespace of the thread that opens them. Nothing is
written before the descriptor is known to lie on a real procfs (fstatfs(2)): a tmpfs or overlay that stands
where /proc is expected gets nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os

PROC_SUPER_MAGIC = 0x9FA0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.fstatfs.restype = ctypes.c_int


def open_net() -> int:
    """A descriptor of /proc/sys/net, verified; the caller closes it."""
    fd = os.open("/proc/sys/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _verify(fd, "/proc/sys/net")
    except OSError:
        os.close(fd)
        raise
    return fd


def read(name: str, *, net: int | None = None) -> str | None:
    """The value of net/`name` ("ipv4/ip_forward"), or None where the kernel has no such parameter."""
    try:
        fd = _open(name, os.O_RDONLY, net)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


def write(name: str, value: int | str, *, net: int | None = None) -> bool:
    """Set net/`name`; whether the kernel has such a parameter. OSError with the path if it refuses.

    `net`: a descriptor of /proc/sys/net to write through, instead of the one now at that path.
    """
    try:
        fd = _open(name, os.O_WRONLY, net)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        raise OSError(error.errno, f"write: {os.strerror(error.errno or 0)}", f"/proc/sys/net/{name}") from None
    finally:
        os.close(fd)
    return True


def _open(name: str, flags: int, net: int | None) -> int:
    path = f"/proc/sys/net/{name}"
    try:
        if net is None:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        else:
            fd = os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=net)
    except OSError as error:
        raise OSError(error.errno, f"open: {os.strerror(error.errno or 0)}", path) from None
    try:
        _verify(fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _verify(fd: int, path: str) -> None:
    """Refuse a file that is not on procfs; statfs's first word is the file system's magic number."""
    buffer = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"fstatfs: {os.strerror(code)}", path)
    if buffer[0] != PROC_SUPER_MAGIC:
        raise OSError(errno.EXDEV, "fstatfs: not a procfs", path)
