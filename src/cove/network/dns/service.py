"""One container that is served: its questions by UDP and TCP, answered from memory or put to other servers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial

from cove.network.dns import wire
from cove.network.dns.forward import Exchange, Server
from cove.network.dns.loop import READ, WRITE, Loop
from cove.network.dns.messages import View
from cove.network.dns.names import Names
from cove.network.dns.sandbox import Sandbox

_log = logging.getLogger("cove.dns")
_PORT = 53
_BATCH = 64
"""Datagrams of one container that are read before another one's turn."""
_REMEMBERED, _REMEMBERED_SIZE = 1024, 512
"""Answers that are kept for one container, and how long a question may be for it."""
_CLIENTS = 128
_IDLE = 10.0
_RECEIVE = 65535
_buffer = memoryview(bytearray(_RECEIVE))
"""Of the one thread: the datagram that is being answered."""

Reply = Callable[[bytes], None]


class Budget:
    """How many questions may be with other servers at once: `total` together, a quarter of it for each container."""

    def __init__(self, total: int) -> None:
        self.left = total
        self.share = max(1, total // 4)


class Service:
    """What the resolver does for one container, until `close`."""

    def __init__(
        self,
        loop: Loop,
        names: Names,
        view: View,
        sandbox: Sandbox,
        budget: Budget,
        host_servers: Callable[[], list[str]],
        follow: Callable[[View, str, bytes], None],
    ) -> None:
        self.view = view
        self._follow = follow
        self._loop, self._names, self._sandbox, self._budget = loop, names, sandbox, budget
        self._host_servers = host_servers
        self._remembered: dict[bytes, bytes] = {}
        self._remembered_of: tuple[int, View] = (-1, view)
        self._exchanges: set[Exchange] = set()
        self._clients: set[_Client] = set()
        loop.watch(sandbox.udp.fileno(), self._datagrams)
        loop.watch(sandbox.tcp.fileno(), self._accept)

    @property
    def pidfd(self) -> int:
        """Readable when the container has ended."""
        return self._sandbox.pidfd

    def close(self) -> None:
        for exchange in tuple(self._exchanges):
            exchange.cancel()
        self._budget.left += len(self._exchanges)
        self._exchanges.clear()
        for client in tuple(self._clients):
            client.close()
        self._loop.unwatch(self._sandbox.udp.fileno())
        self._loop.unwatch(self._sandbox.tcp.fileno())
        self._sandbox.close()

    # ── questions ─────────────────────────────────────────────────────────────────────────────────

    def _datagrams(self) -> None:
        udp, remembered = self._sandbox.udp, self._still_true()
        for _ in range(_BATCH):
            try:
                size, client = udp.recvfrom_into(_buffer)
            except BlockingIOError:
                return
            except OSError:  # ICMP of a client that did not wait for its answer
                continue
            data = _buffer[:size].tobytes()
            if (message := remembered.get(data[2:])) is not None:
                self._send(client, data[:2] + message)
            else:
                self._answer(data, partial(self._send, client), tcp=False)

    def _still_true(self) -> dict[bytes, bytes]:
        """The answers, without their numbers, to questions that came before; none once a name or the view changed."""
        generation, view = self._remembered_of
        full = len(self._remembered) >= _REMEMBERED
        if generation != self._names.generation or view is not self.view or full:
            self._remembered.clear()
            self._remembered_of = (self._names.generation, self.view)
        return self._remembered

    def _send(self, client: tuple[str, int], message: bytes) -> None:
        try:
            self._sandbox.udp.sendto(message, client)
        except OSError:
            pass  # a full buffer or a client that is gone: it will ask again, or not

    def _answer(self, data: bytes, reply: Reply, *, tcp: bool) -> None:
        query = wire.parse(data)
        if query is None:
            return
        if query.rcode:
            reply(wire.respond(query, rcode=query.rcode))
            return
        found = self._names.find(self.view, query)
        if found.forward:
            self._forward(query, data, reply, tcp=tcp)
            return
        message = wire.respond(query, found.answers, found.rcode, limit=_RECEIVE if tcp else query.limit)
        if not tcp and len(found.answers) < 2 and len(data) <= _REMEMBERED_SIZE:  # several come in any order
            self._remembered[data[2:]] = message[2:]
        reply(message)

    def _forward(self, query: wire.Query, data: bytes, reply: Reply, *, tcp: bool) -> None:
        servers = self._servers()
        if not servers:
            reply(wire.respond(query, rcode=wire.NXDOMAIN))
            return
        if self._budget.left <= 0 or len(self._exchanges) >= self._budget.share:
            reply(wire.respond(query, rcode=wire.SERVFAIL))
            return

        def done(message: bytes | None) -> None:
            self._exchanges.discard(exchange)
            self._budget.left += 1
            if message is not None and self.view.followed:
                self._follow(self.view, query.name, message)
            reply(message if message is not None else wire.respond(query, rcode=wire.SERVFAIL))

        exchange = Exchange(self._loop, query, data, servers, tcp=tcp, done=done)
        self._exchanges.add(exchange)
        self._budget.left -= 1
        exchange.start()

    def _servers(self) -> list[Server]:
        """Those that the container names, or the host's; none for a container without a way out."""
        upstreams: list[Server] = [
            (each.address, _PORT, self._sandbox.open if each.inside else socket.socket)
            for each in self.view.upstreams
            if each.inside or self.view.outside
        ]
        if upstreams or not self.view.outside:
            return upstreams
        return [(address, _PORT, socket.socket) for address in self._host_servers()]

    # ── clients that come by TCP ──────────────────────────────────────────────────────────────────

    def _accept(self) -> None:
        try:
            sock, _ = self._sandbox.tcp.accept()
        except BlockingIOError:
            return
        if len(self._clients) >= _CLIENTS:
            sock.close()
            return
        sock.setblocking(False)
        self._clients.add(
            _Client(self._loop, sock, lambda data, reply: self._answer(data, reply, tcp=True), self._clients.discard)
        )


class _Client:
    """A connection: messages with two bytes of length before each, several at once if the client likes."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        answer: Callable[[bytes, Reply], None],
        gone: Callable[[_Client], None],
    ) -> None:
        self._loop, self._sock, self._answer, self._gone = loop, sock, answer, gone
        self._in, self._out = b"", b""
        self._closed = False
        self._timer = loop.later(_IDLE, self.close)
        loop.watch(sock.fileno(), self._ready)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self._gone(self)

    def _ready(self) -> None:
        try:
            if self._out:
                self._flush()
            piece = self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.close()
            return
        self._timer.cancel()
        self._timer = self._loop.later(_IDLE, self.close)
        self._in += piece
        while len(self._in) >= 2 and len(self._in) >= 2 + (size := int.from_bytes(self._in[:2], "big")):
            message, self._in = self._in[2 : 2 + size], self._in[2 + size :]
            self._answer(message, self._reply)

    def _reply(self, message: bytes) -> None:
        if self._closed:
            return
        self._out += len(message).to_bytes(2, "big") + message
        if len(self._out) > 1 << 20:  # it asks and does not read
            self.close()
            return
        try:
            self._flush()
        except BlockingIOError:
            self._loop.watch(self._sock.fileno(), self._ready, READ | WRITE)
        except OSError:
            self.close()

    def _flush(self) -> None:
        while self._out:
            self._out = self._out[self._sock.send(self._out) :]
        self._loop.watch(self._sock.fileno(), self._ready)
