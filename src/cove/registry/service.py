"""What the routes stand on: storage, door, caches and counters of one registry, and the threads for its disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cove.registry import refusals
from cove.registry.access import Access
from cove.registry.metrics import Metrics
from cove.registry.proxy import Proxies
from cove.registry.settings import Settings
from cove.registry.storage import Storage
from cove.registry.uploads import Upload

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_THREADS = 8
_BATCH = 1 << 20
"""Bytes of an upload that are hashed and written at once, while the next ones arrive."""


class Registry:
    """One registry that serves."""

    def __init__(
        self, settings: Settings, storage: Storage, access: Access, proxies: Proxies, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.storage = storage
        self.access = access
        self.proxies = proxies
        self.metrics = metrics
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="registry")
        self._nudge = asyncio.Event()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something that waits for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def refuse_if_read_only(self, repository: str) -> None:
        """Raises Refused when nothing may be changed in a repository."""
        if self.settings.read_only:
            raise refusals.read_only("this registry is read-only")
        if self.proxies.upstream(repository) is not None:
            raise refusals.read_only(f"{repository} is a cache of another registry")

    async def receive(self, upload: Upload, body: AsyncIterator[bytes]) -> int:
        """Append a request's body to an upload; how many bytes came. What came before a failure stays."""
        parts: list[bytes] = []
        size = total = 0
        writing: asyncio.Future[None] | None = None
        try:
            async for part in body:
                parts.append(part)
                size += len(part)
                if size >= _BATCH:
                    if writing is not None:
                        await writing
                    writing = asyncio.ensure_future(self.run(upload.append, b"".join(parts)))
                    total += size
                    parts, size = [], 0
        finally:
            if writing is not None:
                await asyncio.shield(writing)
        if parts:
            await self.run(upload.append, b"".join(parts))
        total += size
        self.metrics.count("cove_registry_received_bytes_total", total)
        return total

    # ── garbage ───────────────────────────────────────────────────────────────────────────────────

    def nudge(self) -> None:
        """Something was deleted: collect soon."""
        self._nudge.set()

    async def keep_collecting(self) -> None:
        """Collect now and then, and after deletions, for ever."""
        while True:
            await self.collect()
            try:
                async with asyncio.timeout(self.settings.collect_every):
                    await self._nudge.wait()
                await asyncio.sleep(1.0)  # several deletions, one collection
            except TimeoutError:
                pass
            self._nudge.clear()

    async def collect(self) -> int:
        """One collection; the bytes that it freed."""
        try:
            await self.run(self.proxies.expire)
            if self.settings.untagged_after:
                await self.run(self.storage.forget_untagged, self.settings.untagged_after)
            freed = await self.run(self.storage.collect, grace=self.settings.grace)
        except Exception:
            _log.exception("collecting garbage failed")
            return 0
        self.metrics.count("cove_registry_collections_total")
        self.metrics.count("cove_registry_collected_bytes_total", freed)
        return freed

    def gauges(self) -> dict[str, float]:
        room = self.storage.room
        return {
            "cove_registry_stored_bytes": room.taken,
            "cove_registry_quota_bytes": room.limit,
            "cove_registry_proxy_received_bytes": self.proxies.received,
            "cove_registry_uploads": len(self.storage.uploads),
            **{f"cove_registry_{name}": count for name, count in self.storage.catalogue.counts().items()},
        }
