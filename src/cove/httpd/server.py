"""Listeners, and the connections that came through them, over one application.

Owns listening, what becomes of clients that hung up or stand still, and a clean end. It never parses
HTTP (`connection`) nor knows a path.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time

from cove.errors import Internal
from cove.httpd.connection import Connection, Owner
from cove.httpd.messages import App, Refusal

_BACKLOG = 4096
_AT_ONCE = 4
"""Connections accepted in one turn: what asyncio calls backlog. Without descriptors it complains as many times."""
_LOOK_SECONDS = 1.0
_HEAD_PATIENCE = 300.0
"""Seconds for a request's line and headers to come."""


class Server:
    """Listeners over one application; `patience` is how long a client may stand still, None for ever."""

    def __init__(self, app: App, refusal: Refusal, *, patience: float | None = None) -> None:
        self.app = app
        self.refusal = refusal
        self.connections: set[Connection] = set()
        self.half_closed: set[Connection] = set()
        self._patience = patience
        self._listeners: list[asyncio.Server] = []
        self._watch: asyncio.Task[None] | None = None

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve a socket that is already bound."""
        await self.serve(sock, self, tls)

    async def serve(self, sock: socket.socket, owner: Owner, tls: ssl.SSLContext | None = None) -> None:
        """Serve a socket; its connections belong to `owner`."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        listener = await loop.create_server(lambda: Connection(owner), sock=sock, backlog=_AT_ONCE, ssl=tls)
        sock.listen(_BACKLOG)
        self._listeners.append(listener)
        if self._watch is None:
            self._watch = loop.create_task(self._look_after(), name="http: clients that hung up")

    async def close(self, grace: float = 10.0) -> None:
        """Stop listening, let requests end within `grace` seconds, cancel the rest."""
        for listener in self._listeners:
            listener.close()
        if self._watch is not None:
            self._watch.cancel()
        streaming = [connection for connection in self.connections if connection.watching]
        for connection in streaming:
            connection.cancel()
        tasks = [connection.stop() for connection in tuple(self.connections)]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for connection in tuple(self.connections):
            connection.abort()
            connection.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_after(self) -> None:
        """A client that shut down sending may still listen, or be gone; only poll(2) can tell."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for connection in tuple(self.half_closed):
                if connection.hung_up():
                    connection.abort()
            begun = time.monotonic() - _HEAD_PATIENCE
            for connection in tuple(self.connections):
                if connection.head_since is not None and connection.head_since < begun:
                    connection.refuse_late()
            if self._patience is not None:
                oldest = time.monotonic() - self._patience
                for connection in tuple(self.connections):
                    if connection.waiting_since is not None and connection.waiting_since < oldest:
                        connection.abort()


def bind_tcp(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address. Raises Internal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise Internal(f"Cannot listen on tcp://{host}:{port}: {os.strerror(error.errno or 0)}") from error
    return sock
