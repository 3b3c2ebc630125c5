"""The daemon's end of the resolver: remembers what the resolver shall know, and says it again when it must.

    serve(view) ──▶ no resolver yet, or it died: make one, say everything ──▶ wait until the container is served

Nothing here blocks the loop. What only informs (`know`, `join`, `leave`, `forget`) is sent in order and not waited
for; a container's start waits for `serve` alone, which happens beside the making of its interfaces.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress

import msgspec

from cove.errors import Internal, Unavailable, describe
from cove.ipc import channel
from cove.network.dns import messages as m
from cove.paths import RunRoot

_log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(m.Told).decode
_encode = msgspec.json.Encoder().encode
_PATIENCE = 15.0
_BACKLOG = 8


class _Outgoing(msgspec.Struct):
    number: int
    body: bytes
    fds: tuple[int, ...]


class Resolver:
    """The connection to the resolver of one run root. All methods are the loop's."""

    def __init__(self, run: RunRoot) -> None:
        self._run = run
        self._networks: dict[str, m.Know] = {}
        self._members: dict[tuple[str, str], m.Member] = {}
        self._views: dict[str, m.View] = {}
        self._pidfds: dict[str, int] = {}
        self._socket: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._outbox: deque[_Outgoing] = deque()
        self._closing = False

    # ── what it shall know ────────────────────────────────────────────────────────────────────────

    def know(self, network: m.Know) -> None:
        """A network whose containers have names."""
        if self._networks.get(network.network) != network:
            self._networks[network.network] = network
            self._tell(network)

    def unknow(self, network: str) -> None:
        """A network that was removed; the resolver forgets it with the next `Keep`."""
        self._networks.pop(network, None)

    def join(self, network: str, member: m.Member) -> None:
        """A container is on a network under these names, in place of what it was called there before."""
        self._members[network, member.container] = member
        self._tell(m.Join(network=network, member=member))

    def leave(self, network: str, container: str) -> None:
        """Idempotent."""
        if self._members.pop((network, container), None) is not None:
            self._tell(m.Leave(network=network, container=container))

    def forget(self, container: str) -> None:
        """A container ended. Idempotent."""
        if self._views.pop(container, None) is not None:
            os.close(self._pidfds.pop(container))
            self._tell(m.Forget(container=container))

    def serve(self, view: m.View, pidfd: int) -> Awaitable[None]:
        """Answer a container's questions from now on, or by another view than before; to be waited for.

        It is under way when this returns. Raises (both here and there) Unavailable and Internal.
        """
        self._remember(view, pidfd)
        if self._socket is None:
            self._connect()
        served = asyncio.ensure_future(self._served(view, self._ask(m.Serve(view=view), pidfd)))
        served.add_done_callback(_heard)  # a start that fails before it waits for this leaves it alone
        return served

    async def _served(self, view: m.View, asked: asyncio.Future[str]) -> None:
        for _ in range(2):
            with suppress(ConnectionError):
                failure = await asyncio.wait_for(asked, _PATIENCE)
                if failure:
                    raise Internal(f"The container's name server could not be set up: {failure}")
                return
            if view.container not in self._views:
                return  # it ended meanwhile
            if self._socket is None:
                self._connect()
            asked = self._ask(m.Serve(view=view), self._pidfds[view.container])
        raise Unavailable("The process that answers containers' DNS questions does not stay alive; see the log")

    def restore(self, views: Iterable[tuple[m.View, int]]) -> None:
        """After a daemon's start: the containers that run, each with its pidfd; then everything is said."""
        for view, pidfd in views:
            self._remember(view, pidfd)
        if self._views and self._socket is None:
            self._connect()

    def _remember(self, view: m.View, pidfd: int) -> None:
        if view.container not in self._views:
            self._pidfds[view.container] = os.dup(pidfd)
        self._views[view.container] = view

    def warm(self) -> None:
        """Make the process before the first container needs it."""
        if self._socket is None:
            with suppress(Internal):
                self._connect()

    def close(self) -> None:
        """Let go of it; it ends by itself when it serves no container."""
        self._closing = True
        self._disconnect()
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        self._views.clear()

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        path = str(self._run.resolver_socket)
        try:
            try:
                sock.connect(path)
            except OSError:
                self._spawn(path)
                sock.connect(path)
        except OSError as error:
            sock.close()
            raise Internal(f"The resolver of container names could not be started: {describe(error)}") from error
        sock.setblocking(False)
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._readable)
        self._say_everything()

    def _spawn(self, path: str) -> None:
        """The listening socket is made here, so that nobody has to wait until the process is ready."""
        with suppress(FileNotFoundError):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
            words = ["--listen", str(listener.fileno()), "--run-root", str(self._run.root)]
            self._child = subprocess.Popen(
                [sys.executable, "-m", "cove.network.dns.server", *words],
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )

    def _say_everything(self) -> None:
        for network in self._networks.values():
            self._tell(network)
        for (network_id, _), member in self._members.items():
            self._tell(m.Join(network=network_id, member=member))
        for view in self._views.values():
            self._send(0, m.Serve(view=view), (self._pidfds[view.container],))
        known = {container for _, container in self._members} | set(self._views)
        self._tell(m.Keep(networks=tuple(self._networks), containers=tuple(known)))

    def _ask(self, message: m.Request, pidfd: int) -> asyncio.Future[str]:
        self._number += 1
        number = self._number
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        future.add_done_callback(lambda _: self._waiting.pop(number, None))
        self._send(number, message, (pidfd,))
        return future

    def _tell(self, message: m.Request) -> None:
        if self._socket is not None:
            self._send(0, message, ())

    def _send(self, number: int, message: m.Request, fds: Sequence[int]) -> None:
        self._outbox.append(_Outgoing(number, _encode(message), tuple(os.dup(fd) for fd in fds)))
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        while self._outbox:
            packet = self._outbox[0]
            try:
                channel.send(self._socket, packet.number, packet.body, packet.fds)
            except BlockingIOError:
                loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                self._lost()
                return
            self._outbox.popleft()
            for fd in packet.fds:
                os.close(fd)
        loop.remove_writer(self._socket)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            packet = channel.arrived(self._socket)
        except BlockingIOError:
            return
        if packet is None:
            self._lost()
            return
        failure = _decode(packet.body).failure
        waiting = self._waiting.get(packet.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(failure)
        elif failure:
            _log.warning("the resolver of container names: %s", failure)

    def _lost(self) -> None:
        """It died. Whoever is served gets another one."""
        self._disconnect()
        if self._views and not self._closing:
            _log.warning("the resolver of container names ended; another one takes over")
            with suppress(Internal):
                self._connect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        for packet in self._outbox:
            for fd in packet.fds:
                os.close(fd)
        self._outbox.clear()
        for future in tuple(self._waiting.values()):
            if not future.done():
                future.set_exception(ConnectionResetError())
        if self._child is not None:
            self._child.poll()


def _heard(served: asyncio.Future[None]) -> None:
    """Whoever waits hears of a failure; nobody else does."""
    served.cancelled() or served.exception()
