"""The time that ages are told by: the wall clock's when this process began, and even from there on.

A wall clock that is set while a push is under way would make its blobs old, and the collector take them, or keep what
is stale fresh for as long as it was set back.
"""

from __future__ import annotations

import time

_BEGAN = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> float:
    """Seconds since the epoch."""
    return _BEGAN + time.clock_gettime(time.CLOCK_BOOTTIME)
