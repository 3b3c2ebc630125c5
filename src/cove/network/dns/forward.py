"""Questions that are not ours, put to other servers: one exchange per question, many at a time.

    server 1 ──(its patience ends, or it fails)──▶ server 2 ──▶ … ──▶ server 1 again ──▶ SERVFAIL
       └──── an earlier server's late answer still counts ─────┘

A question that came by UDP is asked by UDP, and a truncated answer goes back as it is: the client then comes by
TCP, and is served by TCP. Each exchange has a socket of its own, so a source port that nobody can guess, and a
random number; an answer must come from the server and repeat both number and question.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable, Sequence

from cove.network.dns import wire
from cove.network.dns.loop import READ, WRITE, Loop, Timer
from cove.network.dns.wire import Query

PATIENCE = 1.5
"""Seconds for one server before the next is asked too; programs wait for about five in all."""
_ROUNDS = 2
_LAST_PATIENCE = 3.0
_BAD = (wire.SERVFAIL, wire.NOTIMP, wire.REFUSED)
_BUFFER = 65535

Open = Callable[[int, int], socket.socket]
"""Makes a socket of a family and a type, in the namespace from which the server is to be asked."""
Server = tuple[str, int, Open]
"""Address, port, and from where."""


class Exchange:
    """One question with the servers. `done` is called once: with the answer, or None when nobody gave one."""

    def __init__(
        self,
        loop: Loop,
        query: Query,
        data: bytes,
        servers: Sequence[Server],
        *,
        tcp: bool,
        done: Callable[[bytes | None], None],
    ) -> None:
        self._loop = loop
        self._query = query
        self._number = secrets.randbits(16)
        self._data = wire.renumbered(data, self._number)
        self._waiting = list(servers) * _ROUNDS
        self._tcp = tcp
        self._done: Callable[[bytes | None], None] | None = done
        self._sockets: list[socket.socket] = []
        self._last_bad: bytes | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        self._next()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._done = None
        self._close()

    def _next(self) -> None:
        """Ask the next server; where there is none any more, wait a last time."""
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            address, port, open_ = self._waiting.pop(0)
            try:
                self._ask(address, port, open_)
            except (OSError, ValueError):
                continue
            patience = PATIENCE if self._waiting else _LAST_PATIENCE
            self._timer = self._loop.later(patience, self._next)
            return
        self._finish(self._last_bad)

    def _ask(self, address: str, port: int, open_: Open) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if self._tcp else socket.SOCK_DGRAM
        sock = open_(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            target = socket.getaddrinfo(address, port, family, kind, flags=socket.AI_NUMERICHOST)[0][4]
            refused = sock.connect_ex(target)
            if refused and refused != errno.EINPROGRESS:
                raise OSError(refused, "connect", address)
            if not self._tcp:
                sock.send(self._data)
        except OSError:
            sock.close()
            raise
        self._sockets.append(sock)
        if self._tcp:
            stream = _Stream(self._loop, sock, self._data, self._received, self._failed)
            self._loop.watch(sock.fileno(), stream.ready, WRITE)
        else:
            self._loop.watch(sock.fileno(), lambda: self._datagram(sock))

    def _datagram(self, sock: socket.socket) -> None:
        try:
            message = sock.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError:  # ICMP said that nobody listens there
            self._failed(sock)
            return
        self._received(sock, message)

    def _received(self, sock: socket.socket, message: bytes) -> None:
        if not wire.answers(message, self._number, self._query.question):
            return
        if wire.rcode(message) in _BAD:
            self._last_bad = message
            self._failed(sock)
        else:
            self._finish(message)

    def _failed(self, sock: socket.socket) -> None:
        """This server is out; where nobody else is being waited for, the next one is asked at once."""
        self._drop(sock)
        if self._waiting or not self._sockets:
            self._next()

    def _finish(self, message: bytes | None) -> None:
        done, self._done = self._done, None
        self._close()
        if done is not None:
            done(wire.renumbered(message, self._query.id) if message is not None else None)

    def _drop(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            self._sockets.remove(sock)
            self._loop.unwatch(sock.fileno())
            sock.close()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for sock in tuple(self._sockets):
            self._drop(sock)


class _Stream:
    """A question over TCP: two bytes of length before each message."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        data: bytes,
        received: Callable[[socket.socket, bytes], None],
        failed: Callable[[socket.socket], None],
    ) -> None:
        self._loop, self._sock = loop, sock
        self._out = len(data).to_bytes(2, "big") + data
        self._in = b""
        self._received, self._failed = received, failed

    def ready(self) -> None:
        try:
            if self._out:
                self._out = self._out[self._sock.send(self._out) :]
                if not self._out:
                    self._loop.watch(self._sock.fileno(), self.ready, READ)
                return
            piece = self._sock.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._failed(self._sock)
            return
        self._in += piece
        size = int.from_bytes(self._in[:2], "big")
        if len(self._in) >= 2 + size > 2:
            self._received(self._sock, self._in[2 : 2 + size])
