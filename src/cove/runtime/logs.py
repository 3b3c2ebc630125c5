"""A container's log on disk: raw bytes in segments, an index beside them, and the two ends of it.

    directory/00000001.log   what the container wrote, byte for byte, both streams one after the other
    directory/00000001.idx   records of 24 bytes: offset in the .log (8), time in ns since the epoch (8), stream (1)

A record is written before its data, and the data goes from the FIFO to the file by splice(2) without passing
through the process. So whenever the writer dies, every byte is in the FIFO or in the file, and a record whose
data never came has length zero. A record's length is the next one's offset less its own.

A segment that is full is followed by the next; the oldest goes when there are more than the policy allows.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cove.runtime.messages import LogPolicy

_RECORD = struct.Struct("<QQB7x")
_BURST = 1 << 20
_SPLICE_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK


def _name(number: int, suffix: str) -> str:
    return f"{number:08d}.{suffix}"


def segments(directory: Path) -> list[int]:
    """The numbers of the segments that are there, oldest first."""
    try:
        return sorted(int(name[:-4]) for name in os.listdir(directory) if name.endswith(".idx"))
    except FileNotFoundError:
        return []


class LogWriter:
    """The one writer of a log, in the supervisor."""

    def __init__(self, policy: LogPolicy) -> None:
        """Continue the log in `policy.directory`, or begin it. Raises OSError."""
        self._policy = policy
        self._directory = Path(policy.directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data = self._index = -1
        self._open((segments(self._directory) or [1])[-1])

    def _open(self, number: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        data = os.open(self._directory / _name(number, "log"), flags, 0o600)
        try:
            index = os.open(self._directory / _name(number, "idx"), flags, 0o600)
        except OSError:
            os.close(data)
            raise
        self.close()
        self._number, self._data, self._index = number, data, index
        self._offset = os.fstat(data).st_size
        self._position = os.fstat(index).st_size // _RECORD.size * _RECORD.size
        if self._position:
            offset, _, _ = _RECORD.unpack(os.pread(index, _RECORD.size, self._position - _RECORD.size))
            if offset >= self._offset:
                self._position -= _RECORD.size  # its data never came: the place is free

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    def splice(self, fd: int, stream: int) -> int:
        """Move what the pipe `fd` holds, 1 MiB at most, into the log; the number of bytes moved.

        Raises BlockingIOError when the pipe is empty, OSError (ENOSPC) when the disk is full.
        """
        self._prepare(stream)
        moved = os.splice(fd, self._data, _BURST, offset_dst=self._offset, flags=_SPLICE_FLAGS)
        self._advance(moved)
        return moved

    def write(self, stream: int, content: bytes) -> None:
        """Append bytes that were read already (a terminal's)."""
        while content:
            self._prepare(stream)
            written = os.pwrite(self._data, content, self._offset)
            self._advance(written)
            content = content[written:]

    def _prepare(self, stream: int) -> None:
        if self._offset + self._position >= self._policy.segment_bytes:
            self._rotate()
        os.pwrite(self._index, _RECORD.pack(self._offset, time.time_ns(), stream), self._position)

    def _advance(self, length: int) -> None:
        if length:
            self._offset += length
            self._position += _RECORD.size

    def _rotate(self) -> None:
        self._open(self._number + 1)
        for number in segments(self._directory)[: -self._policy.files]:
            for suffix in ("idx", "log"):
                (self._directory / _name(number, suffix)).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive bytes of one stream, written at (about) one time."""

    stream: int
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a log: everything before it has been read."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _Span:
    stream: int
    time_ns: int
    start: int
    end: int


_Wanted = Callable[[_Span], bool]


class LogReader:
    """Reads a log that may be growing and rotating. `cursor` is where the next `read` goes on."""

    def __init__(self, directory: Path, cursor: Cursor = Cursor()) -> None:
        self._directory = directory
        self.cursor = cursor

    def seek_end(self) -> None:
        """Only what comes from now on is read."""
        numbers = segments(self._directory)
        if numbers:
            self.cursor = Cursor(numbers[-1], self._size(numbers[-1]))

    def _size(self, number: int) -> int:
        try:
            return os.stat(self._directory / _name(number, "log")).st_size
        except FileNotFoundError:
            return 0

    def _spans(self, number: int) -> list[_Span]:
        try:
            index = (self._directory / _name(number, "idx")).read_bytes()
        except FileNotFoundError:
            return []
        size = self._size(number)
        records = list(_RECORD.iter_unpack(index[: len(index) // _RECORD.size * _RECORD.size]))
        ends = [offset for offset, _, _ in records[1:]] + [size]
        pairs = zip(records, ends, strict=True)
        return [
            _Span(stream, at, start, min(end, size)) for (start, at, stream), end in pairs if start < min(end, size)
        ]

    def read(
        self,
        *,
        streams: frozenset[int] = frozenset({1, 2}),
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int | None = None,
        merge: bool = True,
    ) -> Iterator[Chunk]:
        """Chunks from the cursor to the present end. `merge` joins neighbours of one stream (losing their times).

        `tail`: only the last so many lines of what the other conditions leave.
        """

        def wanted(span: _Span) -> bool:
            late = bool(until_ns) and span.time_ns > until_ns
            return span.stream in streams and span.time_ns >= since_ns and not late

        if tail is not None:
            self._seek_tail(tail, wanted)
        for number in segments(self._directory):
            if number < self.cursor.segment:
                continue
            start = self.cursor.offset if number == self.cursor.segment else 0
            yield from self._read_segment(number, start, wanted, merge)

    def _read_segment(self, number: int, start: int, wanted: _Wanted, merge: bool) -> Iterator[Chunk]:
        spans = [span for span in self._spans(number) if span.end > start]
        if not spans:
            if number > self.cursor.segment:
                self.cursor = Cursor(number, start)
            return
        try:
            fd = os.open(self._directory / _name(number, "log"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            for stream, at, begin, end in _runs(spans, start, wanted, merge):
                data = os.pread(fd, end - begin, begin)
                self.cursor = Cursor(number, end)
                yield Chunk(stream, at, data)
            self.cursor = Cursor(number, spans[-1].end)
        finally:
            os.close(fd)

    def _seek_tail(self, lines: int, wanted: _Wanted) -> None:
        """Move the cursor to where the last `lines` lines begin."""
        if lines <= 0:
            self.seek_end()
            return
        missing, last = lines, True
        for number in reversed(segments(self._directory)):
            if number < self.cursor.segment:
                break
            with open(self._directory / _name(number, "log"), "rb") as file:
                for span in reversed([each for each in self._spans(number) if wanted(each)]):
                    file.seek(span.start)
                    data = file.read(span.end - span.start)
                    at = len(data) - 1 if last and data.endswith(b"\n") else len(data)
                    last = False
                    while (at := data.rfind(b"\n", 0, at)) >= 0:
                        missing -= 1
                        if missing == 0:
                            self.cursor = Cursor(number, span.start + at + 1)
                            return


def _runs(spans: list[_Span], start: int, wanted: _Wanted, merge: bool) -> Iterator[tuple[int, int, int, int]]:
    """(stream, time, start, end) of what to read at once: neighbours of one stream up to a burst."""
    current: tuple[int, int, int, int] | None = None
    for span in spans:
        if not wanted(span):
            continue
        begin = max(span.start, start)
        if current is not None:
            joins = merge and current[0] == span.stream and current[3] == begin and span.end - current[2] <= _BURST
            if joins:
                current = (*current[:3], span.end)
                continue
            yield current
        current = (span.stream, span.time_ns, begin, span.end)
    if current is not None:
        yield current
