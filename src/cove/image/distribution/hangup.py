"""Hanging up: on servers whose response's head does not come in time, and at once when a transfer is cancelled.

    Transport.send ── on_behalf(cancel) ──▶ pool: a connection is taken … given back
                                                  └── watched meanwhile, from one thread: hung up on when it must be

Whoever waits for a socket cannot look at an event. So somebody else does, and shuts the socket down: the reader then
finds that its connection broke, looks at the event, and ends.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

_LOOK = 0.2
"""Seconds between two looks at the events."""


class _Hold:
    """A connection in use. `due`: when the head must have come; `late`: it had not."""

    def __init__(self, cancel: threading.Event | None) -> None:
        self.cancel = cancel
        self.sock: socket.socket | None = None
        self.due: float | None = None
        self.late = False

    def look(self, now: float) -> None:
        self.late = self.late or (self.due is not None and now > self.due)
        if self.sock is not None and (self.late or (self.cancel is not None and self.cancel.is_set())):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # of TLS, too: below it, from another thread


class _Watch:
    """All connections in use. Its thread is there as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holds: WeakKeyDictionary[object, _Hold] = WeakKeyDictionary()
        self._mine = threading.local()
        self._looking = False

    @contextlib.contextmanager
    def on_behalf(self, cancel: threading.Event | None) -> Iterator[None]:
        self._mine.cancel = cancel
        try:
            yield
        finally:
            self._mine.cancel = None

    def take(self, connection: object) -> None:
        with self._lock:
            self._holds[connection] = _Hold(getattr(self._mine, "cancel", None))
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="hang up", daemon=True).start()

    def give_back(self, connection: object | None) -> None:
        if connection is not None:  # urllib3 gives None back for one that broke
            with self._lock:
                self._holds.pop(connection, None)

    def connected(self, connection: HTTPConnection) -> None:
        """It has a socket, which it may forget before the body was read."""
        with self._lock:
            if (hold := self._holds.get(connection)) is not None:
                hold.sock = connection.sock

    @contextlib.contextmanager
    def head(self, connection: HTTPConnection) -> Iterator[None]:
        """Within, the head comes in twice the time between any two bytes, or never. Raises TimeoutError."""
        hold = self._holds.get(connection)
        if hold is None:
            yield
            return
        hold.due = time.monotonic() + 2 * float(connection.timeout or 30)
        try:
            yield
        finally:
            hold.due = None
        if hold.late:
            raise TimeoutError("the head of the response did not come in time")

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK)
            with self._lock:
                if not self._holds:
                    self._looking = False
                    return
                now = time.monotonic()
                for hold in self._holds.values():
                    hold.look(now)


_watch = _Watch()
on_behalf = _watch.on_behalf
"""What this thread sends within is hung up on when the event is set."""


class _Plain(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _watch.connected(self)

    def getresponse(self) -> Any:
        with _watch.head(self):
            return super().getresponse()


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _watch.connected(self)

    def getresponse(self) -> Any:
        with _watch.head(self):
            return super().getresponse()


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain

    def _get_conn(self, timeout: float | None = None) -> Any:
        return _taken(super()._get_conn(timeout))

    def _put_conn(self, conn: Any) -> None:
        _watch.give_back(conn)
        super()._put_conn(conn)


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure

    def _get_conn(self, timeout: float | None = None) -> Any:
        return _taken(super()._get_conn(timeout))

    def _put_conn(self, conn: Any) -> None:
        _watch.give_back(conn)
        super()._put_conn(conn)


def _taken(connection: Any) -> Any:
    _watch.take(connection)
    if connection.sock is not None:
        _watch.connected(connection)
    return connection


POOLS = {"http": _PlainPool, "https": _SecurePool}
"""For `pool_classes_by_scheme` of a PoolManager."""
