"""A selection's index: what each of its names was when it was last digested, so that only what changed is read again.

    before: path ─▶ facts ─┐
                           ├─ same inode, size and times ─▶ the content's digest is known
    the tree now ──────────┘  anything else ─▶ read
                           └─▶ after: path ─▶ facts · Change: what is not as it was

As git's index: an inode that changed just before it was looked at may change again without being told by its time,
so that such an entry proves nothing the next time.

The file: a line of JSON (the selected directory, bytes of names), the names, each ended by NUL, a record for each.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

_SETTLED_NS = 100_000_000
"""An inode that changed that long ago cannot change once more at the same time: ten ticks of the slowest clock."""
_RACY = -1
_PLAIN = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
_RECORD = struct.Struct("<IIIIqqQq32s")
_CODEC = ("utf-8", "surrogateescape")

Facts = tuple[int, int, int, int, int, int, int, int, bytes]
"""mode, uid, gid, links, size, time; inode, its change's time; digest of the content, or of where a link leads."""
_MODE: Final = 0
_LINKS: Final = 3
_CONTENT: Final = 8


@dataclass(frozen=True, slots=True)
class Change:
    """How a selection differs from an earlier one: names that went, or are to be put anew; names to be copied.

    Directories come before what they hold; those that only have other attributes are in `copied` alone.
    """

    removed: list[str]
    copied: list[str]


class Index:
    """One look at a selection; `before` and `after` are files, the former's may be empty."""

    def __init__(self, before: BinaryIO, after: BinaryIO) -> None:
        self._top, self._before = _read(before)
        self._now: dict[str, Facts] = {}
        self._doubtful: list[str] = []
        self._after = after
        self._settled = time.time_ns() - _SETTLED_NS

    def content(self, path: str, found: os.stat_result, read: Callable[[], bytes]) -> bytes:
        """The digest of a name's content; `read` tells it where it is not known."""
        directory = stat.S_ISDIR(found.st_mode)
        facts = (
            found.st_mode,
            found.st_uid,
            found.st_gid,
            1 if directory else found.st_nlink,
            0 if directory else found.st_size,
            found.st_mtime_ns,
            found.st_ino,
            found.st_ctime_ns,
        )
        known = self._before.get(path)
        if known is not None and known[:_CONTENT] == facts:
            self._now[path] = known
            return known[_CONTENT]
        content = read()
        changed = facts[-1] if facts[-1] < self._settled else _RACY
        self._now[path] = (*facts[:-1], changed, content)
        self._doubtful.append(path)
        return content

    def finish(self, top: str | None) -> Change | None:
        """Write what is known now; what changed, None where a copy cannot follow it.

        `top` is the one directory that is selected, None where it is anything else, of which only contents are known.
        """
        names = b"".join(path.encode(*_CODEC) + b"\0" for path in self._now)
        self._after.write(json.dumps([top, len(names)]).encode() + b"\n" + names)
        self._after.write(b"".join(_RECORD.pack(*facts) for facts in self._now.values()))
        self._after.flush()
        return self._change() if self._before and top is not None and top == self._top else None

    def _change(self) -> Change | None:
        """None when files with several names or special ones are concerned, or most of all is."""
        before, now = self._before, self._now
        gone = sorted(before.keys() - now.keys())
        different = (path for path in self._doubtful if _shown(before.get(path)) != _shown(now[path]))
        copied = sorted(different, key=_order)
        if len(gone) + len(copied) > len(now) // 2:
            return None
        concerned = [facts[path] for facts in (before, now) for path in (*gone, *copied) if path in facts]
        if any(facts[_LINKS] > 1 or stat.S_IFMT(facts[_MODE]) not in _PLAIN for facts in concerned):
            return None
        anew = [path for path in copied if path in before and not _stays(before[path], now[path])]
        return Change([*gone, *anew], copied)


def _shown(facts: Facts | None) -> tuple[int | bytes, ...]:
    """What a copy shows of a name."""
    return (*facts[:6], facts[_CONTENT]) if facts else ()


def _stays(was: Facts, is_: Facts) -> bool:
    """A directory that is one still."""
    return stat.S_ISDIR(was[_MODE]) and stat.S_ISDIR(is_[_MODE])


def _order(path: str) -> list[str]:
    return path.split("/")


def _read(file: BinaryIO) -> tuple[str | None, dict[str, Facts]]:
    """What an index holds; nothing when it is none."""
    try:
        top, length = json.loads(file.readline())
        names = file.read(length).decode(*_CODEC).split("\0")
        return top, dict(zip(names[:-1], _RECORD.iter_unpack(file.read()), strict=True))
    except (ValueError, TypeError, struct.error):
        return None, {}
