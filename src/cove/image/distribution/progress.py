"""Progress as Docker's clients draw it: a stream of small JSON messages, one line per layer id.

Several threads report through one `Progress`; it lets one message through at a time, and of a layer's
many byte counts only as many as an eye can follow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Message = dict[str, Any]
Sink = Callable[[Message], None]

_INTERVAL = 0.1
_WIDTH = 50


class Progress:
    """Serialises messages into a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def say(self, status: str, identity: str = "") -> None:
        """A line of its own, or the new state of the layer `identity`."""
        self._send({"status": status, **({"id": identity} if identity else {})})

    def layer(self, identity: str, status: str) -> None:
        """The new state of a layer, without a count."""
        self._send({"status": status, "progressDetail": {}, "id": identity})

    def count(self, identity: str, status: str, current: int, total: int) -> None:
        """A layer's state with its bytes done and to do."""
        detail = {"current": current, "total": total}
        self._send({"status": status, "progressDetail": detail, "progress": bar(current, total), "id": identity})

    def aux(self, value: Message) -> None:
        """A value for programs, not for people."""
        self._send({"progressDetail": {}, "aux": value})

    def counted(self, chunks: Iterable[bytes], identity: str, status: str, total: int) -> Iterator[bytes]:
        """`chunks`, reported while they pass, at most ten times a second."""
        due, done = self.throttle(), 0
        for chunk in chunks:
            done += len(chunk)
            if due():
                self.count(identity, status, done, total)
            yield chunk

    @staticmethod
    def throttle() -> Callable[[], bool]:
        """A question that is answered yes at once, and then at most ten times a second."""
        due = 0.0

        def ask() -> bool:
            nonlocal due
            now = time.monotonic()
            if now < due:
                return False
            due = now + _INTERVAL
            return True

        return ask

    def _send(self, message: Message) -> None:
        with self._lock:
            self._sink(message)


def bar(current: int, total: int) -> str:
    """ "[=====>     ]  1.2MB/3MB", or just the count when the total is not known."""
    if total <= 0 or current > total:
        return f"{size(current):>8}"
    filled = _WIDTH * current // total
    drawn = "=" * filled + (">" + " " * (_WIDTH - filled - 1) if filled < _WIDTH else "")
    return f"[{drawn}]  {size(current):>7}/{size(total)}"


def size(count: float) -> str:
    """Bytes as people read them: "1.234MB", decimal, four digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.4g}{unit}"
        count /= 1000
    raise AssertionError("the last unit takes all")
