"""Tells servers that are slow from those that keep a client waiting for ever, a byte at a time.

A time-out of a socket begins anew with every byte. So a response's head has a time of its own
(`cove.image.distribution.hangup`), and a body has to move: some kibibytes a minute, which the slowest line does.
"""

from __future__ import annotations

import time

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
