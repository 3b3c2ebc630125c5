"""Attach and exec: one connection that carries a process's stdin and its output.

    client                                   Cove
      POST …/attach  (Upgrade: tcp) ──────▶
      ◀────── 101 UPGRADED                         without Upgrade: 200 OK and no framing
      stdin bytes ────────────────────────▶  attachment.write
      shutdown(SHUT_WR) ──────────────────▶  attachment.close_stdin      the output goes on
      ◀──────────────────── output bytes     attachment.output
      ◀──────────────────────────── close    the output ended, or the detach keys were typed

Never knows what is behind an attachment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from cove.api.http import MULTIPLEXED, RAW, Channel, Disconnected, Hijack, Request
from cove.errors import CoveError

_MULTIPLEXED_SINCE = (1, 42)


class Attached(Protocol):
    """An engine's attachment; `write` raises Detached (see `carry`) on the detach keys."""

    tty: bool

    def output(self) -> AsyncIterator[bytes]: ...

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def close(self) -> None: ...


def stream_type(request: Request, *, tty: bool) -> str:
    """The content type of a process's output: older clients know only one name for both forms."""
    return RAW if tty or request.version < _MULTIPLEXED_SINCE else MULTIPLEXED


def hijack(request: Request, attachment: Attached, *, detached: type[Exception]) -> Hijack:
    """The reply that joins this connection to `attachment`."""
    kind = stream_type(request, tty=attachment.tty)
    if request.upgrades:
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n"

    async def run(channel: Channel) -> None:
        await carry(channel, attachment, detached=detached)

    return Hijack(head=head.encode(), run=run)


async def carry(channel: Channel, attachment: Attached, *, detached: type[Exception]) -> None:
    """Move bytes both ways until the output ends, the client detaches or is gone."""
    output = asyncio.create_task(_pump_output(channel, attachment))
    stdin = asyncio.create_task(_pump_stdin(channel, attachment))
    try:
        await asyncio.wait((output, stdin), return_when=asyncio.FIRST_COMPLETED)
        if stdin.done() and isinstance(stdin.exception(), (detached, Disconnected)):
            return
        await output
    except (CoveError, Disconnected):
        return
    finally:
        for task in (output, stdin):
            task.cancel()
            with suppress(asyncio.CancelledError, CoveError, Disconnected, detached):
                await task
        await attachment.close()


async def _pump_output(channel: Channel, attachment: Attached) -> None:
    async for data in attachment.output():
        await channel.write(data)


async def _pump_stdin(channel: Channel, attachment: Attached) -> None:
    while data := await channel.read():
        await attachment.write(data)
    await attachment.close_stdin()
