"""Pipes and terminals on the event loop: write all, read what is there, never block."""

from __future__ import annotations

import asyncio
import os

_CHUNK = 1 << 16


async def write_all(descriptor: int, data: bytes) -> bool:
    """Write everything; False when nobody can read it any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            await _writable(descriptor)
        except OSError:
            return False
    return True


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(descriptor: int) -> None:
    """Wait for room. The descriptor is duplicated: a loop watches a number only once, and it may be closed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    own = os.dup(descriptor)
    loop.add_writer(own, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(own)
        os.close(own)


def read_some(descriptor: int) -> bytes | None:
    """What is there now: b"" at the end, None when there is nothing yet. A pty without a far end is at its end."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
