"""Descriptors of the containers' roots, held so that nobody waits for an unmount.

When the last reference to an overlay goes, the kernel writes out the whole file system that its upper directory
lies on. Were a container's own processes the last to hold it, their end would be seen only after that. So the
daemon holds each root too, and lets go of it in a thread, while whoever waits for the container is already told.
Should the daemon die, the kernel does the same without it.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress


class Roots:
    """One descriptor for each running container."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._going: dict[str, asyncio.Future[None]] = {}
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="unmount")

    def hold(self, identity: str, fd: int) -> None:
        """Own `fd` until `release`."""
        if identity in self._held:
            os.close(self._held[identity])
        self._held[identity] = fd

    def hold_of(self, identity: str, pid: int) -> None:
        """The same for a container that somebody else started; nothing when it is over already."""
        if identity not in self._held:
            with suppress(OSError):
                self._held[identity] = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def release(self, identity: str) -> None:
        """Let go of it, in a while."""
        fd = self._held.pop(identity, None)
        if fd is None:
            return
        going = asyncio.get_running_loop().run_in_executor(self._threads, os.close, fd)
        self._going[identity] = going
        going.add_done_callback(lambda _: self._going.pop(identity, None))

    async def released(self, identity: str) -> None:
        """Returns when no mount of an earlier life of this container is left because of us."""
        going = self._going.get(identity)
        if going is not None:
            await asyncio.shield(going)

    def close(self) -> None:
        """Let go of all of them."""
        held, self._held = self._held, {}
        for fd in held.values():
            os.close(fd)
        self._threads.shutdown()
