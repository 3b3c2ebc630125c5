"""Processes: making one with clone3, and holding on to it by pidfd instead of by number.

A pid may be reused; a pidfd never is. A pid on disk is only believed together with its start time and the
boot it belongs to (`start_ticks`, `boot_id`).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
from contextlib import suppress

from cove.kernel import syscalls
from cove.kernel.procstat import boot_id as boot_id
from cove.kernel.procstat import start_ticks as start_ticks
from cove.kernel.procstat import stat_fields
from cove.kernel.procstat import zombie_status as zombie_status

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
_CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

_PR_SET_NAME = 15
_NR_CLONE3 = 435
# PyDLL keeps the interpreter lock: no other thread can run Python between the fork hooks and the call.
_locked = ctypes.PyDLL(None, use_errno=True)
_syscall = _locked.syscall
_syscall.restype = ctypes.c_long
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
for _hook in (_before_fork, _after_fork_child, _after_fork_parent):
    _hook.argtypes = []
    _hook.restype = None


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone(flags: int, *, cgroup_fd: int | None = None, sibling: bool = False, alone: bool = False) -> tuple[int, int]:
    """Fork with clone3(2) and CLONE_NEW* `flags`: (pid, pidfd) in the parent, (0, -1) in the child.

    `cgroup_fd`: a cgroup v2 directory that the child is born in. `sibling`: its parent is this process' own
    parent, which also gets this process' exit signal for it (CLONE_PARENT). The pidfd is close-on-exec.
    `alone`: this process has a single thread and always had, so that no lock is held by anybody that the child
    lacks: the interpreter's own preparations and repairs, a tenth of all pages that a child touches, are left out.
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=flags
        | CLONE_PIDFD
        | (CLONE_INTO_CGROUP if cgroup_fd is not None else 0)
        | (_CLONE_PARENT if sibling else 0),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=0 if sibling else signal.SIGCHLD,
        cgroup=cgroup_fd if cgroup_fd is not None else 0,
    )
    pointer, size = ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments))
    number = ctypes.c_long(_NR_CLONE3)
    if not alone:
        _before_fork()
    pid: int = _syscall(number, pointer, size)
    if pid == 0:
        if not alone:
            _after_fork_child()
        return 0, -1
    reason = ctypes.get_errno()
    if not alone:
        _after_fork_parent()
    if pid < 0:
        raise OSError(reason, f"clone3: {os.strerror(reason)}")
    return pid, pidfd.value


def retitle(title: str) -> None:
    """Change what ps(1) shows of this process: its name (15 bytes of it) and its whole command line.

    A fork that goes on without execve otherwise shows, to whom it serves, the words its parent was called with.
    """
    encoded = os.fsencode(title)
    name = ctypes.create_string_buffer(os.path.basename(encoded)[:15])
    syscalls.prctl(_PR_SET_NAME, ctypes.addressof(name))
    fields = stat_fields(os.getpid())
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc_pid_stat(5)
    if start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, encoded, min(len(encoded), end - start - 1))


def pidfd_open(pid: int) -> int:
    """A pidfd of `pid`; ProcessLookupError when there is no such process (or it was reaped)."""
    return os.pidfd_open(pid)


def pid_of(pidfd: int) -> int:
    """The number of the process `pidfd` as this machine's /proc shows it; -1 when it is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise OSError(errno.EBADF, "not a pidfd")


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; False when the process has ended already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def has_ended(pidfd: int) -> bool:
    """Whether it is over, reaped or not (pidfd_open(2): it is readable then)."""
    look = select.poll()
    look.register(pidfd, select.POLLIN)
    return bool(look.poll(0))


def reopen(pid: int, ticks: int, boot: str) -> int | None:
    """A pidfd of the very process that was noted as (`pid`, `ticks`, `boot`), or None when it is gone."""
    if boot != boot_id():
        return None
    try:
        pidfd = pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if start_ticks(pid) == ticks:
            return pidfd
    except ProcessLookupError:
        pass
    os.close(pidfd)
    return None


_INFO_SIZE = 64
_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 3 << 30 | _INFO_SIZE << 16 | 0xFF << 8 | 11


def exit_info(pidfd: int) -> int | None:
    """The wait status of a process that was reaped by whomever (PIDFD_GET_INFO, kernel 6.15), else None.

    None too where the kernel does not tell. The status is in wait(2)'s form (os.waitstatus_to_exitcode).
    """
    buffer = bytearray(struct.pack("=Q", _INFO_EXIT).ljust(_INFO_SIZE, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ESRCH):
            return None
        raise
    mask: int = struct.unpack_from("=Q", buffer, 0)[0]
    status: int = struct.unpack_from("=i", buffer, 60)[0]
    return status if mask & _INFO_EXIT else None


def exit_code(status: int) -> int:
    """A wait status as the exit code that shells show: 128+n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def remembers_ends() -> bool:
    """Whether `exit_info` works here, tried with a child that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        return exit_info(pidfd) is not None
    finally:
        os.close(pidfd)


def children_of_other_sessions() -> list[int]:
    """The children of this process, zombies too, that are not in its session (setsid(2))."""
    own, session, found = os.getpid(), os.getsid(0), []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                fields = stat_fields(int(name))
                if int(fields[1]) == own and int(fields[3]) != session:
                    found.append(int(name))
    return found


def ended(pidfd: int) -> int | None:
    """How a child of ours ended: its exit code (128+n for signal n), or None while it runs. It stays a zombie.

    Raises ChildProcessError when it is no child of ours (any more).
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is None or result.si_pid == 0:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def reap(pidfd: int) -> bool:
    """Let a child of ours that ended go, and with it what the kernel knows of its end; whether it is gone.

    It is not while somebody traces it: a tracee's end is its tracer's to see first (ptrace(2)), and nobody is told
    when that one has let go of it. It is to be tried again.
    """
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
