"""The sockets that the API listens on, and the connections that came through them.

Owns listening (unix sockets, TCP with client certificates, sockets that systemd opened), the
refusal of strangers on TCP and a clean end. It never parses HTTP (`connection`) nor knows a path.

A unix socket has mode 0660 and belongs to the group `docker` or `cove`, where one exists. Whoever
reaches the API is root on this host, so on TCP a browser's requests (any Origin, a Host that is
not ours) are refused, against cross-site requests and DNS rebinding. Through TLS a client cannot end its
stdin and go on reading: asyncio's TLS closes both directions together.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Collection
from pathlib import Path

from cove.api.connection import Connection
from cove.api.http import App, Reply, Request
from cove.errors import Conflict, Forbidden, Internal, describe

_BACKLOG = 4096
_MODE = 0o660
_GROUPS = ("docker", "cove")
_HANG_UP_SECONDS = 1.0
_FIRST_SYSTEMD_FD = 3


class Server:
    """Every listener of one daemon, over one application."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.connections: set[Connection] = set()
        self.half_closed: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._watch: asyncio.Task[None] | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve a unix socket that is already bound (by `bind_unix`, or by systemd)."""
        await self._serve(sock, self)

    async def listen_unix(self, path: Path) -> None:
        """Make the socket at `path` and serve it; it is removed by `close`."""
        sock = bind_unix(path)
        self._paths.append(path)
        await self._serve(sock, self)

    async def listen_tcp(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, names: Collection[str] = ()
    ) -> tuple[str, int]:
        """Serve TCP; `names` are the host names that clients may use. Returns the address bound."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise Internal(f"Cannot listen on tcp://{host}:{port}: {os.strerror(error.errno or 0)}") from error
        bound: tuple[str, int] = sock.getsockname()[:2]
        await self._serve(sock, _Guarded(self, frozenset({host, *names})), tls)
        return bound

    async def close(self, grace: float = 10.0) -> None:
        """Stop listening, let requests end within `grace` seconds, cancel the rest."""
        for listener in self._listeners:
            listener.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
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

    async def _serve(self, sock: socket.socket, owner: Server | _Guarded, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        listener = await loop.create_server(lambda: Connection(owner), sock=sock, backlog=_BACKLOG, ssl=tls)
        self._listeners.append(listener)
        if self._watch is None:
            self._watch = loop.create_task(self._drop_hung_up(), name="api: clients that hung up")

    async def _drop_hung_up(self) -> None:
        """A client that shut down sending may still listen, or be gone; only poll(2) can tell."""
        while True:
            await asyncio.sleep(_HANG_UP_SECONDS)
            for connection in tuple(self.half_closed):
                if connection.hung_up():
                    connection.abort()


class _Guarded:
    """A server as TCP clients meet it: with a look at who asks."""

    def __init__(self, server: Server, names: frozenset[str]) -> None:
        self._app = server.app
        self._names = names
        self.connections = server.connections
        self.half_closed = server.half_closed

    async def app(self, request: Request) -> Reply:
        if "origin" in request.headers:
            raise Forbidden("Requests of web pages (with an Origin header) are refused")
        host = _host_name(request.headers.get("host", ""))
        if host not in self._names and not _is_own_address(host):
            raise Forbidden(
                f"The host name {host!r} is not one that this daemon goes by; see tcp.names in daemon.toml"
            )
        return await self._app(request)


def _host_name(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def _is_own_address(host: str) -> bool:
    """Whether `host` is written as an address (which rebinding cannot forge) or is localhost."""
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def bind_unix(path: Path) -> socket.socket:
    """A listening-ready unix socket at `path`. Raises Conflict when a live one is there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        os.fchmod(sock.fileno(), _MODE)  # before bind, so that the path is never more open than this
        sock.bind(str(path))
        path.chmod(_MODE)  # the umask may have made it narrower
        _hand_to_group(path)
    except OSError as error:
        sock.close()
        raise Internal(f"Cannot listen on unix://{path}: {describe(error)}") from error
    except Conflict:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"Cannot listen on unix://{path}: another kind of file is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        code = probe.connect_ex(str(path))
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise Conflict(f"Cannot listen on unix://{path}: another program listens there")
    path.unlink(missing_ok=True)


def _hand_to_group(path: Path) -> None:
    for name in _GROUPS:
        try:
            group = grp.getgrnam(name).gr_gid
        except KeyError:
            continue
        os.chown(path, -1, group)
        return


def systemd_sockets(environment: dict[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed to this process (sd_listen_fds(3)), none otherwise."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    for fd in range(_FIRST_SYSTEMD_FD, _FIRST_SYSTEMD_FD + count):
        os.set_inheritable(fd, False)
    return [socket.socket(fileno=fd) for fd in range(_FIRST_SYSTEMD_FD, _FIRST_SYSTEMD_FD + count)]


def tls_context(*, ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """TLS that knows only clients with a certificate of `ca`. Raises Internal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Internal(f"Cannot use the TLS files {certificate}, {key} and {ca}: {error}") from error
    return context
