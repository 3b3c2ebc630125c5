"""Calls over a connection in memory: how they end when the other side, or what they wait for, does."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest

from cove.grpc.calls import Call, Client, Handler, serve, unary
from cove.grpc.protobuf import Message
from cove.grpc.status import Code, RpcError
from cove.httpd.messages import Disconnected


class Text(Message, frozen=True):
    text: Annotated[str, 1] = ""


class End:
    """One end of a connection; what is written at one is read at the other."""

    def __init__(self) -> None:
        self.other = self
        self._coming: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost = False

    async def read(self) -> bytes:
        return await self._coming.get()

    async def write(self, data: bytes) -> None:
        if self.lost:
            raise Disconnected
        self.other._coming.put_nowait(data)

    def cut(self) -> None:
        """Nothing passes any more."""
        for each in (self, self.other):
            each.lost = True
            each._coming.put_nowait(b"")


def connected() -> tuple[End, End]:
    one, other = End(), End()
    one.other, other.other = other, one
    return one, other


async def fail(method: Handler) -> RpcError:
    """What a client hears of a method that does not end well."""
    ours, theirs = connected()
    serving = asyncio.ensure_future(serve(theirs, {"/m": method}))
    client = Client(ours)
    running = asyncio.ensure_future(client.run())
    await asyncio.sleep(0)
    with pytest.raises(RpcError) as failed:
        async with asyncio.timeout(30):
            await client.unary("/m", Text(text="?"), Text)
    ours.cut()
    await asyncio.gather(serving, running)
    return failed.value


def test_a_call_ends_when_what_it_waits_for_was_given_up() -> None:
    async def wait(call: Call, request: Text) -> Text:
        doomed = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(doomed.cancel)
        await asyncio.shield(doomed)
        return Text()

    error = asyncio.run(fail(unary(Text, wait)))
    assert error.code == Code.CANCELLED and "was given up" in error.message


def test_a_session_that_ends_is_no_end_of_the_call_that_asked_it() -> None:
    async def ask(call: Call, request: Text) -> Text:
        session, theirs = connected()
        client = Client(session)
        running = asyncio.ensure_future(client.run())
        await asyncio.sleep(0)
        async with client.call("/files") as asked:
            theirs.cut()
            await running
            await asked.send(Text(text="more"))
        return Text()

    error = asyncio.run(fail(unary(Text, ask)))
    assert error.code == Code.UNAVAILABLE and "session ended" in error.message
