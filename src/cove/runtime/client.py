"""The daemon's end of the supervisor: requests as coroutines, reports as calls, and a new one when it dies.

    Runtime.connect ──▶ supervisor answers? ──no──▶ spawn it (a session of its own: it outlives the daemon)
         │
         ├─ request ──▶ numbered packet ──▶ future
         └─ end of file: spawn another, connect, give back ptys and stdin (Adopt), go on

The daemon is the subreaper of orphans: a dead supervisor's containers become its children. It reaps such a
child only after the new supervisor has reported its end, because a zombie still tells its exit code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

import msgspec

from cove import errors
from cove.ipc import channel
from cove.kernel import process, syscalls
from cove.oci.spec import Resources
from cove.paths import RunRoot
from cove.runtime import descriptors
from cove.runtime import messages as m
from cove.runtime.newborn import Process
from cove.runtime.orphans import Orphans
from cove.runtime.roots import Roots
from cove.runtime.spawning import Early, Supervisor, spawn

_PR_SET_CHILD_SUBREAPER = 36
_decode = msgspec.json.Decoder(m.Created | m.Done | m.Refused | m.Statuses | m.Exited | m.OutOfMemory).decode
_encode = msgspec.json.Encoder().encode
_REPEATABLE = (m.List, m.Stdio, m.Signal, m.Freeze, m.Update, m.Resize, m.CloseStdin, m.Delete)
_ATTEMPTS, _PATIENCE = 3, 30
_KINDS: dict[str, type[errors.CoveError]] = {
    kind.__name__: kind
    for kind in (errors.InvalidArgument, errors.NotFound, errors.Conflict, errors.Unsupported, errors.Internal)
}


class Runtime:
    """The connection to the supervisor of one run root."""

    def __init__(
        self, run: RunRoot, on_report: Callable[[m.Report], None], on_reconnect: Callable[[], None] | None
    ) -> None:
        self._run = run
        self._on_report = on_report
        self._on_reconnect = on_reconnect
        self._socket: socket.socket | None = None
        self._number = 0
        self._waiting: dict[int, asyncio.Future[tuple[m.Reply, tuple[int, ...]]]] = {}
        self._ready = asyncio.Event()
        self._room: asyncio.Future[None] | None = None
        self._child: Supervisor | None = None
        self._kept: dict[str, int] = {}
        self._outputs: dict[str, tuple[int, ...]] = {}
        self._execs: dict[str, tuple[str, int]] = {}
        self._pids: dict[str, int] = {}
        self._pidfds: dict[str, int] = {}
        self._roots = Roots()
        self._orphans = Orphans()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._most = descriptors.most()

    @classmethod
    async def connect(
        cls,
        run: RunRoot,
        *,
        on_report: Callable[[m.Report], None],
        on_reconnect: Callable[[], None] | None = None,
        early: Early | None = None,
    ) -> Runtime:
        """Connect to the supervisor, starting it when none answers. Raises Internal when it cannot be started.

        `early`: one that was begun already, perhaps.
        """
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        runtime = cls(run, on_report, on_reconnect)
        runtime._child = early.taken() if early is not None else None
        await runtime._connect()
        return runtime

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    async def _connect(self) -> None:
        for attempt in range(400):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                sock.connect(str(self._run.supervisor_socket))
            except OSError:
                sock.close()
                if self._child is None or self._child.poll() is not None:
                    self._child = spawn(self._run)
                await asyncio.sleep(min(0.005 * (attempt + 1), 0.05))
                continue
            sock.setblocking(False)
            if not await self._answers(sock):
                sock.close()
                continue
            self._socket = sock
            asyncio.get_running_loop().add_reader(sock, self._readable)
            self._ready.set()
            return
        raise errors.Internal(
            f"The supervisor of {self._run.root} does not start; see the daemon's log for its reason"
        )

    async def _answers(self, sock: socket.socket) -> bool:
        """Whether somebody lives behind it: one who was killed still accepts until the kernel has closed all of its
        descriptors, which may take 20 ms."""
        loop = asyncio.get_running_loop()
        something = asyncio.Event()
        loop.add_reader(sock, something.set)
        try:
            channel.send(sock, 0, _encode(m.List()))
            await asyncio.wait_for(something.wait(), _PATIENCE)
            packet = channel.arrived(sock)
        except (OSError, TimeoutError):
            return False
        finally:
            loop.remove_reader(sock)
        if packet is None:
            return False
        message = _decode(packet.body)
        if isinstance(message, m.Exited | m.OutOfMemory):
            self._deliver(message)
        packet.close()
        return True

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            packet = channel.arrived(self._socket)
        except BlockingIOError:
            return
        if packet is None:
            self._lost()
            return
        message = _decode(packet.body)
        if isinstance(message, m.Exited | m.OutOfMemory):
            self._deliver(message)
            return
        waiting = self._waiting.pop(packet.number, None)
        if waiting is None or waiting.done():
            packet.close()
        else:
            waiting.set_result((message, packet.fds))

    def _deliver(self, report: m.Report) -> None:
        if isinstance(report, m.Exited):
            self._reap(report.exec_id or report.id)
            if report.exec_id and self._forget_exec(report.exec_id) is None:
                return
            if not report.exec_id:
                report = self._better_known(report)
                self._forget_all(report.id)
        self._on_report(report)

    def _better_known(self, report: m.Exited) -> m.Exited:
        """An end that no supervisor saw: our pidfd remembers its code where the kernel lets it (6.15)."""
        pidfd = self._pidfds.get(report.id)
        status = process.exit_info(pidfd) if report.exit.reason and pidfd is not None else None
        if status is None:
            return report
        end = msgspec.structs.replace(report.exit, code=process.exit_code(status), reason="")
        return msgspec.structs.replace(report, exit=end)

    def _reap(self, key: str) -> None:
        """An orphan of a dead supervisor is our child; its end is known by now."""
        pid = self._pids.pop(key, None)
        if pid is not None:
            with suppress(ChildProcessError):
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    self._orphans.watch(pid)  # somebody traces it

    def _lost(self) -> None:
        """The supervisor died: fail what waits, connect to a new one."""
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._make_room(self._socket)
        self._socket.close()
        self._socket = None
        self._ready.clear()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(errors.Unavailable("The supervisor died in the middle of this; try again"))
        if not self._closing:
            self._background(self._reconnect())

    async def _reconnect(self) -> None:
        await self._connect()
        self._orphans.take_up({*self._pids.values(), *([self._child.pid] if self._child is not None else ())})
        for identity, fd in list(self._kept.items()):
            with suppress(errors.CoveError):
                await self._request(m.Adopt(id=identity), (fd,))
        for exec_id, (_, pidfd) in list(self._execs.items()):
            self._watch_orphan(exec_id, pidfd)
        try:
            reply, _ = await self._once(m.List(), ())
        except errors.Unavailable:
            return  # this one died too: its successor is being connected to already
        assert isinstance(reply, m.Statuses)
        for status in reply.statuses:
            if status.exit is not None and status.id in self._pids:  # it ended while nobody was connected
                self._deliver(m.Exited(id=status.id, exit=status.exit))
        if self._on_reconnect is not None:
            self._on_reconnect()

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch_orphan(self, exec_id: str, pidfd: int) -> None:
        """An exec whose supervisor died is our child now: we see its end ourselves."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(pidfd)
            code = 255
            with suppress(ChildProcessError):
                code = process.ended(pidfd) or 0
            if (pid := self._pids.pop(exec_id, None)) is not None:
                self._orphans.watch(pid)
            owner = self._forget_exec(exec_id)
            if owner is not None:
                self._on_report(m.Exited(id=owner, exec_id=exec_id, exit=m.Exit(code=code, at=0.0)))

        loop.add_reader(pidfd, ended)

    def _forget_exec(self, exec_id: str) -> str | None:
        known = self._execs.pop(exec_id, None)
        if known is None:
            return None
        os.close(known[1])
        return known[0]

    def _keep(self, identity: str, pidfd: int) -> None:
        """Hold its pidfd and its output FIFOs: how it ended and what it wrote outlive even its supervisor."""
        if identity not in self._pidfds:
            self._pidfds[identity] = os.dup(pidfd)
        if identity not in self._outputs:
            run, flags = self._run.container(identity), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            there = [path for path in (run.stdout, run.stderr) if path.exists()]  # a terminal has one
            self._outputs[identity] = tuple(os.open(path, flags) for path in there)

    def _forget_descriptor(self, identity: str) -> None:
        fd = self._kept.pop(identity, None)
        if fd is not None:
            os.close(fd)

    def _forget_all(self, identity: str) -> None:
        self._forget_descriptor(identity)
        for output in self._outputs.pop(identity, ()):
            os.close(output)
        self._roots.release(identity)
        pidfd = self._pidfds.pop(identity, None)
        if pidfd is not None:
            os.close(pidfd)

    async def _request(self, message: m.Request, fds: Sequence[int] = ()) -> tuple[m.Reply, tuple[int, ...]]:
        """What may be asked twice is asked again when a supervisor dies in the middle of it."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._once(message, fds)
            except errors.Unavailable:
                if self._closing or not isinstance(message, _REPEATABLE):
                    raise
        return await self._once(message, fds)

    async def _once(self, message: m.Request, fds: Sequence[int]) -> tuple[m.Reply, tuple[int, ...]]:
        while self._socket is None:  # it may have died again before this task has its turn
            try:
                await asyncio.wait_for(self._ready.wait(), 0 if self._closing else _PATIENCE)
            except TimeoutError:
                raise errors.Unavailable("There is no supervisor; see the daemon's log for its reason") from None
        self._number += 1
        future: asyncio.Future[tuple[m.Reply, tuple[int, ...]]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        await self._send(self._number, _encode(message), fds)
        reply, received = await future
        if isinstance(reply, m.Refused):
            for fd in received:
                os.close(fd)
            raise _KINDS.get(reply.kind, errors.Internal)(reply.message)
        return reply, received

    async def _send(self, number: int, body: bytes, fds: Sequence[int]) -> None:
        """Send as soon as there is room; the socket's death is seen by its reader, which fails what waits."""
        while self._socket is not None:
            try:
                channel.send(self._socket, number, body, fds)
                return
            except BlockingIOError:
                await self._room_in(self._socket)
            except OSError:
                return

    async def _room_in(self, sock: socket.socket) -> None:
        """Until the supervisor has taken some of what was sent to it, or is gone."""
        if self._room is None:
            loop = asyncio.get_running_loop()
            self._room = loop.create_future()
            loop.add_writer(sock, self._make_room, sock)
        await asyncio.shield(self._room)

    def _make_room(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().remove_writer(sock)
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    async def create(self, launch: m.Launch) -> Process:
        """Make a container's first process, which waits for `Process.go`; by the next supervisor if this one dies."""
        await self._roots.released(launch.id)
        try:
            near, reply, fds = await self._ask(launch)
        except errors.Unavailable:
            await self._request(m.Delete(id=launch.id))  # the next supervisor found it half made, perhaps
            near, reply, fds = await self._ask(launch)
        assert isinstance(reply, m.Created) and launch.spec.process is not None
        try:
            descriptors.check(max(fds), self._most)
        except errors.Internal:
            near.close()
            for fd in fds:
                os.close(fd)
            await self._request(m.Delete(id=launch.id))
            raise
        self._pids[launch.id] = reply.pid
        self._keep(launch.id, fds[0])
        if len(fds) > 1:
            self._kept[launch.id] = os.dup(fds[1])
        return Process(
            reply.pid,
            fds,
            near,
            terminal=launch.spec.process.terminal,
            on_root=lambda root: self._roots.hold(launch.id, root),
        )

    async def _ask(self, launch: m.Launch) -> tuple[socket.socket, m.Reply, tuple[int, ...]]:
        near, far = channel.pair()
        try:
            with far:
                return near, *await self._request(m.Create(launch=launch), (far.fileno(),))
        except BaseException:
            near.close()
            raise

    async def exec(self, launch: m.ExecLaunch, fds: tuple[int, int, int] | None) -> Process:
        """Make a further process; `fds` are its stdin, stdout and stderr unless it has a terminal."""
        near, far = channel.pair()
        try:
            with far:
                reply, received = await self._request(m.Exec(launch=launch), (far.fileno(), *(fds or ())))
        except BaseException:
            near.close()
            raise
        assert isinstance(reply, m.Created)
        self._execs[launch.id] = (launch.container, os.dup(received[0]))
        self._pids[launch.id] = reply.pid
        return Process(reply.pid, received, near, terminal=launch.process.terminal)

    async def stdio(self, identity: str) -> tuple[int, int | None]:
        """(pidfd, stdin write end or pty master) of a running container, for a daemon that did not start it."""
        reply, fds = await self._request(m.Stdio(id=identity))
        assert isinstance(reply, m.Created)
        self._pids[identity] = reply.pid
        self._keep(identity, fds[0])
        self._roots.hold_of(identity, reply.pid)
        if len(fds) > 1 and identity not in self._kept:
            self._kept[identity] = os.dup(fds[1])
        return fds[0], fds[1] if len(fds) > 1 else None

    async def signal(self, identity: str, number: int, *, exec_id: str = "", everyone: bool = False) -> None:
        """Send a signal. Raises Conflict when it does not run."""
        await self._request(m.Signal(id=identity, signal=number, exec_id=exec_id, everyone=everyone))

    async def freeze(self, identity: str, frozen: bool) -> None:
        """Pause or resume."""
        await self._request(m.Freeze(id=identity, frozen=frozen))

    async def update(self, identity: str, resources: Resources) -> None:
        """New limits."""
        await self._request(m.Update(id=identity, resources=resources))

    async def resize(self, identity: str, *, height: int, width: int, exec_id: str = "") -> None:
        """New size of its terminal."""
        await self._request(m.Resize(id=identity, height=height, width=width, exec_id=exec_id))

    async def close_stdin(self, identity: str) -> None:
        """End of file on its stdin, once the caller has closed its own write end too."""
        self._forget_descriptor(identity)
        await self._request(m.CloseStdin(id=identity))

    async def delete(self, identity: str, *, cgroup: str = "") -> None:
        """Kill and forget it; `cgroup` for one that the supervisor may not know."""
        await self._request(m.Delete(id=identity, cgroup=cgroup))
        if cgroup and identity in self._pidfds:
            process.send_signal(self._pidfds[identity], signal.SIGKILL)  # wherever its processes were moved to
        self._reap(identity)
        self._forget_all(identity)

    async def list(self) -> tuple[m.Status, ...]:
        """What the supervisor knows."""
        reply, _ = await self._request(m.List())
        assert isinstance(reply, m.Statuses)
        return reply.statuses

    async def shutdown(self) -> bool:
        """End the supervisor if no container needs it; whether it ended."""
        self._closing = True
        try:
            await self._request(m.Shutdown())
        except errors.Conflict:
            self._closing = False
            return False
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._child.wait, 5)
        return True

    async def close(self) -> None:
        """Let go of the supervisor, which runs on."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._make_room(self._socket)
            self._socket.close()
            self._socket = None
        for identity in {*self._kept, *self._outputs, *self._pidfds}:
            self._forget_all(identity)
        for exec_id in list(self._execs):
            self._forget_exec(exec_id)
        self._roots.close()
        self._orphans.close()
