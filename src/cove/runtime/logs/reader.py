"""Reading a container's log while it grows and rotates: from a time, the last lines, one stream or both.

    LogReader.read ──▶ Chunk(stream, time, bytes) … ──▶ lines() when each line wants its own time

A segment's size is taken before its index is read: a record is written before its data, so every byte below
that size has its record. Whole columns of the index are looked at at once; nothing is done per record unless
times are asked for.
"""

from __future__ import annotations

import fcntl
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from cove.runtime.logs.writer import BURST, RECORD, file_name, segments

BOTH = frozenset({1, 2})
_RUNS = re.compile(rb"\x01+|\x02+")
_SINGLES = re.compile(rb"\x01|\x02")
_BLOCK = 256 << 10
_LONGEST_LINE = 1 << 20


class Chunk(NamedTuple):
    """Consecutive bytes of one stream, written at (about) one time."""

    stream: int
    time_ns: int
    data: bytes


class Cursor(msgspec.Struct, frozen=True, order=True):
    """A place in a log: everything before it has been read."""

    segment: int = 0
    offset: int = 0


BEGINNING = Cursor()


class Filter(msgspec.Struct, frozen=True):
    """Which records are wanted: their streams, and their time in ns (0 is no bound)."""

    streams: frozenset[int] = BOTH
    since_ns: int = 0
    until_ns: int = 0

    def apply(self, streams: bytes, times: array[int]) -> bytes:
        """The column of streams with 0 where a record is not wanted."""
        kept = streams.translate(bytes(each if each in self.streams else 0 for each in range(256)))
        if not self.since_ns and not self.until_ns:
            return kept
        last = self.until_ns or 1 << 63
        return bytes([s if self.since_ns <= at <= last else 0 for s, at in zip(kept, times, strict=True)])


class _Run(msgspec.Struct, frozen=True):
    """Bytes [start, end) of one stream."""

    stream: int
    time_ns: int
    start: int
    end: int


class _Segment:
    """One segment at one moment, from the record at byte `first` of its index on."""

    def __init__(self, data: int, index: int, first: int = 0) -> None:
        self.data = data
        self.size = os.fstat(data).st_size
        raw = os.pread(index, max(os.fstat(index).st_size - first, 0), first)
        raw = raw[: len(raw) // RECORD.size * RECORD.size]
        columns = array("Q", raw)
        self._first = first
        self._streams, self._heads, self._times = raw[0 :: RECORD.size], columns[0::2], columns[1::2]

    def runs(self, wanted: Filter, merge: bool) -> Iterator[_Run]:
        """What is wanted, in order; with `merge`, neighbours of one stream are one run."""
        kept = wanted.apply(self._streams, self._times)
        heads, size, count = self._heads, self.size, len(self._heads)
        for match in (_RUNS if merge else _SINGLES).finditer(kept):
            at, after = match.span()
            start = heads[at] >> 8
            end = min(heads[after] >> 8, size) if after < count else size
            if start < end:
                yield _Run(kept[at], self._times[at], start, end)

    def resume(self, offset: int) -> int:
        """The place in the index of the record that holds byte `offset`, or will."""
        at = len(self._heads)
        while at and self._heads[at - 1] >> 8 >= offset:
            at -= 1
        return self._first + max(at - 1, 0) * RECORD.size


class LogReader:
    """Reads on from `cursor` at each `read`. With `hold`, the writer waits for it rather than drop a segment.

    `directory` may be set anew, between two chunks, when the log was moved.
    """

    def __init__(self, directory: Path, cursor: Cursor = BEGINNING, *, hold: bool = False) -> None:
        self.directory = directory
        self.cursor = cursor
        self._begin: dict[int, Cursor] = {}
        self._resume = (0, 0)
        self._hold = hold
        self._held: tuple[int, int] | None = None

    def has_any(self) -> bool:
        """Whether there is a log at all: it begins with the first output."""
        return bool(segments(self.directory))

    def seek_end(self) -> None:
        """Only what comes from now on is read."""
        numbers = segments(self.directory)
        if numbers:
            with self._opened(numbers[-1]) as segment:
                self.cursor = Cursor(numbers[-1], segment.size if segment else 0)
            self._hold_segment(numbers[-1])

    def close(self) -> None:
        """Let the writer rotate freely."""
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def read(
        self,
        *,
        streams: frozenset[int] = BOTH,
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int | None = None,
        merge: bool = True,
    ) -> Iterator[Chunk]:
        """Chunks from the cursor to the present end. `merge` joins neighbours of one stream (losing their times).

        `tail`: only the last so many lines of what the other conditions leave.
        """
        wanted = Filter(streams, since_ns, until_ns)
        if tail is not None:
            self._seek_tail(tail, wanted)
        for number in segments(self.directory):
            if number >= self.cursor.segment:
                self._hold_segment(number)
                yield from self._read_segment(number, wanted, merge)

    @contextmanager
    def _opened(self, number: int, first: int = 0) -> Iterator[_Segment | None]:
        """A segment, or None when it has been rotated away."""
        try:
            data = os.open(self.directory / file_name(number, "log"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            index = os.open(self.directory / file_name(number, "idx"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            os.close(data)
            yield None
            return
        try:
            yield _Segment(data, index, first)
        finally:
            os.close(data)
            os.close(index)

    def _hold_segment(self, number: int) -> None:
        """Keep the writer from dropping the segment that is read now, and let go of the one before."""
        if not self._hold or (self._held is not None and self._held[0] == number):
            return
        try:
            fd = os.open(self.directory / file_name(number, "log"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)  # the writer looks at it at this very moment
            return
        self.close()
        self._held = (number, fd)

    def _read_segment(self, number: int, wanted: Filter, merge: bool) -> Iterator[Chunk]:
        if number > self.cursor.segment:
            self.cursor, self._resume = Cursor(number), (number, 0)
        first = self._resume[1] if self._resume[0] == number else 0
        with self._opened(number, first) as segment:
            if segment is None:
                return
            buffer, base = b"", 0
            for run in segment.runs(wanted, merge):
                start = max(run.start, self.cursor.offset, self._begin_in(number, run.stream))
                while start < run.end:
                    end = min(run.end, start + BURST)
                    if not base <= start or end > base + len(buffer):
                        buffer, base = _read_ahead(segment, start, end, merge), start
                    self.cursor = Cursor(number, end)
                    yield Chunk(run.stream, run.time_ns, buffer[start - base : end - base])
                    start = end
            self.cursor = Cursor(number, max(segment.size, self.cursor.offset))
            self._resume = (number, segment.resume(self.cursor.offset))

    def _begin_in(self, number: int, stream: int) -> int:
        """Where a stream's tail begins in a segment."""
        begin = self._begin.get(stream)
        if begin is None or number > begin.segment:
            return 0
        return begin.offset if number == begin.segment else 1 << 62

    # ── the last lines ────────────────────────────────────────────────────────────────────────────

    def _seek_tail(self, lines: int, wanted: Filter) -> None:
        """Move to where the last `lines` lines begin, in each stream for itself."""
        if lines <= 0:
            self.seek_end()
            return
        search = _Tail(lines, wanted.streams)
        numbers = [number for number in segments(self.directory) if number >= self.cursor.segment]
        for number in reversed(numbers):
            with self._opened(number) as segment:
                if segment is not None:
                    search.segment(number, segment, wanted)
            if search.done:
                break
        if numbers:
            self._begin = search.begins(max(self.cursor, Cursor(numbers[0])))
            self.cursor = max(self.cursor, min(self._begin.values()))


class _Tail:
    """Looks for the begin of the last lines, from the end backwards, block by block."""

    def __init__(self, lines: int, streams: frozenset[int]) -> None:
        self._missing = lines
        self._streams = streams
        self._open: set[int] = set()
        """Streams of which a wanted line's begin is still looked for."""
        self._seen: set[int] = set()
        self._found: dict[int, Cursor] = {}
        self._end = Cursor()

    @property
    def done(self) -> bool:
        return not self._missing and not self._open

    def segment(self, number: int, segment: _Segment, wanted: Filter) -> None:
        self._end = max(self._end, Cursor(number, segment.size))
        for run in reversed(list(segment.runs(wanted, True))):
            end = run.end
            while end > run.start and (self._missing or run.stream in self._open):
                start = max(run.start, end - _BLOCK)
                self._block(number, run.stream, start, os.pread(segment.data, end - start, start))
                end = start
            if self.done:
                return

    def _block(self, number: int, stream: int, start: int, data: bytes) -> None:
        if stream not in self._seen:
            self._seen.add(stream)
            if not data.endswith(b"\n"):
                self._take(stream)  # a last line that is not complete yet
        at = len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            if stream in self._open:
                self._found[stream] = Cursor(number, start + at + 1)
                self._open.discard(stream)
            if not self._missing:
                return
            self._take(stream)

    def _take(self, stream: int) -> None:
        self._missing -= 1
        self._open.add(stream)

    def begins(self, oldest: Cursor) -> dict[int, Cursor]:
        """Per stream where to begin; one of which no line is among the last begins at the end."""
        return {
            stream: oldest if stream in self._open else self._found.get(stream, self._end) for stream in self._streams
        }


def _read_ahead(segment: _Segment, start: int, end: int, merge: bool) -> bytes:
    """Exactly the run when runs are long, a whole block when they may be single lines."""
    return os.pread(
        segment.data, (end if merge and end - start >= _BLOCK else max(end, start + _BLOCK)) - start, start
    )


class LineJoiner:
    """Turns chunks into whole lines, each with the time at which its first byte was written.

    A line of more than 1 MiB comes in parts, so that output without newlines needs no memory without bound.
    """

    def __init__(self) -> None:
        self._partial: dict[int, Chunk] = {}

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """The lines that `chunk` completes, newline included."""
        stream, at, data = chunk
        before = self._partial.pop(stream, None)
        if before is not None:
            data = before.data + data
        *whole, rest = data.split(b"\n")
        found = [Chunk(stream, at, line + b"\n") for line in whole]
        if before is not None and found:
            found[0] = Chunk(stream, before.time_ns, found[0].data)
        if len(rest) > _LONGEST_LINE:
            found.append(Chunk(stream, at, rest))
        elif rest:
            began = before.time_ns if before is not None and not found else at
            self._partial[stream] = Chunk(stream, began, rest)
        return found

    @property
    def empty(self) -> bool:
        """Whether no line has begun that is not ended."""
        return not self._partial

    def flush(self) -> Iterator[Chunk]:
        """Last lines that never got their newline."""
        partial, self._partial = self._partial, {}
        yield from partial.values()


def lines(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Whole lines out of chunks that were read with merge=False, a last partial line included."""
    joiner = LineJoiner()
    for chunk in chunks:
        yield from joiner.feed(chunk)
    yield from joiner.flush()
