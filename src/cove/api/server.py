"""The sockets that the API listens on.

Owns which they are (unix sockets, TCP with client certificates, sockets that systemd opened) and the
refusal of strangers on TCP. It never parses HTTP (`cove.httpd`) nor knows a path.

A unix socket has mode 0660 and belongs to the group `docker` or `cove`, where one exists. Whoever
reaches the API is root on this host, so on TCP a browser's requests (any Origin, a Host that is
not ours) are refused, against cross-site requests and DNS rebinding. Through TLS a client cannot end its
stdin and go on reading: asyncio's TLS closes both directions together.
"""

from __future__ import annotations

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

from cove.api.errors import error_reply
from cove.errors import Conflict, Forbidden, Internal, describe
from cove.httpd import server
from cove.httpd.messages import App, Reply, Request

_MODE = 0o660
_GROUPS = ("docker", "cove")
_FIRST_SYSTEMD_FD = 3


class Server(server.Server):
    """Every listener of one daemon, over one application."""

    def __init__(self, app: App) -> None:
        super().__init__(app, error_reply)
        self._paths: list[Path] = []

    async def listen_unix(self, path: Path) -> None:
        """Make the socket at `path` and serve it; it is removed by `close`."""
        sock = bind_unix(path)
        self._paths.append(path)
        await self.listen(sock)

    async def listen_tcp(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, names: Collection[str] = ()
    ) -> tuple[str, int]:
        """Serve TCP; `names` are the host names that clients may use. Returns the address bound."""
        sock = server.bind_tcp(host, port)
        bound: tuple[str, int] = sock.getsockname()[:2]
        await self.serve(sock, _Guarded(self, frozenset({host, *names})), tls)
        return bound

    async def close(self, grace: float = 10.0) -> None:
        """Stop listening, let requests end within `grace` seconds, cancel the rest."""
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        await super().close(grace)


class _Guarded:
    """A server as TCP clients meet it: with a look at who asks."""

    def __init__(self, server: Server, names: frozenset[str]) -> None:
        self._app = server.app
        self._names = names
        self.connections = server.connections
        self.half_closed = server.half_closed
        self.refusal = server.refusal

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
