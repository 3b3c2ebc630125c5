"""What builds left, as one list: finished steps and cache mounts, with the room that each takes on the disk.

`system df` shows it and `builder prune` takes from it, so that both count the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from cove.build.cache import BuildCache, Record
from cove.engine.context import Context
from cove.image.usage import StoreUsage
from cove.wire.system import BuildCacheItem
from cove.wire.times import stamp

STEP, MOUNT, CONTEXT = "regular", "exec.cachemount", "source.local"
"""The types of leftovers, in BuildKit's words."""


class Leftover(msgspec.Struct, frozen=True):
    """A finished step's layer, a cache mount, or a copy of a client's directory. `shared`: others have its layer too.

    The others are an image, a container, another step.
    `chains` are a step's layer and all below it, none for the rest; `parents` are ids of the steps that it stands
    on. `room` in bytes: with that of layers below which nobody else has.
    """

    id: str
    type: str
    title: str
    room: int
    created_ns: int
    used_ns: int
    uses: int = 0
    shared: bool = False
    chains: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()

    def shown(self) -> BuildCacheItem:
        """As the API has it."""
        return BuildCacheItem(
            id=self.id,
            parents=self.parents or None,
            type=self.type,
            description=self.title,
            shared=self.shared,
            size=self.room,
            created_at=stamp(self.created_ns),
            last_used_at=stamp(self.used_ns),
            usage_count=self.uses,
        )


def leftovers(context: Context, cache: BuildCache) -> tuple[list[Leftover], dict[str, int]]:
    """Everything, the longest unused first, and the room of each layer that only steps have. Blocks: it measures."""
    records = cache.records()
    store = context.store.usage.measure((), {record.chain for record in records})
    return listed(context, records, store), store.cached


def listed(context: Context, records: Iterable[Record], store: StoreUsage) -> list[Leftover]:
    """The same for what was measured already."""
    found = [*_steps(context, list(records), store.cached), *_mounts(context.data.build_mounts)]
    found += _mounts(context.data.build_contexts, CONTEXT, "local source for ")
    return sorted(found, key=lambda each: each.used_ns)


def _steps(context: Context, records: list[Record], rooms: Mapping[str, int]) -> Iterator[Leftover]:
    """A layer that two steps stand on counts once; one that an image has counts there."""
    left = dict(rooms)
    makers = {record.chain: record.key for record in records}
    for record in sorted(records, key=lambda record: record.created_ns):
        chains = tuple(context.store.layers.lineage(record.chain))
        yield Leftover(
            id=record.key,
            type=STEP,
            title=record.title,
            shared=record.chain not in left,
            room=sum(left.pop(chain, 0) for chain in chains),
            created_ns=record.created_ns,
            used_ns=record.used_ns,
            uses=record.uses,
            chains=chains,
            parents=(makers[record.parent],) if record.parent in makers else (),
        )


def _mounts(directory: Path, kind: str = MOUNT, what: str = "cache mount ") -> list[Leftover]:
    found = []
    for entry in directory.iterdir() if directory.is_dir() else ():
        if entry.name.startswith("."):
            continue
        try:
            used, identity = entry.stat().st_mtime_ns, (entry / "id")
            title = f"{what}{identity.read_text(errors='replace')}"
            room, created = mount_room(entry), identity.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # it was pruned meanwhile
        found.append(Leftover(entry.name, kind, title, room, created, used))
    return found


def mount_room(directory: Path) -> int:
    """Bytes on the disk of all that lies in a directory."""
    total = 0
    for _, _, files, fd in os.fwalk(directory, follow_symlinks=False):
        for name in files:
            try:
                total += os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue  # a step is at work in it
    return total
