"""`builder prune`: forget steps by age and size, and the cache mounts that no step used lately."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from cove.build.cache import BuildCache, Record
from cove.engine.context import Context
from cove.errors import InvalidArgument
from cove.wire.builds import BuildPruneResponse
from cove.wire.filters import Filters
from cove.wire.times import moment


async def prune_cache(
    context: Context, cache: BuildCache, filters: Filters, *, all_: bool, keep_bytes: int
) -> BuildPruneResponse:
    """Forget what the filters want gone; without `all_`, steps that an image still uses stay known."""
    limit = _limit(filters)
    wanted_ids = filters.get("id")

    def wanted(record: Record) -> bool:
        if wanted_ids and not any(record.key.startswith(each) for each in wanted_ids):
            return False
        return all_ or record.chain not in used

    def work() -> BuildPruneResponse:
        gone = cache.prune(wanted=wanted, keep_bytes=keep_bytes, least_unused_ns=limit)
        if all_ and not filters and not keep_bytes:
            cache.forget_digests()
        freed = context.store.collector.collect() if gone else 0
        context.store.layers.finish_removals()
        mounts, room = ([], 0) if keep_bytes or wanted_ids else _prune_mounts(context.data.build_mounts, limit)
        return BuildPruneResponse(
            caches_deleted=(tuple(record.key for record in gone) + tuple(mounts)) or None,
            space_reclaimed=freed + room,
        )

    used = await context.executors.disk(_in_use, context)
    done = await context.executors.bulk(work)
    context.events.emit("builder", "prune", "", {"reclaimed": str(done.space_reclaimed)})
    return done


def _in_use(context: Context) -> set[str]:
    """Every layer that an image stands on."""
    return {chain for image in context.images.list() for chain in image.chain_ids}


def _limit(filters: Filters) -> int:
    """Nanoseconds of Unix time: what was used after it stays; 0 for no limit."""
    terms = filters.get("until") or filters.get("unused-for")
    if len(terms) > 1:
        raise InvalidArgument("more than one until filter specified")
    return moment(terms[0], now_ns=time.time_ns()) if terms else 0


def _prune_mounts(directory: Path, limit: int) -> tuple[list[str], int]:
    """Cache mounts that were not used since `limit`; a build that uses one holds its own descriptor of it."""
    gone: list[str] = []
    room = 0
    for entry in directory.iterdir() if directory.is_dir() else ():
        if limit and entry.stat().st_mtime_ns > limit:
            continue
        room += _size(entry)
        doomed = entry.with_name(f".{entry.name}")
        os.rename(entry, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        gone.append(entry.name)
    return gone, room


def _size(directory: Path) -> int:
    total = 0
    for _, _, files, fd in os.fwalk(directory, follow_symlinks=False):
        total += sum(os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512 for name in files)
    return total
