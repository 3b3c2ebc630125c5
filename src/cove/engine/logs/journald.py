"""The driver `journald`: lines as entries of systemd's journal, by its native protocol.

An entry is a datagram of fields: "KEY=value" and a newline, or, where the value has a newline, "KEY", a newline, the
value's length in 8 bytes (little-endian), the value and a newline. One that is too large for a datagram goes as a
sealed memory file whose descriptor is sent.

Source: systemd, "Native Journal Protocol" (JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence

from cove.engine.logs.entries import STDERR, Entry, Source

OPTIONS: frozenset[str] = frozenset()
SOCKET = "/run/systemd/journal/socket"
_ERROR, _INFO = b"3", b"6"
_PATIENCE = 10.0
"""Seconds that a journal which is overrun may take."""
_SEALS = 0x0F  # F_SEAL_SEAL | SHRINK | GROW | WRITE


def check(options: Mapping[str, str]) -> None:
    """Its options are those that every driver has."""


class Journald:
    """See `cove.engine.logs.entries.Sink`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        fields = {
            "CONTAINER_ID": source.id[:12],
            "CONTAINER_ID_FULL": source.id,
            "CONTAINER_NAME": source.name,
            "CONTAINER_TAG": source.tag,
            "IMAGE_NAME": source.image,
            "SYSLOG_IDENTIFIER": source.tag,
        }
        fields |= {_key(name): value for name, value in source.attributes.items()}
        self._common = b"".join(_field(name, value.encode()) for name, value in fields.items() if name)
        self._socket: socket.socket | None = None

    async def open(self) -> None:
        self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            connection.connect(SOCKET)
        except FileNotFoundError:
            connection.close()
            raise FileNotFoundError(errno.ENOENT, "journald is not enabled on this host") from None
        except BaseException:
            connection.close()
            raise
        connection.setblocking(False)
        self._socket = connection

    async def send(self, entries: Sequence[Entry]) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        for entry in entries:
            message = self._message(entry)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await loop.sock_sendall(self._socket, message)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                _send_file(self._socket, message)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _message(self, entry: Entry) -> bytes:
        seconds, rest = divmod(entry.time_ns, 10**9)
        own = [
            _field("MESSAGE", entry.data),
            _field("PRIORITY", _ERROR if entry.stream == STDERR else _INFO),
            _field("SYSLOG_TIMESTAMP", f"{seconds}.{rest:09d}".encode()),
        ]
        if entry.partial:
            own.append(_field("CONTAINER_PARTIAL_MESSAGE", b"true"))
        return self._common + b"".join(own)


SINK = Journald


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _key(name: str) -> str:
    """A label's name as a field's: capital letters, digits and underscores, the first of them no underscore."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper()).lstrip("_0123456789")[:64]


def _send_file(connection: socket.socket, message: bytes) -> None:
    descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, message)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        connection.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    finally:
        os.close(descriptor)
