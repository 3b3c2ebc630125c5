"""What a fork knows of the pages that it does not share any more."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from collections.abc import Callable

import pytest

from cove.kernel import memory

PAGE = mmap.PAGESIZE
PAGES = 64
WRITE = 23
QUIET, _ = os.pipe()  # nothing ever comes out of it


@pytest.fixture
def shared() -> mmap.mmap:
    """Memory that a fork shares with this process until one of them writes it."""
    made = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.write(b"x" * PAGES * PAGE)
    return made


def _address(of: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(of))


def _own_after(work: Callable[[], object], within: mmap.mmap) -> set[int]:
    """The numbers of the pages of `within` that a fork of this process has for itself after `work`."""
    start = _address(within)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writer, json.dumps(memory.used_pages(os.getpid())).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        spans: list[memory.Span] = json.load(file)
    os.waitpid(pid, 0)
    found = {page for at, length, advice in spans if advice == WRITE for page in range(at, at + length, PAGE)}
    return {(page - start) // PAGE for page in found if start <= page < start + PAGES * PAGE}


def test_a_fork_tells_the_pages_that_it_has_written(shared: mmap.mmap) -> None:
    def work() -> None:
        for number in (3, 10, 11, 12, 63):
            shared[number * PAGE + 5] = 7

    assert _own_after(work, shared) == {3, 10, 11, 12, 63}


def test_reading_makes_no_page_its_own(shared: mmap.mmap) -> None:
    assert _own_after(lambda: shared[5 * PAGE], shared) == set()


def test_pages_are_made_ready_and_keep_what_is_in_them(shared: mmap.mmap) -> None:
    start = _address(shared)

    def work() -> None:
        memory.make_ready([(start, 2 * PAGE, WRITE), (start + 7 * PAGE, PAGE, WRITE)], QUIET)
        assert bytes(shared[: 2 * PAGE]) == b"x" * 2 * PAGE

    assert _own_after(work, shared) == {0, 1, 7}


def test_pages_that_cannot_be_had_are_left_alone(shared: mmap.mmap) -> None:
    """No address of this process; and an advice that the kernel does not know, as before Linux 5.14."""
    start = _address(shared)
    spans = [(0, PAGE, WRITE), (start, PAGE, 9999)]
    assert _own_after(lambda: memory.make_ready(spans, QUIET), shared) == set()


def test_nothing_is_made_ready_once_somebody_waits(shared: mmap.mmap) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"orders")
    spans = [(_address(shared), PAGE, WRITE)]
    assert _own_after(lambda: memory.make_ready(spans, reader), shared) == set()
    os.close(reader)
    os.close(writer)
