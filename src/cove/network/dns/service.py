"""One container that is served: its questions by UDP and TCP, answered from memory or put to other servers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
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
_CLIENTS = 128
_IDLE = 10.0
_RECEIVE = 65535

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
        udp = self._sandbox.udp
        for _ in range(_BATCH):
            try:
                data, client = udp.recvfrom(_RECEIVE)
            except BlockingIOError:
                return
            except OSError:  # ICMP of a client that did not wait for its answer
                continue
            self._answer(data, partial(self._send, client), tcp=False)

    def _send(self, client: tuple[str, int], message: bytes) -> None:
        with suppress(OSError):  # a full buffer or a client that is gone: it will ask again, or not
            self._sandbox.udp.sendto(message, client)

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
        limit = _RECEIVE if tcp else query.limit
        reply(wire.respond(query, found.answers, found.rcode, limit=limit))

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
