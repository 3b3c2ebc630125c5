"""Linux system calls that Python's standard library lacks, one small total function each.

Owns the ctypes bindings; holds no policy. Every function raises OSError with the call's name in the text and
the path, when there is one, as its filename. Numbers are those of x86-64 and of the generic table (arm64,
riscv64); calls from 424 on have one number everywhere. Sources: the man pages and the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Collection
from ctypes import c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

_X86 = os.uname().machine == "x86_64"
_NR_PIVOT_ROOT = 155 if _X86 else 41
_NR_CAPGET = 125 if _X86 else 90
_NR_CAPSET = 126 if _X86 else 91
_NR_KEYCTL = 250 if _X86 else 219
_NR_SECCOMP = 317 if _X86 else 277
_NR_IOPRIO_SET = 251 if _X86 else 30
_NR_SCHED_SETATTR = 314 if _X86 else 274
_NR_SET_MEMPOLICY = 238 if _X86 else 237
_NR_PERSONALITY = 135 if _X86 else 92
_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 428, 429, 430, 431, 432
_NR_CLOSE_RANGE, _NR_OPENAT2, _NR_MOUNT_SETATTR, _NR_QUOTACTL_FD = 436, 437, 442, 443

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = c_long


def _bind(name: str, *argtypes: type) -> ctypes._NamedFuncPointer:
    function: ctypes._NamedFuncPointer = getattr(_libc, name)
    function.argtypes = list(argtypes)
    function.restype = c_int
    return function


_mount = _bind("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _bind("umount2", c_char_p, c_int)
_setns = _bind("setns", c_int, c_int)
_unshare = _bind("unshare", c_int)
_prctl = _bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_fstatfs = _bind("fstatfs", c_int, c_void_p)
_sethostname = _bind("sethostname", c_char_p, ctypes.c_size_t)
_setdomainname = _bind("setdomainname", c_char_p, ctypes.c_size_t)
_setfsuid = _bind("setfsuid", c_uint)
_setfsgid = _bind("setfsgid", c_uint)
_syncfs = _bind("syncfs", c_int)
_renameat2 = _bind("renameat2", c_int, c_char_p, c_int, c_char_p, c_uint)


_ENCODING = sys.getfilesystemencoding()


def _path(path: str | None) -> bytes | None:
    """As os.fsencode, for the many calls of a start."""
    return None if path is None else path.encode(_ENCODING, "surrogateescape")


def _check(result: int, call: str, path: str | None = None) -> int:
    """`result`, or OSError(errno, "call: reason", path) when it is negative."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if path is None:
        raise OSError(number, f"{call}: {os.strerror(number)}")
    raise OSError(number, f"{call}: {os.strerror(number)}", path)


def _call(name: str, number: int, *arguments: object, path: str | None = None) -> int:
    """A raw system call whose arguments are already ctypes values of the right width."""
    return _check(_syscall(c_long(number), *arguments), name, path)


def syncfs(fd: int) -> None:
    """Write to the disk all that the file system of `fd` has in memory (sync(2))."""
    _check(_syncfs(fd), "syncfs")


# ── mounts ────────────────────────────────────────────────────────────────────────────────────────


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _check(_mount(_path(source), _path(target), _path(fstype), flags, _path(data)), "mount", target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _check(_umount2(_path(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", _NR_PIVOT_ROOT, c_char_p(_path(new_root)), c_char_p(_path(put_old)), path=new_root)


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """open_tree(2): a descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy of it."""
    return _call("open_tree", _NR_OPEN_TREE, c_int(dir_fd), c_char_p(_path(path)), c_uint(flags), path=path)


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """move_mount(2)."""
    _call(
        "move_mount",
        _NR_MOVE_MOUNT,
        c_int(from_fd),
        c_char_p(_path(from_path)),
        c_int(to_fd),
        c_char_p(_path(to_path)),
        c_uint(flags),
        path=to_path or None,
    )


def fsopen(fstype: str, flags: int) -> int:
    """fsopen(2): a file system context."""
    return _call("fsopen", _NR_FSOPEN, c_char_p(_path(fstype)), c_uint(flags), path=fstype)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, aux: int = 0) -> None:
    """fsconfig(2)."""
    number, text = c_char_p(_path(key)), c_char_p(_path(value))
    _call("fsconfig", _NR_FSCONFIG, c_int(fd), c_uint(command), number, text, c_int(aux), path=key)


def fsmount(fd: int, flags: int, attributes: int) -> int:
    """fsmount(2): a detached mount of a configured context."""
    return _call("fsmount", _NR_FSMOUNT, c_int(fd), c_uint(flags), c_uint(attributes))


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(
    fd: int,
    path: str,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """mount_setattr(2), kernel 5.12."""
    attr = _MountAttr(attr_set, attr_clear, propagation, userns_fd)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    pointer = ctypes.byref(attr)
    _call(
        "mount_setattr",
        _NR_MOUNT_SETATTR,
        c_int(fd),
        c_char_p(_path(path)),
        c_uint(flags),
        pointer,
        size,
        path=path or None,
    )


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def openat2(dir_fd: int, path: str, flags: int, *, mode: int = 0, resolve: int) -> int:
    """openat2(2), close-on-exec. EAGAIN (a rename raced with "..") is tried again a bounded number of times."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    encoded = c_char_p(_path(path))
    for _ in range(128):
        result: int = _syscall(c_long(_NR_OPENAT2), c_int(dir_fd), encoded, ctypes.byref(how), size)
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    return _check(result, "openat2", path)


def renameat2(from_dir: int, from_path: str, to_dir: int, to_path: str, flags: int) -> None:
    """renameat2(2), for RENAME_NOREPLACE (1), RENAME_EXCHANGE (2) and RENAME_WHITEOUT (4)."""
    _check(_renameat2(from_dir, _path(from_path), to_dir, _path(to_path), flags), "renameat2", to_path)


def quotactl_fd(fd: int, command: int, identity: int, data: bytearray) -> None:
    """quotactl_fd(2), kernel 5.14: `data` is the command's structure, read or written."""
    buffer = (ctypes.c_char * len(data)).from_buffer(data)
    pointer = ctypes.byref(buffer)
    _call("quotactl", _NR_QUOTACTL_FD, c_uint(fd), c_uint(command), c_uint(identity), pointer)


def filesystem_magic(fd: int) -> int:
    """The type of the file system that `fd` lies on, as in statfs(2)'s f_type."""
    buffer = (c_long * 32)()
    _check(_fstatfs(fd, ctypes.byref(buffer)), "fstatfs")
    return int(buffer[0]) & 0xFFFFFFFF


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `first` to `last`, none when that is an empty range."""
    if first > last:
        return
    if _syscall(c_long(_NR_CLOSE_RANGE), c_uint(first), c_uint(last), c_uint(0)) == 0:
        return
    os.closerange(first, min(last + 1, os.sysconf("SC_OPEN_MAX")))


# ── namespaces and credentials ────────────────────────────────────────────────────────────────────


def setns(fd: int, flags: int) -> None:
    """setns(2): `fd` is a namespace, or a pidfd with any set of CLONE_NEW* flags (kernel 5.8)."""
    _check(_setns(fd, flags), "setns")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_unshare(flags), "unshare")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = os.fsencode(name)
    _check(_sethostname(encoded, len(encoded)), "sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    encoded = os.fsencode(name)
    _check(_setdomainname(encoded, len(encoded)), "setdomainname", name)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    return _check(_prctl(option, arg2, arg3, arg4, arg5), "prctl")


def setfsid(uid: int, gid: int) -> tuple[int, int]:
    """setfsuid(2) and setfsgid(2): whose the files are that this process makes, and were; they report no failure."""
    before = _setfsgid(gid)
    return _setfsuid(uid), before


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


_CAPABILITY_VERSION_3 = 0x20080522


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on this process; sets are bit masks of 64 bits."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(
        _CapData(effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF),
        _CapData(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    _call("capset", _NR_CAPSET, ctypes.byref(header), ctypes.byref(data))


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this process as bit masks."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    _call("capget", _NR_CAPGET, ctypes.byref(header), ctypes.byref(data))
    low, high = data[0], data[1]
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def join_session_keyring(name: str) -> int:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): a fresh session keyring called `name`."""
    return _call("keyctl", _NR_KEYCTL, c_int(1), c_char_p(_path(name)), path=name)


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", c_void_p)]


def seccomp_set_filter(program: bytes, flags: int = 0) -> int:
    """seccomp(SECCOMP_SET_MODE_FILTER) with the instructions `program` (8 bytes each).

    Returns 0, or the listener's descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER (8).
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    prog = _SockFprog(len(program) // 8, ctypes.cast(buffer, c_void_p))
    return _call("seccomp", _NR_SECCOMP, c_uint(1), c_uint(flags), ctypes.byref(prog))


# ── scheduling ────────────────────────────────────────────────────────────────────────────────────


def ioprio_set(io_class: int, priority: int, pid: int = 0) -> None:
    """ioprio_set(2) on `pid`, 0 for this process; classes: 1 real time, 2 best effort, 3 idle."""
    _call("ioprio_set", _NR_IOPRIO_SET, c_int(1), c_int(pid), c_int(io_class << 13 | priority))


class _SchedAttr(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def sched_setattr(
    *, policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int, pid: int = 0
) -> None:
    """sched_setattr(2) on `pid`, 0 for this process; times in nanoseconds."""
    attr = _SchedAttr(ctypes.sizeof(_SchedAttr), policy, flags, nice, priority, runtime, deadline, period)
    _call("sched_setattr", _NR_SCHED_SETATTR, c_int(pid), ctypes.byref(attr), c_uint(0))


def personality(persona: int) -> int:
    """personality(2); returns the former one."""
    return _call("personality", _NR_PERSONALITY, c_ulong(persona))


def set_mempolicy(mode: int, nodes: Collection[int]) -> None:
    """set_mempolicy(2): on which NUMA nodes the memory of this process lies."""
    words = max(nodes, default=-1) // 64 + 1
    mask = (ctypes.c_uint64 * max(words, 1))()
    for node in nodes:
        mask[node // 64] |= 1 << node % 64
    pointer = ctypes.byref(mask) if nodes else None
    # The kernel reads one bit less than it is told of.
    _call("set_mempolicy", _NR_SET_MEMPOLICY, c_int(mode), pointer, c_ulong(words * 64 + 1 if nodes else 0))
