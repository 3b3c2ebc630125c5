"""Where the daemon is, and a connected stream to it.

The address is the first of: the `-H` flag, COVE_HOST, DOCKER_HOST, Cove's own socket. A
plain `unix://` connection is made with the interpreter's built-in `_socket`, because the
`socket` package builds dozens of enumerations that a short-lived command never looks at.
"""

from __future__ import annotations

import os

from cove.client.errors import NoDaemon
from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SOCKET = "/run/cove/cove.sock"


class Address:
    """A daemon's address: `unix` with a path, or `tcp` with host and port."""

    __slots__ = ("chosen", "host", "kind", "path", "port", "text", "tls")

    def __init__(self, text: str, *, chosen: bool, tls: bool = False) -> None:
        self.text = text
        self.chosen = chosen
        """Whether somebody named it; a daemon is never started by itself at a named address."""
        self.kind, _, rest = text.partition("://")
        self.path = self.host = ""
        self.port = 0
        self.tls = tls or self.kind == "https"
        if self.kind == "unix" and rest:
            self.path = rest
        elif self.kind in {"tcp", "http", "https"} and rest:
            host, _, port = rest.rstrip("/").rpartition(":")
            if not port.isdigit():
                host, port = rest.rstrip("/"), "2376" if self.tls else "2375"
            self.host, self.port = host.strip("[]") or "127.0.0.1", int(port)
        else:
            raise InvalidArgument(f"the daemon's address {text!r} is not of the form unix://PATH or tcp://HOST:PORT")

    def connect(self) -> Any:
        """A connected stream socket; raises NoDaemon with the reason."""
        try:
            return self._connect_unix() if self.kind == "unix" else self._connect_tcp()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise NoDaemon(
                f"cannot reach the daemon at {self.text}: {reason.lower()}; is it running? Try: cove daemon"
            ) from error

    def _connect_unix(self) -> Any:
        import _socket

        stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            stream.connect(self.path)
        except BaseException:
            stream.close()
            raise
        return stream

    def _connect_tcp(self) -> Any:
        import socket

        stream = socket.create_connection((self.host, self.port), timeout=30)
        stream.settimeout(None)
        return self._secure(stream) if self.tls else stream

    def _secure(self, stream: Any) -> Any:
        import ssl

        directory = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
        context = ssl.create_default_context(cafile=_existing(directory, "ca.pem"))
        if not os.environ.get("DOCKER_TLS_VERIFY"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = _existing(directory, "cert.pem")
        if certificate:
            context.load_cert_chain(certificate, _existing(directory, "key.pem"))
        return context.wrap_socket(stream, server_hostname=self.host)


def _existing(directory: str, name: str) -> str | None:
    path = os.path.join(directory, name)
    return path if os.path.exists(path) else None


def resolve(flag: str = "") -> Address:
    """The address to use: the flag, COVE_HOST, DOCKER_HOST, else Cove's own socket."""
    environ = os.environ
    named = flag or environ.get("COVE_HOST") or environ.get("DOCKER_HOST") or ""
    tls = bool(environ.get("DOCKER_TLS_VERIFY") or environ.get("DOCKER_TLS"))
    return Address(named or f"unix://{DEFAULT_SOCKET}", chosen=bool(named), tls=tls and named.startswith("tcp"))
