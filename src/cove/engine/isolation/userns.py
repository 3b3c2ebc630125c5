"""Whose ids a container's are on the host: `--userns` and the daemon-wide remap.

    host             the container's root is the host's (the default, unless the administrator set a remap)
    remap            ids of one range, the same for every such container: that of `userns_remap`
    auto[:size=N]    ids of a range of its own, 65536 of them, that no other container has
    container:NAME   the ids of that container, so that both may share files

The range is chosen at creation and written down: it is the container's as long as that exists. Nothing on disk
depends on it, because a container's layers are id-mapped when they are mounted (`cove.kernel.idmapped`).

Ranges come from /etc/subuid and /etc/subgid (subuid(5)), of the user "cove" or the one that `userns_remap` names.
Without an entry for "cove" they come from 1073741824 on, which systemd's uids-gids document leaves to containers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cove.engine.containers.registry import Registry
from cove.errors import Conflict, InvalidArgument, Unsupported
from cove.oci.spec import IDMapping
from cove.wire.containers import HostConfig

SIZE = 65536
_USER = "cove"
_FIRST, _LAST = 1 << 30, 1879048191
_AUTO = re.compile(r"auto(?::size=(\d{1,9}))?")
_SUBUID, _SUBGID = Path("/etc/subuid"), Path("/etc/subgid")


class Range(msgspec.Struct, frozen=True):
    """Ids of the host that lie side by side."""

    first: int
    count: int

    def overlaps(self, other: Range) -> bool:
        return self.first < other.first + other.count and other.first < self.first + self.count


class Maps(msgspec.Struct, frozen=True):
    """A container's ids on the host; empty when they are the host's own."""

    uids: tuple[IDMapping, ...] = ()
    gids: tuple[IDMapping, ...] = ()


NONE = Maps()


class Users:
    """Chooses ids for new containers; InvalidArgument when the daemon's remap names nobody."""

    def __init__(self, registry: Registry, setting: str) -> None:
        of_the_daemon(setting)
        self._registry = registry
        self._remap = setting
        self._claimed: list[Range] = []

    @property
    def remapped(self) -> bool:
        """Whether containers get other ids than the host's unless they ask for those."""
        return bool(self._remap)

    @contextmanager
    def claim(self, asked: HostConfig) -> Iterator[Maps]:
        """The ids for a container about to be made; within, nobody else gets the same from "auto"."""
        check(asked.userns_mode)
        maps = self._choose(asked)
        ranges = _ranges(maps)
        self._claimed += ranges
        try:
            yield maps
        finally:
            for each in ranges:
                self._claimed.remove(each)

    def _choose(self, asked: HostConfig) -> Maps:
        mode = asked.userns_mode or ("remap" if self._remap and not asked.privileged else "host")
        if asked.privileged and (mode != "host" or (self._remap and not asked.userns_mode)):
            raise InvalidArgument(
                "privileged mode is incompatible with user namespaces. You must run the container in the host "
                "namespace when running privileged mode (--userns=host)"
            )
        if mode == "host":
            return NONE
        if mode == "remap":
            return of_the_daemon(self._remap or "default")
        kind, _, name = mode.partition(":")
        if kind == "container":
            return self._of(name)
        return self._free(_size(mode))

    def _of(self, name: str) -> Maps:
        record = self._registry.find(name).record
        if not record.uid_map:
            raise Conflict(f"container {record.name} has no user namespace of its own whose ids could be shared")
        return Maps(record.uid_map, record.gid_map)

    def _free(self, size: int) -> Maps:
        taken = list(self._claimed)
        for container in self._registry:
            taken += _ranges(Maps(container.record.uid_map, container.record.gid_map))
        uids, gids = _text(_SUBUID), _text(_SUBGID)
        return Maps(_one(free(size, uids, taken)), _one(free(size, gids, taken)))


def check(mode: str) -> None:
    """Raises InvalidArgument or Unsupported for a mode that is none."""
    if mode.startswith(("/", "ns:")):
        raise Unsupported(
            f"--userns={mode} is not supported: a container's ids must be known when it is made, to mount its "
            "layers; use container:NAME for the ids of another one (cove-oci joins a user namespace by path)"
        )
    if mode in ("", "host", "remap") or (mode.startswith("container:") and mode != "container:"):
        return
    match = _AUTO.fullmatch(mode)
    if match is None:
        raise InvalidArgument(f"invalid userns mode: {mode}; use host, remap, auto, auto:size=N or container:NAME")
    if match[1] and not 1000 <= int(match[1]) <= SIZE * 1024:
        raise InvalidArgument(f"invalid userns mode: {mode}; the size is between 1000 and {SIZE * 1024}")


def _size(mode: str) -> int:
    match = _AUTO.fullmatch(mode)
    return int(match[1]) if match and match[1] else SIZE


def of_the_daemon(setting: str) -> Maps:
    """The ids of a daemon's remap as the files say now; none when it has none."""
    return remap(setting, _text(_SUBUID), _text(_SUBGID)) if setting else NONE


def remap(setting: str, subuid: str, subgid: str) -> Maps:
    """The ids that `userns_remap` names: "default", or "user" or "user:group" of /etc/subuid and /etc/subgid."""
    user, _, group = setting.partition(":")
    if user == "default":
        user = group = _USER
    maps = []
    for name, text, file in ((user, subuid, _SUBUID), (group or user, subgid, _SUBGID)):
        ranges = [each for owner, each in entries(text) if owner == name]
        if not ranges and name == _USER:
            ranges = [Range(_FIRST, SIZE)]
        if not ranges:
            raise InvalidArgument(
                f"The remap of user namespaces names {name}, who has no entry in {file}; add the line "
                f"{name}:100000:65536"
            )
        maps.append(_consecutive(ranges))
    return Maps(*maps)


def entries(text: str) -> Iterator[tuple[str, Range]]:
    """The lines of /etc/subuid that make sense, as (owner, range)."""
    for line in text.splitlines():
        owner, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if owner and first.strip().isdecimal() and count.strip().isdecimal() and int(count):
            yield owner.strip(), Range(int(first), int(count))


def free(size: int, text: str, taken: Iterable[Range]) -> Range:
    """The first `size` ids for a new container that are nobody's; `text` is /etc/subuid or /etc/subgid."""
    listed = list(entries(text))
    own = [each for owner, each in listed if owner == _USER]
    # The first part of it is the remap's, which containers share.
    pools = own or [Range(_FIRST + SIZE, _LAST - _FIRST - SIZE)]
    busy = [*taken, *([] if own else [each for _, each in listed])]
    busy.append(Range((own[0] if own else Range(_FIRST, 0)).first, 0 if own else SIZE))
    for pool in pools:
        first = pool.first
        while first + size <= pool.first + pool.count:
            wanted = Range(first, size)
            in_way = max((each.first + each.count for each in busy if each.overlaps(wanted)), default=0)
            if not in_way:
                return wanted
            first = in_way
    raise Conflict(
        f"there are no {size} free ids left for a user namespace; remove containers, or give the user {_USER} "
        f"more in {_SUBUID} and {_SUBGID}"
    )


def _ranges(maps: Maps) -> list[Range]:
    return [Range(each.host_id, each.size) for each in (*maps.uids, *maps.gids)]


def _one(found: Range) -> tuple[IDMapping, ...]:
    return _consecutive([found])


def _consecutive(ranges: Iterable[Range]) -> tuple[IDMapping, ...]:
    """The ranges one after the other, from the container's id 0 on."""
    found: list[IDMapping] = []
    inside = 0
    for each in ranges:
        found.append(IDMapping(container_id=inside, host_id=each.first, size=each.count))
        inside += each.count
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
