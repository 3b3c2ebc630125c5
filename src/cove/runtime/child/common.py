"""What every process between clone3 and execve shares: its descriptors, its barrier, and how it says that it failed.

Such a process holds a copy of the supervisor's memory and must act alone: it imports nothing, keeps no
descriptor but the ones it was given, is not dumpable, and ends by execve or with one `Failed` on its sync socket.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import msgspec

from cove.kernel import mounts, operations, privileges, syscalls
from cove.kernel.cgroups import Birthplace
from cove.runtime.child import pid1
from cove.runtime.messages import ROOT, Failed, Go, Ready


class ChildStdio(msgspec.Struct, frozen=True):
    """What becomes descriptors 0, 1 and 2; None is the container's /dev/null.

    `console`: all three are a pty of the container's own devpts instead; its master is sent to the
    supervisor on the gate, with the packet b"pty".
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    console: bool = False

    def descriptors(self) -> list[int]:
        return [fd for fd in (self.stdin, self.stdout, self.stderr) if fd is not None]


class Manner(msgspec.Struct, frozen=True):
    """What a child is told besides its spec, most of it by the command of an OCI runtime.

    `hold`: say `Ready` on sync before waiting for Go, and run the spec's hooks.
    `listener`: a listening socket; Go comes from whoever connects to it, and the connection becomes sync.
    `preserved`: so many descriptors from 3 on go to the program.
    `keyring`: a session keyring of its own. `pivot`: pivot_root; else the root is moved and chroot does the rest.
    `link`: a socket to the helper outside, for a container with a user namespace of its own (`runtime.outside`).
    `rootless`: its maker has no rights on the host, and looks into /proc/PID as its user, until the ids are mapped.
    """

    hold: bool = False
    listener: int | None = None
    preserved: int = 0
    keyring: bool = True
    pivot: bool = True
    link: int | None = None
    rootless: bool = False


ORDINARY = Manner()
"""How the supervisor's children are made."""


class Failure(Exception):
    """A step failed for a reason that has a sentence of its own."""

    def __init__(self, message: str, *, number: int = 0, exit_code: int = 125) -> None:
        super().__init__(message)
        self.message = message
        self.number = number
        self.exit_code = exit_code


# Made at import: after pivot_root nothing may be imported or looked up any more.
_encode_failed = msgspec.json.Encoder().encode
decode_go = msgspec.json.Decoder(Go).decode
_encode_failed(Failed(stage="", errno=0, message=""))
decode_go(b'{"type":"Go"}')
_READY = msgspec.json.encode(Ready())
GO_BYTES = 1 << 16
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def hide(*, dumpable: bool = False) -> None:
    """Be of no use to anybody who looks at this process, change nothing behind its back, and load no more code.

    A module or codec that was looked for in a container's mount namespace would be the container's.
    """
    sys.meta_path.clear()
    # A collected object of the forking process would close numbers that are ours by now.
    gc.disable()
    privileges.set_dumpable(dumpable)


def enter(place: Birthplace, sync_fd: int) -> None:
    """Join the control group, or end with the reason told to the daemon."""
    try:
        place.enter()
    except OSError as error:
        failure = no_entry(error)
        os.write(sync_fd, _encode_failed(Failed(stage="cgroup", errno=failure.number, message=failure.message)))
        os._exit(125)


Explain = Callable[[OSError], Exception]
"""Words for a failed operation."""


def no_entry(error: OSError) -> Failure:
    """A control group could not be entered."""
    message = f"The kernel lets no process into the container's control group: {os.strerror(error.errno or 0)}"
    return Failure(message, number=error.errno or 0)


class Child:
    """One such process: `stage` says what it is doing, for the report of a failure.

    What it must do to itself is an operation, and given to `act`: `cove.runtime.child.stub.Stub` is the same for a
    process that has somebody else work for it, and does these alone. `pid`: 0, this process.
    """

    def __init__(self, sync_fd: int, gate_fd: int, manner: Manner = ORDINARY) -> None:
        self.sync_fd = sync_fd
        self.gate_fd = gate_fd
        self.manner = manner
        self.kept: int | None = None
        self.pid = 0
        self._stage = "setup"
        self._admitted = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens within belongs to the stage `name`."""
        self._stage = name
        yield

    def act(self, operation: operations.Operation, explain: Explain | None = None) -> None:
        """Do it; a failure is raised here, or by a later call."""
        try:
            if operation.call == operations.SPLIT:
                pid1.split(foreground=bool(operation.arguments[0]))
            else:
                operations.perform(operation)
        except OSError as error:
            if explain is None:
                raise
            raise explain(error) from None

    def follow(self, kinds: int, procs: int = 0) -> None:
        """Have whoever works for this process in its namespaces of these `kinds` (CLONE_NEW* flags), as it is.

        `procs`: how often `open_proc` will be called.
        """

    def open_proc(self) -> int:
        """The context of a new procfs of the process' pid namespace (fsopen(2))."""
        return syscalls.fsopen("proc", mounts.FSOPEN_CLOEXEC)

    @property
    def own_proc(self) -> int | None:
        """A procfs in which whoever does the work is "self", where that is not held by the process' control group."""
        return None

    def files(self) -> str:
        """The process' directory in the host's /proc."""
        return "/proc/self"

    def seen_in(self, proc: int) -> tuple[int, int]:
        """A verified procfs, which `proc` is, and the process' number there."""
        return proc, os.getpid()

    def isolate(self, keep: list[int]) -> None:
        """Close every descriptor above 2 but the sockets, `keep` and preserved ones; be hidden; have no umask."""
        hide(dumpable=self.manner.rootless)
        os.umask(0)
        following = 3 + self.manner.preserved
        if self.manner.listener is not None:
            keep = [*keep, self.manner.listener]
        if self.manner.link is not None:
            keep = [*keep, self.manner.link]
        for fd in sorted({self.sync_fd, self.gate_fd, *keep}):
            if fd > following:
                syscalls.close_range(following, fd - 1)
            following = max(following, fd + 1)
            os.set_inheritable(fd, False)
        syscalls.close_range(following)

    def outer_user(self, uid: int) -> int:
        """What a user of the process' is to whoever works for it; Failure when that is nobody."""
        return uid

    def outer_group(self, gid: int) -> int:
        """The same of a group."""
        return gid

    def most(self) -> int:
        """The capabilities that the process may have at all (a bit mask)."""
        return syscalls.capget()[1]

    def shed(self) -> None:
        """Close everything above 2 but what is preserved, the two sockets and `kept`, which execve closes."""
        following = 3 + self.manner.preserved
        for fd in sorted({self.sync_fd, self.gate_fd, self.sync_fd if self.kept is None else self.kept}):
            syscalls.close_range(following, fd - 1)
            following = fd + 1
        syscalls.close_range(following)

    def wait_for_gate(self) -> None:
        """Until the supervisor has put this process in its place (once); end silently if it died instead."""
        if not self._admitted and not os.read(self.gate_fd, 16):
            os._exit(125)
        self._admitted = True

    def ask(self, question: bytes) -> bytes:
        """A packet to the maker, and its answer; end silently if it died instead."""
        self.wait_for_gate()
        os.write(self.gate_fd, question)
        answer = os.read(self.gate_fd, GO_BYTES)
        if not answer:
            os._exit(125)
        return answer

    def send_master(self, master: int) -> None:
        """Hand the pty's master to the supervisor."""
        with socket.socket(fileno=os.dup(self.gate_fd)) as gate:
            socket.send_fds(gate, [b"pty"], [master])

    def lend_root(self, root: int) -> None:
        """Let the daemon hold the root too."""
        with socket.socket(fileno=os.dup(self.sync_fd)) as sync, suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(sync, [ROOT], [root])

    def wait_for_go(self) -> Go:
        """Until the daemon says Go; end silently if it died instead."""
        if self.manner.hold:
            os.write(self.sync_fd, _READY)
        if self.manner.listener is not None:
            # The kernel passes over what the first process of a pid namespace has no handler for.
            for number in _ENDING:
                signal.signal(number, lambda received, _: os._exit(128 + received))
            self._accept(self.manner.listener)
        packet = os.read(self.sync_fd, GO_BYTES)
        if not packet:
            os._exit(125)
        return decode_go(packet)

    def _accept(self, listener: int) -> None:
        """Whoever connects first takes the place of the process that made this one; nobody else can any more."""
        with socket.socket(fileno=listener) as waiting:
            connection, _ = waiting.accept()
            with connection:
                os.dup2(connection.fileno(), self.sync_fd, inheritable=False)

    def run(self, work: Callable[[], NoReturn]) -> NoReturn:
        """Do `work`, which ends in execve; whatever goes wrong in it is reported, and ends this process."""
        try:
            work()
        except BaseException as error:  # the only way out of a forked child is _exit
            self._report(error)
        finally:
            os._exit(125)

    def _report(self, error: BaseException) -> None:
        try:
            os._exit(self.tell(error))
        finally:
            os._exit(125)

    def tell(self, error: BaseException) -> int:
        """Say on sync what went wrong; the exit code that goes with it."""
        failed = _describe(self._stage, error)
        try:
            os.write(self.sync_fd, _encode_failed(failed))
        except OSError as gone:
            # The daemon went away: nobody is left to tell.
            if gone.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
        return failed.exit_code


def _describe(stage: str, error: BaseException) -> Failed:
    if isinstance(error, Failure):
        return Failed(stage=stage, errno=error.number, message=error.message, exit_code=error.exit_code)
    if isinstance(error, OSError):
        path = f" {error.filename}" if error.filename else ""
        text = f"{stage}{path}: {error.strerror or error}"
        return Failed(stage=stage, errno=error.errno or 0, message=text)
    return Failed(stage=stage, errno=0, message=f"{stage}: {type(error).__name__}: {error}")
