"""The daemon's side of workers that stay (`cove.image.worker.serving`): short jobs on trees, without a fork for each.

    hands.work("copy", {"root": …, "source": …}, copy=…) ─▶ a free worker, or a new one ─▶ its report

A few that are free are kept, and end by themselves. Who sees attributes that only root sees (`layer`) is another
worker than who does not. All functions block; they belong in an executor.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cove.errors import Internal
from cove.image.worker import sandbox
from cove.ipc import channel

_KEPT = 2
"""How many of a kind may wait for the next job."""


class _Hand:
    """One worker, for one job at a time."""

    def __init__(self, *, layer: bool) -> None:
        self.layer = layer
        self._socket, theirs = channel.pair()
        try:
            with theirs:
                job = {"verb": "serve", "layer": layer, "fds": ["jobs"]}
                self._pidfd = sandbox.hire(json.dumps(job).encode(), [theirs.fileno()])
        except BaseException:
            self._socket.close()
            raise

    def give(self, job: dict[str, Any], fds: Mapping[str, int]) -> int:
        """Where its report comes from. BrokenPipeError when it takes no job any more."""
        reading, writing = os.pipe()
        try:
            told = {**job, "fds": ["report", *fds]}
            channel.send(self._socket, 0, json.dumps(told).encode(), [writing, *fds.values()])
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return reading

    def kill(self) -> None:
        """End it at once, whatever it does."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Nothing more comes: it ends."""
        os.close(self._pidfd)
        self._socket.close()


class _Hands:
    """Those that are free, by kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Hand] = []

    def work(self, verb: str, trees: Mapping[str, int], *, layer: bool = False, **job: Any) -> dict[str, Any]:
        """Have a job done on the tree `root`, with the tree `source`: what it came to, or its error.

        `trees` are descriptors by name, of detached mounts. The worker has let go of them when this returns.
        """
        hand, report = self._given({"verb": verb, **job}, trees, layer)
        try:
            last = sandbox.listen(report)
            if not last:
                raise Internal("the archive worker died without a word")
        except BaseException:
            hand.kill()
            raise
        finally:
            os.close(report)
        self._back(hand)
        return sandbox.outcome(last)

    def _given(self, job: dict[str, Any], fds: Mapping[str, int], layer: bool) -> tuple[_Hand, int]:
        """Who does it, and where the report comes from. One that waited for long enough takes no job any more."""
        while known := self._take(layer):
            try:
                return known, known.give(job, fds)
            except OSError:
                known.close()
        hand = _Hand(layer=layer)
        try:
            return hand, hand.give(job, fds)
        except OSError as error:
            hand.close()
            raise Internal(f"the archive worker cannot be started: {error}") from error

    def _take(self, layer: bool) -> _Hand | None:
        with self._lock:
            for hand in reversed(self._free):
                if hand.layer == layer:
                    self._free.remove(hand)
                    return hand
        return None

    def _back(self, hand: _Hand) -> None:
        with self._lock:
            if sum(each.layer == hand.layer for each in self._free) < _KEPT:
                self._free.append(hand)
                return
        hand.close()


work = _Hands().work
