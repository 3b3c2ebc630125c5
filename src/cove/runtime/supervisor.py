"""The supervisor: has children made, reaps them, pumps output into logs. One thread, nothing it cannot lose.

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
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cove.errors import Conflict, CoveError, NotFound, describe
from cove.ipc import channel
from cove.kernel import process
from cove.kernel.cgroups import Cgroups, drain_events
from cove.paths import RunRoot
from cove.runtime import children, keeper, seat, state, terminal
from cove.runtime import messages as m
from cove.runtime.children import Child, Container
from cove.runtime.ends import Ends
from cove.runtime.loop import Loop
from cove.runtime.makers import Makers

if TYPE_CHECKING:
    from argparse import Namespace

_decode = msgspec.json.Decoder(m.Request).decode
_encode = msgspec.json.Encoder().encode
_LOOKS = (0.0, 0.02, 0.2)
_SAVE_AGAIN = 1.0


class Supervisor:
    """All containers of one run root."""

    def __init__(self, run: RunRoot, cgroups: Cgroups, makers: Makers, held: seat.Seat) -> None:
        self._run = run
        self._seat = held
        self._cgroups = cgroups
        self._makers = makers
        self._loop = Loop()
        self._connections: list[socket.socket] = []
        self._containers: dict[str, Container] = {}
        self._awaiting_console: dict[int, Callable[[], None]] = {}
        self._ending = False
        self._ends = Ends()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def serve(self) -> None:
        """Take over what is there, then serve until Shutdown."""
        for status in list(state.load_all(self._run)):
            self._take_over(status)
        for identity in list(state.unreadable(self._run)):
            seat.warn(f"the state of container {identity[:12]} cannot be read, so what is left of it is ended")
            self._clear(identity, f"/{self._cgroups.parent}/{identity}")
        self._makers.attend(self._loop)
        self._seat.open(self._loop, self._accept, self._put_back)
        gc.collect()
        gc.freeze()
        while not self._ending:
            self._loop.turn()

    def _put_back(self) -> None:
        """States that somebody removed."""
        for container in self._containers.values():
            paths = self._run.container(container.status.id)
            if not paths.state.exists():
                paths.root.mkdir(mode=0o700, exist_ok=True)
                self._save(container, container.status)

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
                container = self._container(request.id)
                self._send_created(connection, packet.number, container.child, container)
                return
            case m.List():
                answer = m.Statuses(statuses=tuple(each.status for each in self._containers.values()))
            case m.Signal():
                self._signal(request)
            case m.Freeze():
                container = self._living(request.id)
                self._cgroups.freeze(container.status.cgroup, request.frozen)
                self._save(container, state.frozen(container.status, request.frozen))
            case m.Update():
                self._cgroups.update(self._living(request.id).status.cgroup, request.resources)
            case m.Resize():
                self._resize(request)
            case m.CloseStdin():
                container = self._container(request.id)
                container.streams.close_input()
                self._save(container, msgspec.structs.replace(container.status, stdin=False))
            case m.Adopt():
                self._adopt(self._container(request.id), packet)
            case m.Delete():
                self._delete(request)
            case m.Shutdown():
                self._shutdown()
        self._send(connection, packet.number, answer)

    def _container(self, identity: str) -> Container:
        container = self._containers.get(identity)
        if container is None:
            raise NotFound(f"The supervisor knows no container {identity}")
        return container

    def _living(self, identity: str) -> Container:
        container = self._container(identity)
        if container.child is None:
            raise Conflict(f"Container {identity} is not running")
        return container

    def _create(self, connection: socket.socket, packet: channel.Packet, launch: m.Launch) -> None:
        if launch.id in self._containers:
            raise Conflict(f"Container {launch.id} has not been deleted since it last ran")
        container = children.create(
            launch, packet.fds[0], self._run, cgroups=self._cgroups, loop=self._loop, makers=self._makers
        )
        self._containers[launch.id] = container
        self._watch_container(container)
        child = container.child
        assert child is not None
        self._answer_when_ready(
            child,
            lambda: self._send_created(connection, packet.number, child, container),
            wants_console=container.status.terminal,
        )

    def _exec(self, connection: socket.socket, packet: channel.Packet, launch: m.ExecLaunch) -> None:
        container = self._living(launch.container)
        child = children.execute(launch, packet.fds, container, self._run, cgroups=self._cgroups, makers=self._makers)
        container.execs[launch.id] = child
        self._watch_child(child)
        self._answer_when_ready(
            child,
            lambda: self._send_created(connection, packet.number, child, None),
            wants_console=launch.process.terminal,
        )

    def _answer_when_ready(self, child: Child, answer: Callable[[], None], *, wants_console: bool) -> None:
        """At once, or as soon as the child has sent its pty (or failed)."""
        if wants_console:
            self._awaiting_console[child.pidfd] = answer
        else:
            answer()

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
        container = self._living(request.id)
        if request.everyone:
            self._cgroups.signal(container.status.cgroup, request.signal)
            return
        child = container.execs.get(request.exec_id) if request.exec_id else container.child
        if child is None or not process.send_signal(child.pidfd, request.signal):
            raise Conflict(f"Container {request.id} is not running")

    def _resize(self, request: m.Resize) -> None:
        container = self._living(request.id)
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
            self._attach_console(container, fd)
        elif container.streams.stdin is None:
            container.streams.stdin = fd
        else:
            os.close(fd)

    def _delete(self, request: m.Delete) -> None:
        identity = request.id
        container = self._containers.pop(identity, None)
        if container is None:
            self._clear(identity, request.cgroup)
            return
        if container.child is not None:
            process.send_signal(container.child.pidfd, signal.SIGKILL)
            self._forget_child(container.child)
            if self._is_ours(container.child):
                os.waitid(os.P_PIDFD, container.child.pidfd, os.WEXITED)
            container.child.close()
        if not container.released:
            self._kill_rest(container)
            self._release(container)
        children.remove_run_directory(self._run, identity)

    def _clear(self, identity: str, cgroup: str) -> None:
        """End and remove what may be there of a container of which no more is known."""
        if cgroup:
            self._cgroups.kill(cgroup)
            self._cgroups.remove(cgroup)
        children.remove_run_directory(self._run, identity)

    def _is_ours(self, child: Child) -> bool:
        try:
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _shutdown(self) -> None:
        alive = [each.status.id[:12] for each in self._containers.values() if each.child is not None]
        if alive:
            raise Conflict(f"{len(alive)} containers still run: {', '.join(alive[:5])}")
        self._cgroups.remove_parent()
        self._ending = True

    # ── children ──────────────────────────────────────────────────────────────────────────────────

    def _watch_container(self, container: Container) -> None:
        if container.child is not None:
            self._watch_child(container.child)
        if container.pump is not None:
            container.pump.start()
        if (events := self._cgroups.open_oom_events(container.status.cgroup)) is not None:
            container.oom_events, container.oom_kills = events, self._cgroups.oom_kills(container.status.cgroup)
            self._loop.watch(events, lambda: self._memory(container, events))

    def _memory(self, container: Container, events: int) -> None:
        """The memory limit is met for good. Version 1 tells so before it kills, so there is a second look."""
        drain_events(events)
        if container.child is not None and self._cgroups.waits_for_memory(container.status.cgroup):
            self._report(m.OutOfMemory(id=container.status.id))
        for moment in _LOOKS:
            self._loop.later(moment, lambda: self._count_kills(container))

    def _count_kills(self, container: Container) -> None:
        """The kernel killed something for the memory limit; the container itself may live on."""
        if container.child and (kills := self._cgroups.oom_kills(container.status.cgroup)) > container.oom_kills:
            container.oom_kills = kills
            self._report(m.OutOfMemory(id=container.status.id))

    def _watch_child(self, child: Child) -> None:
        self._loop.watch(child.pidfd, lambda: self._ended(child))
        if child.gate is not None:
            self._loop.watch(child.gate.fileno(), lambda: self._gate(child))

    def _gate(self, child: Child) -> None:
        """The pty arrives, or end of file: the program runs (or the child failed and its pidfd says so)."""
        assert child.gate is not None
        try:
            data, fds = channel.message(child.gate, 16, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        container = self._containers.get(child.id)
        if fds:
            self._console(child, fds[0], container)
        if data:
            return
        self._loop.unwatch(child.gate.fileno())
        child.gate.close()
        child.gate = None
        child.dismiss()
        self._answer_console(child)
        if container is not None and container.child is child and container.status.phase == "created":
            self._begun(container, time.time())
            self._makers.replenish()

    def _begun(self, container: Container, at: float) -> None:
        """Its program runs."""
        try:
            self._cgroups.begin(container.status.cgroup, container.status.idle)
        except CoveError as error:
            seat.warn(f"container {container.status.id[:12]} is not idle: {error.message}")
        self._save(container, state.started(container.status, at))

    def _console(self, child: Child, fd: int, container: Container | None) -> None:
        if child.exec_id or container is None:
            child.console = fd
        else:
            self._attach_console(container, fd)
        self._answer_console(child)

    def _answer_console(self, child: Child) -> None:
        answer = self._awaiting_console.pop(child.pidfd, None)
        if answer is not None:
            answer()

    def _attach_console(self, container: Container, fd: int) -> None:
        if container.streams.console is not None or container.pump is None:
            os.close(fd)
            return
        container.pump.attach_console(fd)

    def _ended(self, child: Child) -> None:
        """A process is over: its first process takes the container along."""
        if child.gate is not None:
            self._gate(child)
        code, reason = self._ends.code(child.pid, child.pidfd)
        self._answer_console(child)
        self._forget_child(child)
        container = self._containers.get(child.id)
        if container is not None and container.child is child:
            self._finish(container, code, reason)
        else:
            if container is not None:
                container.execs.pop(child.exec_id, None)
                self._report(m.Exited(id=child.id, exec_id=child.exec_id, exit=m.Exit(code=code, at=time.time())))
            self._ends.done(child.pid, child.pidfd)
        child.close()

    def _forget_child(self, child: Child) -> None:
        self._loop.unwatch(child.pidfd)
        if child.gate is not None:
            self._loop.unwatch(child.gate.fileno())

    def _finish(self, container: Container, code: int, reason: str, at: float = 0.0) -> None:
        """Everything it wrote is in the log before anybody hears of its end."""
        self._kill_rest(container)
        if container.pump is not None:
            container.pump.drain()
        kills = self._cgroups.oom_kills(container.status.cgroup)
        if kills > container.oom_kills:
            self._report(m.OutOfMemory(id=container.status.id))
        child, container.child = container.child, None
        peak = self._cgroups.memory_peak(container.status.cgroup)
        end = m.Exit(code=code, at=at or time.time(), oom=kills > 0, memory_peak=peak, reason=reason)
        self._save(container, state.exited(container.status, end))
        if child is not None:
            self._ends.done(child.pid, child.pidfd)
        self._report(m.Exited(id=container.status.id, exit=end))  # whoever answers with a request waits for the rest
        self._release(container)

    def _release(self, container: Container) -> None:
        """Let go of descriptors, log and control group."""
        if container.pump is not None:
            container.pump.stop()
            container.pump = None
        container.streams.close()
        if container.oom_events is not None:
            self._loop.unwatch(container.oom_events)
            os.close(container.oom_events)
            container.oom_events = None
        self._cgroups.remove(container.status.cgroup)
        container.released = True

    def _kill_rest(self, container: Container) -> None:
        """What outlived the first process: further processes, or all of it when the pid namespace is another's."""
        for child in container.execs.values():
            process.send_signal(child.pidfd, signal.SIGKILL)
        self._cgroups.kill(container.status.cgroup)

    def _save(self, container: Container, status: m.Status) -> None:
        """A file that cannot be written (a full /run, a directory that somebody removed) is tried again later."""
        container.status = status
        try:
            state.save(self._run.container(status.id).state, status)
        except OSError as error:
            seat.warn(f"the state of container {status.id[:12]} is not written yet: {describe(error)}")
            self._loop.later(_SAVE_AGAIN, lambda: self._save_again(container, status))

    def _save_again(self, container: Container, status: m.Status) -> None:
        known = self._containers.get(status.id) is container
        if known and container.status is status and self._run.container(status.id).root.is_dir():
            self._save(container, status)

    def _take_over(self, status: m.Status) -> None:
        if not state.is_born(status):
            self._clear(status.id, status.cgroup)  # its supervisor died while it made it
            return
        if not state.is_live(status):
            self._containers[status.id] = children.remember(status)
            return
        self._ends.expect(status.pid)
        container = children.readopt(status, self._run, self._loop)
        self._containers[status.id] = container
        if container.child is None:
            end = children.unseen_end(self._run, status.id)
            self._finish(container, end.code, end.reason, end.at)
            return
        if status.phase == "created":
            self._begun(container, status.started_at)
        self._watch_container(container)


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
