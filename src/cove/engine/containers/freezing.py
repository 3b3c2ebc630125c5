"""Containers that stand still while something of theirs is copied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from cove.engine.containers.registry import Container
from cove.errors import Conflict
from cove.runtime.client import Runtime


@asynccontextmanager
async def standing_still(
    runtime: Runtime, containers: Iterable[Container], *, pause: bool = True
) -> AsyncIterator[None]:
    """Within, their locks are held, and without `pause=False` those that run are frozen.

    Locks are taken in the order of identities, so that two who want the same ones do not wait for each other. Should
    the daemon die within, the next one thaws what nobody paused (`cove.engine.recovery`).
    """
    async with AsyncExitStack() as held:
        for container in sorted(containers, key=lambda each: each.id):
            await held.enter_async_context(container.lock)
            if pause and container.facts.phase == "running":
                try:
                    await runtime.freeze(container.id, True)
                except Conflict:
                    continue  # it ended this very moment
                held.push_async_callback(_thaw, runtime, container.id)
        yield


async def _thaw(runtime: Runtime, identity: str) -> None:
    with suppress(Conflict):  # it was killed meanwhile
        await runtime.freeze(identity, False)
