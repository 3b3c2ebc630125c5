"""The one moment of create, run and exec when a process is made, and the talk with it until it is ready or fails.

born()  ── clone3 ─▶ Newborn        it joins its control group by itself
Newborn.admit()                     its gate opens
Newborn.attend(on_hooks)            pty and hooks served; returns at Ready (hold), raises StartFailed at Failed
Newborn.go()                        the program runs, or StartFailed says why not
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress

import msgspec

from cove.errors import StartFailed
from cove.ipc import channel
from cove.kernel import namespaces, process
from cove.kernel.cgroups import Birthplace
from cove.oci.spec import NamespaceType
from cove.runtime.child import joined
from cove.runtime.child.common import enter
from cove.runtime.messages import Failed, Go, Ready

_GO = msgspec.json.encode(Go())
_decode = msgspec.json.Decoder(Ready | Failed).decode
_PACKET = 1 << 16


def failure(failed: Failed) -> StartFailed:
    """The error that a child's report is."""
    return StartFailed(failed.message, stage=failed.stage, errno=failed.errno, exit_code=failed.exit_code)


class Newborn:
    """A process between clone3 and execve, seen from its maker. Closed by `close`, killed by `kill`."""

    def __init__(self, pid: int, pidfd: int, sync: socket.socket, gate: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.sync = sync
        self.gate = gate
        self.master: int | None = None
        self.helper = 0

    def admit(self) -> None:
        """Open the gate."""
        with suppress(ConnectionError):  # it failed already; its reason lies on sync
            self.gate.send(b"go")

    def attend(self, on_hooks: Callable[[], bytes]) -> None:
        """Serve it until it says Ready. `on_hooks` runs the hooks of its maker: the State for its own."""
        waiting = select.poll()
        waiting.register(self.sync, select.POLLIN)
        waiting.register(self.gate, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll()}
            if self.gate.fileno() in ready and not self._serve(on_hooks):
                waiting.unregister(self.gate)
            if self.sync.fileno() in ready:
                self._heard(self._receive())
                break
        if self.helper:
            os.waitpid(self.helper, 0)
            self.helper = 0

    def _serve(self, on_hooks: Callable[[], bytes]) -> bool:
        """One packet from the gate; False at its end."""
        try:
            data, fds = channel.message(self.gate, 64, 1)
        except ConnectionResetError:
            return False  # it ended; why is said on sync
        if fds:
            self.master = fds[0]
        if data == b"hooks":
            self.gate.send(on_hooks())
        return bool(data)

    def _heard(self, packet: bytes) -> None:
        if not packet:
            raise StartFailed(f"the process ended before it was ready ({self._end()})", stage="setup", errno=0)
        message = _decode(packet)
        if isinstance(message, Failed):
            raise failure(message)

    def _end(self) -> str:
        self._end_helper()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def go(self) -> None:
        """Past the barrier; returns once the program runs."""
        with suppress(ConnectionError):  # it failed; its reason lies on the socket
            self.sync.send(_GO)
        answer = self._receive()
        if answer:
            self._heard(answer)

    def _receive(self) -> bytes:
        """The next packet on sync. A peer that closed without reading all resets first, and its last word follows."""
        try:
            return self.sync.recv(_PACKET)
        except ConnectionResetError:
            return self.sync.recv(_PACKET)

    def receive_master(self) -> None:
        """The pty of a process that does not say Ready."""
        waiting = select.poll()
        waiting.register(self.gate, select.POLLIN)
        waiting.poll()
        self._serve(lambda: b"")

    def kill(self) -> None:
        """End it and its helper, and reap them."""
        process.send_signal(self.pidfd, signal.SIGKILL)
        self._end_helper()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _end_helper(self) -> None:
        """Before the process itself: where both are in its pid namespace, that ends last."""
        if self.helper:
            os.kill(self.helper, signal.SIGKILL)  # a child of ours that nobody has reaped yet
            os.waitpid(self.helper, 0)
            self.helper = 0

    def close(self) -> None:
        self.sync.close()
        self.gate.close()
        os.close(self.pidfd)
        if self.master is not None:
            os.close(self.master)


def _not_made(flags: int, error: OSError) -> StartFailed:
    """The kernel's reason for making no process, and what it may mean (clone(2), user_namespaces(7))."""
    kinds = [kind for kind, flag in namespaces.FLAGS.items() if flags & flag]
    hint = ""
    if error.errno == errno.EPERM and flags & process.CLONE_NEWUSER:
        hint = "; it lets nobody who is in a chroot have a user namespace, and elsewhere not everybody"
    elif error.errno == errno.ENOSPC:
        hint = "; /proc/sys/user has the numbers of namespaces that there may be"
    reason = os.strerror(error.errno or 0)
    message = f"the kernel makes no process with new namespaces ({', '.join(kinds) or 'none'}): {reason}{hint}"
    return StartFailed(message, stage="namespaces", errno=error.errno or 0)


def born(
    flags: int,
    place: Birthplace,
    within: Iterable[tuple[NamespaceType, int]],
    become: Callable[[int, int], None],
    helper: Callable[[int, int], int] | None = None,
) -> Newborn:
    """Clone a process that calls `become(sync_fd, gate_fd)`, which never returns.

    `within`: kinds and descriptors of namespaces to be born in. `helper(pid, sync_fd)` forks what helps it from
    outside (`runtime.outside`).
    """
    sync, far_sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gate, far_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far_sync, far_gate, ExitStack() as inside:
        for kind, fd in within:
            try:
                inside.enter_context(namespaces.children_in(fd, kind))
            except OSError as error:
                refused = joined.refusal(kind, os.readlink(f"/proc/self/fd/{fd}"), error)
                raise StartFailed(refused.message, stage="namespaces", errno=error.errno or 0) from None
        try:
            pid, pidfd = process.clone(flags, cgroup_fd=place.directory)
        except OSError as error:
            raise _not_made(flags, error) from error
        if pid == 0:
            enter(place, far_sync.fileno())
            become(far_sync.fileno(), far_gate.fileno())
        newborn = Newborn(pid, pidfd, sync, gate)
        if helper is not None:
            newborn.helper = helper(pid, far_sync.fileno())
    return newborn
