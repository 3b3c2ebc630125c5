"""System calls as values: what a process must do to itself, done here or told to one that waits (a stub).

    operation  = a call's number, up to six arguments, the one errno that is no failure
    argument   = a number · bytes, of which the call gets the address · a Descriptor · a Record, bytes with addresses

`perform` does one in this process. `encode` makes a program of many, which `cove/runtime/native/stub.c` reads:

    operations, pointers, size of data, descriptor to give back (4 × 4 bytes)
    each operation: call, tolerated (2 × 2 bytes) · kinds (8 bytes) · returned (4 bytes) · arguments (6 × 8 bytes)
    each pointer: place in the data, place in the data whose address belongs there (2 × 4 bytes)
    data

Numbers of calls are those of x86-64 and of the generic table. Sources: the man pages and the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_X86 = os.uname().machine == "x86_64"


def _number(x86: int, generic: int) -> int:
    return x86 if _X86 else generic


_WRITE, _IOCTL, _FCHDIR = _number(1, 64), _number(16, 29), _number(81, 50)
_DUP3, _SETSID, _UMASK, _RECVFROM = _number(292, 24), _number(112, 157), _number(95, 166), _number(45, 207)
_SETGROUPS, _SETRESGID, _SETRESUID = _number(116, 159), _number(119, 149), _number(117, 147)
_PRCTL, _CAPSET, _SECCOMP = _number(157, 167), _number(126, 91), _number(317, 277)
_KEYCTL, _SETNS, _UNSHARE = _number(250, 219), _number(308, 268), _number(272, 97)
_PERSONALITY, _SIGACTION, _SIGPROCMASK = _number(135, 92), _number(13, 134), _number(14, 135)
_EXECVE, _EXIT = _number(59, 221), _number(231, 94)
SPLIT = 0xFFFF
"""No system call: the stub goes on as a child of itself, and stays behind as its init."""

_HEAD, _OPERATION, _POINTER, _ADDRESS = (struct.Struct(each) for each in ("=IIIi", "=HH8sI6Q", "=II", "=Q"))
_IMMEDIATE, _DATA, _DESCRIPTOR = 0, 1, 2
_LONG = (1 << 64) - 1
_SIG_SETMASK = 2
_SIGSET_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class Descriptor(NamedTuple):
    """A descriptor of this process; a stub gets its own of the same open file."""

    fd: int


class Record(NamedTuple):
    """A structure: at each of the offsets lies the address of those bytes."""

    content: bytes
    pointers: tuple[tuple[int, bytes], ...]


Argument = int | bytes | Descriptor | Record


class Operation(NamedTuple):
    """One system call; `name` is told with its failure, `tolerated` an errno that is none.

    `returned`: its result is a descriptor, which the stub gives away.
    """

    name: str
    call: int
    arguments: tuple[Argument, ...] = ()
    tolerated: int = 0
    returned: bool = False


# ── the calls ─────────────────────────────────────────────────────────────────────────────────────


def write(fd: int, content: bytes) -> Operation:
    """write(2) of a few bytes."""
    return Operation("write", _WRITE, (Descriptor(fd), content, len(content)))


def duplicate(fd: int, number: int) -> Operation:
    """dup3(2): `fd` as the descriptor `number`, another one, which an execve keeps."""
    return Operation("dup3", _DUP3, (Descriptor(fd), number, 0))


def discard(fd: int) -> Operation:
    """recvfrom(2) of nothing: the next packet of a SEQPACKET socket is gone."""
    return Operation("recvfrom", _RECVFROM, (Descriptor(fd), 0, 0))


def ioctl(number: int, request: int, argument: int) -> Operation:
    """ioctl(2) on one of the descriptors 0 to 2."""
    return Operation("ioctl", _IOCTL, (number, request, argument))


def change_directory(fd: int) -> Operation:
    """fchdir(2)."""
    return Operation("fchdir", _FCHDIR, (Descriptor(fd),))


def new_session() -> Operation:
    """setsid(2)."""
    return Operation("setsid", _SETSID)


def join_session_keyring(name: str) -> Operation:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING)."""
    return Operation("keyctl", _KEYCTL, (1, name.encode() + b"\0"))


def setns(fd: int, flags: int) -> Operation:
    """setns(2)."""
    return Operation("setns", _SETNS, (Descriptor(fd), flags))


def open_filesystem(fstype: str) -> Operation:
    """fsopen(2): a context, which remembers the pid namespace of who opened it."""
    return Operation("fsopen", 430, (fstype.encode() + b"\0", 1), returned=True)


def unshare(flags: int) -> Operation:
    """unshare(2)."""
    return Operation("unshare", _UNSHARE, (flags,))


def prctl(option: int, *arguments: int, tolerated: int = 0) -> Operation:
    """prctl(2)."""
    return Operation("prctl", _PRCTL, (option, *arguments), tolerated)


def personality(persona: int) -> Operation:
    """personality(2)."""
    return Operation("personality", _PERSONALITY, (persona,))


def setgroups(groups: Sequence[int], tolerated: int = 0) -> Operation:
    """setgroups(2)."""
    content = struct.pack(f"={len(groups)}I", *groups)
    return Operation("setgroups", _SETGROUPS, (len(groups), content), tolerated)


def setresgid(gid: int) -> Operation:
    """setresgid(2): all three."""
    return Operation("setresgid", _SETRESGID, (gid, gid, gid))


def setresuid(uid: int) -> Operation:
    """setresuid(2): all three."""
    return Operation("setresuid", _SETRESUID, (uid, uid, uid))


def capset(effective: int, permitted: int, inheritable: int) -> Operation:
    """capset(2), version 3; sets are bit masks of 64 bits."""
    low, high = ([each >> shift & 0xFFFFFFFF for each in (effective, permitted, inheritable)] for shift in (0, 32))
    return Operation("capset", _CAPSET, (struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *low, *high)))


def seccomp_filter(program: bytes, flags: int = 0) -> Operation:
    """seccomp(SECCOMP_SET_MODE_FILTER) with the instructions `program` (8 bytes each)."""
    filter_ = Record(struct.pack("=H6xQ", len(program) // 8, 0), ((8, program),))
    return Operation("seccomp", _SECCOMP, (1, flags, filter_))


def default_signal(number: int) -> Operation:
    """rt_sigaction(2): what the kernel does by itself."""
    return Operation("rt_sigaction", _SIGACTION, (number, bytes(32), 0, _SIGSET_BYTES))


def unblock_signals() -> Operation:
    """rt_sigprocmask(2): none is blocked."""
    return Operation("rt_sigprocmask", _SIGPROCMASK, (_SIG_SETMASK, bytes(8), 0, _SIGSET_BYTES))


def umask(mask: int) -> Operation:
    """umask(2)."""
    return Operation("umask", _UMASK, (mask,))


def split(*, foreground: bool) -> Operation:
    """The program goes on in a child, whose init this process is from now on; see stub.c."""
    return Operation("fork", SPLIT, (int(foreground),))


def execve(path: str, args: Iterable[str], env: dict[str, str]) -> Operation:
    """execve(2)."""
    words = [os.fsencode(each) + b"\0" for each in args]
    pairs = [os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items()]
    return Operation("execve", _EXECVE, (os.fsencode(path) + b"\0", _vector(words), _vector(pairs)))


def leave(code: int) -> Operation:
    """exit_group(2)."""
    return Operation("exit_group", _EXIT, (code,))


def _vector(words: Sequence[bytes]) -> Record:
    """An array of addresses, with none at its end."""
    return Record(bytes(8 * len(words) + 8), tuple((8 * at, word) for at, word in enumerate(words)))


# ── here ──────────────────────────────────────────────────────────────────────────────────────────


def perform(operation: Operation) -> int:
    """Do it in this process, which must have a single thread; OSError with the call's name."""
    kept: list[object] = []
    values = [_here(argument, kept) for argument in (*operation.arguments, *(0,) * 6)[:6]]
    result: int = _syscall(ctypes.c_long(operation.call), *values)
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if number == operation.tolerated:
        return result
    raise failure(operation, number)


def failure(operation: Operation, number: int) -> OSError:
    """What a failed operation is told as."""
    return OSError(number, f"{operation.name}: {os.strerror(number)}")


def _here(argument: Argument, kept: list[object]) -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    if isinstance(argument, Descriptor):
        return ctypes.c_long(argument.fd)
    if isinstance(argument, bytes):
        kept.append(argument)
        return ctypes.c_char_p(argument)
    content = bytearray(argument.content)
    for at, target in argument.pointers:
        kept.append(target)
        _ADDRESS.pack_into(content, at, ctypes.cast(ctypes.c_char_p(target), ctypes.c_void_p).value or 0)
    record = ctypes.create_string_buffer(bytes(content), len(content))
    kept.append(record)
    return record


# ── elsewhere ─────────────────────────────────────────────────────────────────────────────────────


class Program:
    """Operations for a stub, and the descriptors that go with them; `sent`: how many it has from earlier ones."""

    def __init__(self, sent: int = 0) -> None:
        self.fds: list[int] = []
        self._sent = sent
        self._operations: list[bytes] = []
        self._pointers: list[bytes] = []
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._operations)

    def give(self, fd: int) -> int:
        """The index that `fd` gets; it must stay open until the program is sent."""
        self.fds.append(fd)
        return self._sent + len(self.fds) - 1

    def add(self, operation: Operation) -> None:
        """Do this too."""
        kinds, values = bytearray(8), [0] * 6
        for at, argument in enumerate(operation.arguments):
            if isinstance(argument, int):
                values[at] = argument & _LONG
            elif isinstance(argument, Descriptor):
                kinds[at], values[at] = _DESCRIPTOR, self.give(argument.fd)
            else:
                kinds[at], values[at] = _DATA, self._place(argument)
        self._operations.append(
            _OPERATION.pack(operation.call, operation.tolerated, kinds, operation.returned, *values)
        )

    def _place(self, argument: bytes | Record) -> int:
        pad = -len(self._data) % 8
        place = len(self._data) + pad
        if isinstance(argument, bytes):
            self._data += bytes(pad) + argument
            return place
        self._data += bytes(pad) + argument.content
        for at, target in argument.pointers:
            self._pointers.append(_POINTER.pack(place + at, len(self._data)))
            self._data += target
        return place

    def encode(self, back: int = -1) -> bytes:
        """As the stub reads it; `back`: the index of the descriptor to come back with a failure."""
        head = _HEAD.pack(len(self._operations), len(self._pointers), len(self._data), back)
        return b"".join((head, *self._operations, *self._pointers, self._data))
