"""The supervisor: does what daemons ask of it. One thread, nothing it cannot lose.

Whatever it knows is also in the kernel or in state.json, so that a new supervisor takes over from the files:

    start ──▶ lock ──▶ read every state.json ──▶ pidfd of each living process, FIFOs reopened ──▶ serve
                                    └─ gone meanwhile: its exit as the keeper saw it, or 255 with the reason

    epoll:  listener     a daemon connects
            connection   a request (cove.runtime.messages), answered by number
            gate         the child executed its program (end of file), or sent its pty
            FIFO, pty    output: one bounded splice or read per turn, so that no log starves another
            pidfd        a process ended: drain its output, record, clean, report

It imports only what its children may need, because nothing is imported after the fork.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cove.errors import Conflict, CoveError, describe
from cove.ipc import channel
from cove.kernel import process
from cove.kernel.cgroups import Cgroups
from cove.paths import RunRoot
from cove.runtime import children, keeper, seat, state, terminal
from cove.runtime import messages as m
from cove.runtime.children import Child, Container
from cove.runtime.containers import Containers
from cove.runtime.loop import Loop
from cove.runtime.makers import Makers

if TYPE_CHECKING:
    from argparse import Namespace

_decode = msgspec.json.Decoder(m.Request).decode
_encode = msgspec.json.Encoder().encode


class Supervisor:
    """Answers daemons, about the containers of one run root."""

    def __init__(self, run: RunRoot, cgroups: Cgroups, makers: Makers, held: seat.Seat) -> None:
        self._run = run
        self._seat = held
        self._cgroups = cgroups
        self._makers = makers
        self._loop = Loop()
        self._connections: list[socket.socket] = []
        self._containers = Containers(run, cgroups, makers, self._loop, self._report)
        self._ending = False

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def serve(self) -> None:
        """Take over what is there, then serve until Shutdown."""
        self._containers.take_over()
        self._makers.attend(self._loop)
        self._seat.open(self._loop, self._accept, self._containers.put_back)
        gc.collect()
        gc.freeze()
        while not self._ending:
            self._loop.turn()

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        self._connections.append(connection)
        self._loop.watch(connection.fileno(), lambda: self._request(connection))

    def _hang_up(self, connection: socket.socket) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._loop.unwatch(connection.fileno())
            connection.close()

    def _send(
        self, connection: socket.socket, number: int, message: m.Reply | m.Report, fds: tuple[int, ...] = ()
    ) -> None:
        try:
            channel.send(connection, number, _encode(message), fds)
        except OSError:
            self._hang_up(connection)

    def _report(self, report: m.Report) -> None:
        for connection in list(self._connections):
            self._send(connection, 0, report)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    def _request(self, connection: socket.socket) -> None:
        packet = channel.arrived(connection)
        if packet is None:
            self._hang_up(connection)
            return
        try:
            self._dispatch(connection, packet)
        except CoveError as error:
            self._send(connection, packet.number, m.Refused(kind=type(error).__name__, message=error.message))
        except OSError as error:
            refusal = m.Refused(kind="Internal", message=describe(error), errno=error.errno or 0)
            self._send(connection, packet.number, refusal)
        except msgspec.DecodeError as error:
            self._send(connection, packet.number, m.Refused(kind="InvalidArgument", message=str(error)))
        finally:
            packet.close()

    def _dispatch(self, connection: socket.socket, packet: channel.Packet) -> None:
        request = _decode(packet.body)
        answer: m.Reply = m.Done()
        match request:
            case m.Create():
                self._create(connection, packet, request.launch)
                return
            case m.Exec():
                self._exec(connection, packet, request.launch)
                return
            case m.Stdio():
                container = self._containers.find(request.id)
                self._send_created(connection, packet.number, container.child, container)
                return
            case m.List():
                answer = m.Statuses(statuses=tuple(each.status for each in self._containers))
            case m.Signal():
                self._signal(request)
            case m.Freeze():
                container = self._containers.living(request.id)
                self._cgroups.freeze(container.status.cgroup, request.frozen)
                self._containers.save(container, state.frozen(container.status, request.frozen))
            case m.Update():
                self._cgroups.update(self._containers.living(request.id).status.cgroup, request.resources)
            case m.Resize():
                self._resize(request)
            case m.CloseStdin():
                container = self._containers.find(request.id)
                container.streams.close_input()
                self._containers.save(container, msgspec.structs.replace(container.status, stdin=False))
            case m.Adopt():
                self._adopt(self._containers.find(request.id), packet)
            case m.Delete():
                self._containers.delete(request.id, request.cgroup)
            case m.Shutdown():
                self._shutdown()
        self._send(connection, packet.number, answer)

    def _create(self, connection: socket.socket, packet: channel.Packet, launch: m.Launch) -> None:
        if launch.id in self._containers:
            raise Conflict(f"Container {launch.id} has not been deleted since it last ran")
        container = children.create(
            launch, packet.fds[0], self._run, cgroups=self._cgroups, loop=self._loop, makers=self._makers
        )
        self._containers.add(container)
        child = container.child
        assert child is not None
        self._containers.when_ready(
            child,
            lambda: self._send_created(connection, packet.number, child, container),
            wants_console=container.status.terminal,
        )

    def _exec(self, connection: socket.socket, packet: channel.Packet, launch: m.ExecLaunch) -> None:
        container = self._containers.living(launch.container)
        child = children.execute(launch, packet.fds, container, self._run, cgroups=self._cgroups, makers=self._makers)
        container.execs[launch.id] = child
        self._containers.watch_child(child)
        self._containers.when_ready(
            child,
            lambda: self._send_created(connection, packet.number, child, None),
            wants_console=launch.process.terminal,
        )

    def _send_created(
        self, connection: socket.socket, number: int, child: Child | None, container: Container | None
    ) -> None:
        if child is None:
            raise Conflict("The container is not running")
        fds = [child.pidfd]
        if container is not None and container.streams.console is not None:
            fds.append(container.streams.console)
        elif container is not None and container.streams.stdin is not None:
            fds.append(container.streams.stdin)
        elif child.console is not None:
            fds.append(child.console)
        created = m.Created(pid=child.pid, status=container.status if container is not None else None)
        self._send(connection, number, created, tuple(fds))

    def _signal(self, request: m.Signal) -> None:
        container = self._containers.living(request.id)
        if request.everyone:
            self._cgroups.signal(container.status.cgroup, request.signal)
            return
        child = container.execs.get(request.exec_id) if request.exec_id else container.child
        if child is None or not process.send_signal(child.pidfd, request.signal):
            raise Conflict(f"Container {request.id} is not running")

    def _resize(self, request: m.Resize) -> None:
        container = self._containers.living(request.id)
        if request.exec_id:
            child = container.execs.get(request.exec_id)
            console = child.console if child is not None else None
        else:
            console = container.streams.console
        if console is None:
            raise Conflict(f"{request.exec_id or request.id} has no terminal to resize")
        terminal.resize(console, height=request.height, width=request.width)

    def _adopt(self, container: Container, packet: channel.Packet) -> None:
        """A living daemon gives back what only descriptors hold."""
        fd = os.dup(packet.fds[0])
        os.set_inheritable(fd, False)
        if container.status.terminal:
            self._containers.attach_console(container, fd)
        elif container.streams.stdin is None:
            container.streams.stdin = fd
        else:
            os.close(fd)

    def _shutdown(self) -> None:
        alive = [each.status.id[:12] for each in self._containers if each.child is not None]
        if alive:
            raise Conflict(f"{len(alive)} containers still run: {', '.join(alive[:5])}")
        self._cgroups.remove_parent()
        self._ending = True


def main(argv: list[str] | None = None) -> None:
    """Entry of `python -m cove.runtime.supervisor`."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends by Shutdown, when no container needs it
    Path("/proc/self/comm").write_text("cove-supervisor")  # it was executed by descriptor, which gives no name
    words = sys.argv[1:] if argv is None else argv
    root = Path(words[words.index("--run-root") + 1])
    with closing(Makers(lambda: keeper.keep(RunRoot(root)))) as makers:
        makers.start()
        options = _options(words)
        run = RunRoot(root)
        held = seat.Seat(run)
        Supervisor(run, Cgroups.detect(options.cgroup_parent, "systemd"), makers, held).serve()
        held.leave()


def _options(argv: list[str]) -> Namespace:
    """Imports argparse when the forker, which has no use for it, is there already."""
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="cove supervisor")
    parser.add_argument("--run-root", type=Path, required=True)
    parser.add_argument("--cgroup-parent", required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
