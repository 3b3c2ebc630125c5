"""The daemon's end of a process that waits at its barrier: let it go, or let it end.

Process ── go ──▶ Go on its sync socket ──▶ end of file: the program runs, or Failed: StartFailed
        │                               └─ end of file, and Go was never read: it was killed, StartLost
        └─ abort ──▶ end of file there: the process exits
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from cove import errors
from cove.ipc import channel
from cove.runtime import messages as m

_decode_failure = msgspec.json.Decoder(m.Failed).decode
_encode = msgspec.json.Encoder().encode
_T = TypeVar("_T")


async def once_more(start: Callable[[], Awaitable[_T]]) -> _T:
    """What `start` brings, in a second attempt when the first one was lost; what that one had made it has undone."""
    try:
        return await start()
    except errors.StartLost:
        return await start()


class Process:
    """A process at its barrier: `go` lets it execute its program, `abort` ends it.

    `pidfd`, `stdin_fd` and `pty_fd` are owned by the caller from now on.
    """

    def __init__(
        self,
        pid: int,
        fds: Sequence[int],
        sync: socket.socket,
        *,
        terminal: bool,
        on_root: Callable[[int], None] = os.close,
    ) -> None:
        self.pid = pid
        self.pidfd = fds[0]
        self.stdin_fd = fds[1] if len(fds) > 1 and not terminal else None
        self.pty_fd = fds[1] if len(fds) > 1 and terminal else None
        self._sync: socket.socket | None = sync
        self._on_root = on_root

    async def go(self, interfaces: tuple[m.Interface, ...] = ()) -> None:
        """Past the barrier; returns when the program runs. Raises StartFailed with the stage and the reason.

        StartLost when it was killed before that.
        """
        # Owned here until the end: the process may be over, and `close` be called, before this has read all.
        owned, self._sync = self._sync, None
        if owned is None:
            raise errors.Internal(f"Process {self.pid} was let go twice")
        with owned as sync:
            sync.setblocking(False)
            read = True
            try:
                await asyncio.get_running_loop().sock_sendall(sync, _encode(m.Go(interfaces=interfaces)))
            except (BrokenPipeError, ConnectionResetError):
                read = False
            answer = await self._answer(sync, read=read)
        if answer:
            raise _failed(answer)

    def check(self) -> None:
        """Raise StartFailed when the process has ended before the barrier; else nothing happens."""
        while self._sync is not None:
            try:
                content, fds = channel.message(self._sync, 1 << 16, 1, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not content:
                raise errors.StartLost
            if content != m.ROOT:
                raise _failed(content)
            for fd in fds:
                self._on_root(fd)

    async def _answer(self, sync: socket.socket, *, read: bool) -> bytes:
        """A failure, or b"" when the program runs; its root may come by before. `read`: Go was not refused."""
        while True:
            try:
                content, fds = channel.message(sync, 1 << 16, 1)
            except BlockingIOError:
                await _readable(sync)
                continue
            except ConnectionResetError:
                read = False  # it ended without reading Go; what it had to say still lies here, or end of file
                continue
            if not content and not read:
                raise errors.StartLost
            if content != m.ROOT:
                return content
            for fd in fds:
                self._on_root(fd)

    async def abort(self) -> None:
        """End of file at the barrier: the process exits."""
        self._let_go()

    def close(self) -> None:
        """Let go of everything that is ours; the process goes on."""
        self._let_go()
        for fd in (self.pidfd, self.stdin_fd, self.pty_fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd, self.stdin_fd, self.pty_fd = -1, None, None

    def _let_go(self) -> None:
        if self._sync is not None:
            self._sync.close()
            self._sync = None


def _failed(answer: bytes) -> errors.StartFailed:
    failure = _decode_failure(answer)
    return errors.StartFailed(failure.message, stage=failure.stage, errno=failure.errno, exit_code=failure.exit_code)


async def _readable(sync: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    loop.add_reader(sync, _settle, seen)
    try:
        await seen
    finally:
        loop.remove_reader(sync)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
