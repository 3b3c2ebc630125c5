"""The resolver's process: one per daemon, beside the supervisor, made when the first container needs names.

    daemon ══ requests (messages) ══▶ resolver ── one Service per container
                                         └── pidfds: a container's end closes what it had

It outlives the daemon, so that containers keep their names; a new daemon connects to the same socket and says
everything again. It ends when neither a daemon nor a container is left. Killed, it is made anew by the daemon,
which gives it all containers again.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import select
import socket
import sys
from collections.abc import Sequence

import msgspec

from cove.errors import CoveError, describe
from cove.ipc import channel
from cove.kernel.nftables import Seats
from cove.network.dns import messages as m
from cove.network.dns.following import Followed
from cove.network.dns.loop import Loop
from cove.network.dns.names import Names
from cove.network.dns.sandbox import Sandbox
from cove.network.dns.service import Budget, Service

_log = logging.getLogger("cove.dns")
_decode = msgspec.json.Decoder(m.Request).decode
_encode = msgspec.json.Encoder().encode
_RESOLV = "/etc/resolv.conf"


class HostServers:
    """The host's name servers, read again whenever its file is another one."""

    def __init__(self, path: str = _RESOLV) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: list[str] = []

    def __call__(self) -> list[str]:
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    words = [line.split() for line in file]
                self._servers = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
                self._seen = seen
        except OSError as error:
            _log.warning("the host's name servers are not known: %s", describe(error))
        return self._servers


class Resolver:
    """All containers of one daemon."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._names = Names()
        self._services: dict[str, Service] = {}
        self._connections: set[socket.socket] = set()
        self._host_servers = HostServers()
        self._seats = Seats()
        self._followed = Followed(self._seats)
        self._budget = Budget(_raise_limit() // 2)
        self._used = False

    def serve(self, listener: socket.socket) -> None:
        """Until neither daemon nor container is left."""
        self._loop.watch(listener.fileno(), lambda: self._accept(listener))
        gc.collect()
        gc.freeze()
        while not self._used or self._connections or self._services:
            self._loop.turn()

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        self._used = True
        self._connections.add(connection)
        self._loop.watch(connection.fileno(), lambda: self._request(connection))

    def _hang_up(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        self._loop.unwatch(connection.fileno())
        connection.close()

    def _request(self, connection: socket.socket) -> None:
        packet = channel.arrived(connection)
        if packet is None:
            self._hang_up(connection)
            return
        failure = ""
        try:
            self._do(_decode(packet.body), packet.fds)
        except CoveError as error:
            failure = error.message
        except OSError as error:
            failure = error.strerror or describe(error)
        try:
            channel.send(connection, packet.number, _encode(m.Told(failure=failure)))
        except OSError:
            self._hang_up(connection)

    def _do(self, request: m.Request, fds: tuple[int, ...]) -> None:
        match request:
            case m.Know():
                self._names.know(request)
            case m.Join():
                self._names.join(request.network, request.member)
            case m.Leave():
                self._names.leave(request.network, request.container)
            case m.Serve():
                self._serve(request.view, fds[0])
            case m.Forget():
                self._forget(request.container)
            case m.Keep():
                self._names.keep(set(request.networks), set(request.containers))
                for container in set(self._services) - set(request.containers):
                    self._forget(container)

    def _serve(self, view: m.View, pidfd: int) -> None:
        known = self._services.get(view.container)
        if known is not None and not _ended(known.pidfd):
            os.close(pidfd)
            known.view = view
            return
        if known is not None:
            self._forget(view.container)
        sandbox = Sandbox(pidfd, self._seats)
        self._services[view.container] = Service(
            self._loop, self._names, view, sandbox, self._budget, self._host_servers, self._followed.follow
        )
        self._loop.watch(pidfd, lambda: self._forget(view.container))

    def _forget(self, container: str) -> None:
        """Its process ended, or the daemon says so."""
        service = self._services.pop(container, None)
        if service is not None:
            self._loop.unwatch(service.pidfd)
            service.close()
            self._names.forget(container)


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _raise_limit() -> int:
    """As many descriptors as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(hard, 1 << 17) if hard != resource.RLIM_INFINITY else 1 << 17
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m cove.network.dns.server --listen FD --run-root DIR`: the listening socket comes from the daemon."""
    parser = argparse.ArgumentParser(prog="cove resolver")
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--run-root", required=True, help="says to people which daemon's this is")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with socket.socket(fileno=options.listen) as listener:
        Resolver().serve(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
