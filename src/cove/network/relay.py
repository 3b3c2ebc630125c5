"""A small TCP relay in the daemon, for the connections that the kernel cannot translate.

IPv6 has no route_localnet: a connection to [::1] cannot leave the loopback interface, nor one to a link-local
address its link, and an IPv6 client cannot be translated to a container that has IPv4 alone. All of them reach the
daemon's own socket on the published port and are copied from there. The container sees the bridge's address as the
client, and a relayed connection ends with the daemon; everything else about published ports is the kernel's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)
_BACKLOG = 128
_CHUNK = 1 << 16
_PATIENCE = 10.0
"""Seconds to wait for the loop's thread; a loop that takes longer is about to end."""


class Relays:
    """Every relay of one daemon. `serve` and `stop` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: dict[int, set[asyncio.Task[None]]] = {}

    def serve(
        self, listener: socket.socket, address: str, port: int, welcome: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Accept on a bound socket, which stays the caller's, and connect each client to address:port.

        `welcome`: whether a client's address may come.
        """
        listener.setblocking(False)
        # What is left of former connections is no obstacle then, nor what will be left of these; whoever else binds
        # meets a socket that listens.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(_BACKLOG)
        self._on_loop(lambda: self._listen(listener, address, port, welcome))

    def stop(self, listener: socket.socket) -> None:
        """Accept no more and end the connections that came through it; the caller may close the socket then."""
        self._on_loop(lambda: self._end(listener.fileno()))

    def _on_loop(self, action: Callable[[], None]) -> None:
        """Run `action` in the loop's thread and return when it is done: a descriptor must not be reused before."""
        if _running_loop() is self._loop or not self._loop.is_running():
            action()
            return
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait(_PATIENCE)

    def _listen(self, listener: socket.socket, address: str, port: int, welcome: Callable[[str], bool]) -> None:
        if listener.fileno() < 0:
            return
        self._tasks.setdefault(listener.fileno(), set())
        self._loop.add_reader(listener.fileno(), self._accept, listener, address, port, welcome)

    def _end(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        for task in self._tasks.pop(descriptor, set()):
            task.cancel()

    def _accept(self, listener: socket.socket, address: str, port: int, welcome: Callable[[str], bool]) -> None:
        try:
            client, peer = listener.accept()
        except OSError as error:
            _log.debug("A relay could not accept a connection: %s", error)
            return
        if not welcome(peer[0]):
            client.close()
            return
        client.setblocking(False)
        tasks = self._tasks[listener.fileno()]
        task = self._loop.create_task(self._relay(client, address, port))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _relay(self, client: socket.socket, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with client, socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as server:
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, (address, port))
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._copy(client, server))
                    both.create_task(self._copy(server, client))
            except (OSError, ExceptionGroup) as error:
                _log.debug("A relayed connection to %s port %d ended: %s", address, port, error)

    async def _copy(self, source: socket.socket, target: socket.socket) -> None:
        while data := await self._loop.sock_recv(source, _CHUNK):
            await self._loop.sock_sendall(target, data)
        with contextlib.suppress(OSError):  # the other side has closed already
            target.shutdown(socket.SHUT_WR)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
