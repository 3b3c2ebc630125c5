"""A process' memory, page by page: which pages a fork has made its own, and making them so in advance.

A fork shares all pages with its parent; one that it writes is copied then, and one of a file that it reads is looked
up then, each at the cost of a fault. Who knows which ones it will need can have them ready before anybody waits.

Sources: proc(5) (maps), Documentation/admin-guide/mm/pagemap.rst, madvise(2).
"""

from __future__ import annotations

import ctypes
import os
import select
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise

Span = tuple[int, int, int]
"""Address, length in bytes, and the advice for madvise(2) that makes its pages ready."""

_POPULATE_READ, _POPULATE_WRITE = 22, 23
_PRESENT, _OWN = 1 << 63, 1 << 56
_PAGE = os.sysconf("SC_PAGE_SIZE")
_AT_ONCE = 16
_USER = 1 << 63  # above it lies vsyscall, which is no memory of ours

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_madvise.restype = ctypes.c_int


def used_pages(pid: int) -> list[Span]:
    """The pages that `pid` has written since its fork, and those of files that it has read. Raises OSError."""
    found: list[Span] = []
    with (
        open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps,
        open(f"/proc/{pid}/pagemap", "rb") as pages,
    ):
        for line in maps.read().splitlines():
            words = line.split(maxsplit=5)
            start, end = (int(each, 16) for each in words[0].split("-"))
            if start >= _USER or words[1][3] != "p":
                continue
            written = words[1][1] == "w"
            if not written and words[4] == "0":
                continue  # no file
            pages.seek(start // _PAGE * 8)
            entries = array("Q", pages.read((end - start) // _PAGE * 8))
            advice = _POPULATE_WRITE if written else _POPULATE_READ
            wanted = _PRESENT | _OWN if written else _PRESENT
            found += ((start + first * _PAGE, count * _PAGE, advice) for first, count in _runs(entries, wanted))
    return found


def _runs(entries: Sequence[int], wanted: int) -> Iterator[tuple[int, int]]:
    """The index and the length of each row of entries that have all `wanted` bits."""
    edges = [-1, *(at for at, entry in enumerate(entries) if entry & wanted != wanted), len(entries)]
    for before, after in pairwise(edges):
        if after - before > 1:
            yield before + 1, after - before - 1


def make_ready(spans: Sequence[Span], until: int) -> None:
    """Have these pages before they are used, or until the descriptor `until` can be read: then somebody waits.

    What is not had by then, or cannot be (before Linux 5.14: none can), comes when it is used.
    """
    look = select.poll()
    look.register(until, select.POLLIN)
    for first in range(0, len(spans), _AT_ONCE):
        if look.poll(0):
            return
        for start, length, advice in spans[first : first + _AT_ONCE]:
            _madvise(start, length, advice)
