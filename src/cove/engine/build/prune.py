"""`builder prune`: forget finished steps and cache mounts, the longest unused first, as far as is asked.

    leftovers ─▶ filters (age, id, type, …) ─▶ bounds of room ─▶ rows and directories go ─▶ layers are collected

A step's layer is free once nothing stands on it: what stands on it is as recently used, and goes before it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cove.build.cache import BuildCache
from cove.engine.build.caches import Caches
from cove.engine.build.leftovers import CONTEXT, MOUNT, STEP, Leftover, leftovers
from cove.engine.context import Context
from cove.errors import InvalidArgument
from cove.wire.builds import BuildPruneResponse
from cove.wire.filters import Filters
from cove.wire.times import moment

Wanted = Callable[[Leftover], bool]


class Bounds(msgspec.Struct, frozen=True):
    """In bytes, 0 for none: what always may stay, what may stay at most, what is to be free on the disk."""

    reserved: int = 0
    most: int = 0
    free: int = 0

    def excess(self, total: int, free: int) -> int:
        """How much of a total has to go while so much of the disk is free; as BuildKit reckons it."""
        if not (self.reserved or self.most or self.free):
            return total
        kept = self.most or (total if self.free else self.reserved)
        if self.free > free:
            kept = min(kept, total - (self.free - free))
        return max(total - max(kept, self.reserved), 0)


async def prune_cache(
    context: Context, cache: BuildCache, caches: Caches, filters: Filters, *, all_: bool, bounds: Bounds
) -> BuildPruneResponse:
    """Forget what the filters want gone; without `all_`, what an image or a container still uses stays known.

    A cache mount that a step has stays.
    """
    wanted = _wanted(filters, all_=all_)

    def choose() -> tuple[int, list[Leftover]]:
        before, rooms = leftovers(context, cache)
        total = sum(each.room for each in before)
        disk = os.statvfs(context.data.tmp)
        return total, _chosen(before, rooms, wanted, bounds.excess(total, disk.f_bavail * disk.f_frsize))

    def forget(gone: list[Leftover]) -> int:
        for each in gone:
            if each.type == STEP:
                cache.forget(each.id)
            elif each.type == CONTEXT:
                _remove_directory(context.data.build_contexts / each.id)
        if all_ and not filters and bounds == Bounds():
            cache.forget_digests()
        if not gone:
            return total
        context.store.collector.collect()
        context.store.layers.finish_removals()
        return sum(each.room for each in leftovers(context, cache)[0])

    total, chosen = await context.executors.bulk(choose)
    gone = [each for each in chosen if each.type != MOUNT or await caches.drop(each.id)]
    left = await context.executors.bulk(forget, gone)
    done = BuildPruneResponse(
        caches_deleted=tuple(each.id for each in gone) or None, space_reclaimed=max(total - left, 0)
    )
    context.events.emit("builder", "prune", "", {"reclaimed": str(done.space_reclaimed)})
    return done


def _chosen(found: list[Leftover], rooms: Mapping[str, int], wanted: Wanted, excess: int) -> list[Leftover]:
    """Those that go until `excess` bytes are free; a layer's room is free when the last that stands on it goes."""
    needed = Counter(chain for each in found for chain in each.chains)
    used: dict[str, int] = {}
    for each in found:
        for chain in each.chains:
            used[chain] = max(used.get(chain, 0), each.used_ns)

    def turn(each: Leftover) -> tuple[int, int]:
        return (used[each.chains[0]] if each.chains else each.used_ns, -len(each.chains))

    everything = excess >= sum(each.room for each in found)
    gone: list[Leftover] = []
    for each in sorted(found, key=turn):
        if excess <= 0 and not everything:
            break
        if not wanted(each):
            continue
        gone.append(each)
        excess -= each.room if not each.chains else 0
        for chain in each.chains:
            needed[chain] -= 1
            excess -= rooms.get(chain, 0) if not needed[chain] else 0
    return gone


def _wanted(filters: Filters, *, all_: bool) -> Wanted:
    """What the filters say of one leftover. Raises InvalidArgument."""
    limit = _limit(filters)
    ids, parents = filters.get("id"), filters.get("parent")

    def wanted(each: Leftover) -> bool:
        return (
            "label" not in filters  # a step has none
            and (all_ or not each.shared or "shared" in filters)
            and (not limit or each.used_ns <= limit)
            and (not ids or any(each.id.startswith(text) for text in ids))
            and (not parents or any(parent.startswith(text) for parent in each.parents for text in parents))
            and filters.exact("type", each.type)
            and filters.exact("description", each.title)
            and ("shared" not in filters or each.shared)
            and ("private" not in filters or not each.shared)
            and "inuse" not in filters  # nothing of it is in use while nobody looks: a running step holds its own
        )

    return wanted


def _limit(filters: Filters) -> int:
    """Nanoseconds of Unix time: what was used after it stays; 0 for no limit."""
    terms = filters.get("until") or filters.get("unused-for")
    if len(terms) > 1:
        raise InvalidArgument("more than one until filter specified")
    return moment(terms[0], now_ns=time.time_ns()) if terms else 0


def _remove_directory(directory: Path) -> None:
    """Whoever uses a copy of a client's directory has moved it away before."""
    doomed = directory.with_name(f".{directory.name}")
    try:
        os.rename(directory, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)
