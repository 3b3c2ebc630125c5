"""Connections to log servers: datagrams and streams, by addresses like "tcp://logs.lan:514" or "unix:///dev/log"."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from cove.errors import InvalidArgument

_PATIENCE = 10.0
"""Seconds that a server may take to answer or to take what it is sent."""


class Address(msgspec.Struct, frozen=True):
    """`scheme` is udp, tcp, tcp+tls, tls, unix or unixgram; `host` a name, or the path of a socket."""

    scheme: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.scheme.startswith("unix"):
            return f"{self.scheme}://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(option: str, text: str, schemes: tuple[str, ...], port: int) -> Address:
    """An address out of the option of that name; raises InvalidArgument."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = schemes[0], text
    if scheme not in schemes:
        raise InvalidArgument(f"invalid log opt {option} '{text}': it begins with {' or '.join(schemes)}://")
    if scheme.startswith("unix"):
        if not rest.startswith("/"):
            raise InvalidArgument(f"invalid log opt {option} '{text}': the path of a socket begins with a slash")
        return Address(scheme, rest)
    try:
        parts = urlsplit(f"//{rest}")
        host, given = parts.hostname, parts.port
    except ValueError:
        host, given = None, None
    if not host or parts.path.strip("/"):
        raise InvalidArgument(f"invalid log opt {option} '{text}': write {scheme}://HOST:PORT")
    return Address(scheme, host, given or port)


class Connection:
    """One connection. Messages are sent whole or an OSError says that they were not."""

    def __init__(self, address: Address, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        self._address = address
        self._tls = tls
        self._datagram: socket.socket | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def stream(self) -> bool:
        """Whether what is sent flows together, so that messages must be told apart."""
        return self._address.scheme not in ("udp", "unixgram")

    async def open(self) -> None:
        """Connect. Raises OSError, whose filename is the address."""
        self.close()
        context = self._tls() if self._tls is not None and "tls" in self._address.scheme else None
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._connect(context)
        except socket.gaierror:
            raise OSError(errno.EHOSTUNREACH, "its name does not resolve", str(self._address)) from None
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "it does not answer", str(self._address)) from None
        except ssl.SSLCertVerificationError as error:
            words = f"its certificate is not believed: {error.verify_message}"
            raise OSError(errno.EPROTO, words, str(self._address)) from None
        except ssl.SSLError as error:
            words = f"no TLS comes about: {(error.reason or 'it ended').replace('_', ' ').lower()}"
            raise OSError(errno.EPROTO, words, str(self._address)) from None
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(self._address)) from None

    async def _connect(self, context: ssl.SSLContext | None) -> None:
        if not self.stream:
            self._datagram = await self._connect_datagram()
        elif self._address.scheme == "unix":
            self._reader, self._writer = await asyncio.open_unix_connection(self._address.host)
        else:
            opened = await asyncio.open_connection(self._address.host, self._address.port, ssl=context)
            self._reader, self._writer = opened

    async def _connect_datagram(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if self._address.scheme == "unixgram":
            family: int = socket.AF_UNIX
            target: str | tuple[object, ...] = self._address.host
        else:
            found = await loop.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_DGRAM)
            family, target = found[0][0], found[0][4]
        connection = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, target)
        except BaseException:
            connection.close()
            raise
        return connection

    async def send(self, message: bytes) -> None:
        """One datagram, or bytes of the stream. Raises OSError."""
        if self._datagram is not None:
            await self._send_datagram(message)
        elif self._writer is not None:
            self._writer.write(message)
            async with asyncio.timeout(_PATIENCE):
                await self._writer.drain()
            if self._reader is not None and self._reader.at_eof():
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        else:
            raise OSError(errno.ENOTCONN, "not connected")

    async def _send_datagram(self, message: bytes) -> None:
        assert self._datagram is not None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_PATIENCE):
            try:
                await loop.sock_sendall(self._datagram, message)
            except ConnectionRefusedError:
                if self._address.scheme != "udp":
                    raise
                await loop.sock_sendall(self._datagram, message)  # that was told of an earlier one, which is lost

    async def receive(self, size: int) -> bytes:
        """Up to so many bytes of an answer; raises OSError at its end, TimeoutError when none comes."""
        if self._reader is None:
            raise OSError(errno.ENOTCONN, "not connected")
        async with asyncio.timeout(_PATIENCE):
            data = await self._reader.read(size)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        return data

    def close(self) -> None:
        """Let go of it; what was written still goes out."""
        if self._datagram is not None:
            self._datagram.close()
        if self._writer is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._writer.close()
        self._datagram = self._reader = self._writer = None
