"""SIGKILL at an exact system call, so that every window between two of them is tried, not the ones chance finds.

    trial(n) ── fork ──▶ child: runs the work, traced          its n-th stop: SIGKILL
                             stop 1, 2, 3 … = each system call's entry and exit, in turn

What a process leaves in the kernel changes only by system calls; a work that is killed at each of its stops has
been killed in every state that another process can ever see. ptrace(2), without a tool that would have to be there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable

_TRACEME, _SYSCALL, _SEIZE, _INTERRUPT, _SETOPTIONS = 0, 24, 0x4206, 0x4207, 0x4200
_GET_SYSCALL_INFO = 0x420E
_TRACESYSGOOD, _EXITKILL = 0x1, 0x100000
_WALL = 0x40000000
_NUMBERS = {"x86_64": {"sendmsg": 46, "waitid": 247}, "aarch64": {"sendmsg": 211, "waitid": 95}}
_STOP = signal.SIGTRAP | 0x80
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request} of {pid}")


def trial(work: Callable[[], None], stop: int) -> bool:
    """Run `work` in a child that is killed at its `stop`-th stop; whether it came to its end before that."""
    pid = os.fork()
    if pid == 0:
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, _TRACESYSGOOD | _EXITKILL)
    status = _run(pid, stop)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return False
    assert status == 0, f"the work itself failed: {status}"
    return True


def kill_before(pid: int, calls: tuple[str, ...], begin: Callable[[], object]) -> bool:
    """Kill a process of one thread that runs already, after `begin`, where it enters the last of these system calls,
    which follow each other without another between them; False when it ended by itself before."""
    _ptrace(_SEIZE, pid, _TRACESYSGOOD | _EXITKILL)
    _ptrace(_INTERRUPT, pid)
    os.waitpid(pid, _WALL)
    begin()
    wanted = [_NUMBERS[platform.machine()][call] for call in calls]
    seen: list[int] = []
    while seen[-len(wanted) :] != wanted:
        if _run(pid, 1) is not None:
            return False
        if (number := _entered(pid)) is not None:
            seen.append(number)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, _WALL)
    return True


def _entered(pid: int) -> int | None:
    """The number of the system call at whose entry it stands; None at its exit."""
    about = ctypes.create_string_buffer(88)
    if _libc.ptrace(_GET_SYSCALL_INFO, pid, len(about), ctypes.addressof(about)) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace of {pid}")
    kind, number = struct.unpack_from("=B23xQ", about.raw)
    return number if kind == 1 else None


def _run(pid: int, stops: int) -> int | None:
    """Let it run to its `stops`-th stop: None; or how it ended before (as of waitpid)."""
    told = 0
    while stops:
        _ptrace(_SYSCALL, pid, told)
        _, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            return status
        told = 0
        if os.WSTOPSIG(status) == _STOP:
            stops -= 1
        elif status >> 16 == 0:
            told = os.WSTOPSIG(status)
    return None
