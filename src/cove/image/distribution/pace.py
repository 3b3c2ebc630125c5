"""Tells servers that are slow from those that keep a client waiting for ever, a byte at a time.

A time-out of a socket begins anew with every byte. So a response's head has a time of its own, and a body has to
move: some kibibytes a minute, which the slowest line does.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError

LEAST = 16 << 10
"""Bytes that come within the time allowed, unless the body ends."""


class Stalled(ProtocolError):
    """The body trickles; to its readers, the connection broke."""


class Pace:
    """One body's."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = time.monotonic()
        self._moved = 0

    def moved(self, count: int) -> None:
        """Raises Stalled."""
        self._moved += count
        now = time.monotonic()
        if self._moved >= LEAST:
            self._since, self._moved = now, 0
        elif now - self._since > self._seconds:
            raise Stalled(f"it sent {self._moved} bytes in {now - self._since:.0f} seconds")


@contextlib.contextmanager
def _timed(connection: HTTPConnection) -> Iterator[None]:
    """Hang up on a server whose response's head is not complete in twice the time between any two bytes."""
    sock, seconds = connection.sock, connection.timeout
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS, too: below it, and from another thread

    timer = threading.Timer(2 * float(seconds or 30), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError("the head of the response did not come in time")


class _Plain(HTTPConnection):
    def getresponse(self) -> Any:
        with _timed(self):
            return super().getresponse()


class _Secure(HTTPSConnection):
    def getresponse(self) -> Any:
        with _timed(self):
            return super().getresponse()


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


POOLS = {"http": _PlainPool, "https": _SecurePool}
"""For `pool_classes_by_scheme` of a PoolManager."""
