"""A container's log on disk: raw bytes in segments, an index beside them, and the one that writes it.

    directory/00000001.log   what the container wrote, byte for byte, both streams one after the other
    directory/00000001.idx   records of 16 bytes: offset in the .log (7 bytes above) and stream (1 byte), time in ns

A record is written before its data, and the data goes from the FIFO to the file by splice(2) without passing
through the process. So whenever the writer dies, every byte is in the FIFO or in the file, and a record whose
data never came has length zero. A record's length is the next one's offset less its own. 16 divides a page, so
that no record is ever half there.

A segment that is full is followed by the next; the oldest goes when there are more than the policy allows (two
are always kept). A reader that must miss nothing (attach) holds a shared lock on the segment it reads: the
writer then waits with rotating, and the container with writing, instead of dropping what was not read.

Readers are in `cove.runtime.logs.reader`.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

from cove.runtime.messages import LogPolicy

RECORD = struct.Struct("<QQ")
"""offset << 8 | stream, time in ns since the epoch."""

BURST = 1 << 20
_SPLICE_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK


class Held(Exception):
    """The oldest segment is still being read by one who must miss nothing; try again in a moment."""


def file_name(number: int, suffix: str) -> str:
    """A segment's file: suffix "log" for the data, "idx" for the index."""
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
        """Continue the log in `policy.directory`, or begin it with the first output. Raises OSError."""
        self._policy = policy
        self._directory = Path(policy.directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data = self._index = -1
        self._number = self._offset = self._position = 0

    def _open(self, number: int) -> None:
        """Go on at the end of a segment, after making its index and its data agree."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have removed it
        data = os.open(self._directory / file_name(number, "log"), flags, 0o600)
        try:
            index = os.open(self._directory / file_name(number, "idx"), flags, 0o600)
        except OSError:
            os.close(data)
            raise
        self.close()
        self._number, self._data, self._index = number, data, index
        self._offset = os.fstat(data).st_size
        self._position = os.fstat(index).st_size // RECORD.size * RECORD.size
        self._reconcile()

    def _reconcile(self) -> None:
        """After a crash: records whose data never came go, and data that a lost index left bare gets a record."""
        while self._position:
            head, _ = RECORD.unpack(os.pread(self._index, RECORD.size, self._position - RECORD.size))
            if head >> 8 < self._offset:
                break
            self._position -= RECORD.size
        os.ftruncate(self._index, self._position)
        if self._offset and not self._position:
            os.pwrite(self._index, RECORD.pack(1, os.fstat(self._data).st_mtime_ns), 0)
            self._position = RECORD.size

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    def make_room(self) -> None:
        """Begin a new segment if this one is full. Raises Held, and OSError (ENOSPC) when the disk is full."""
        self._ensure_open()
        if self._offset + self._position >= self._policy.segment_bytes:
            self._rotate()

    def splice(self, fd: int, stream: int) -> int:
        """Move what the pipe `fd` holds, 1 MiB at most, into this segment; the number of bytes moved.

        Raises BlockingIOError when the pipe is empty, OSError (ENOSPC) when the disk is full.
        """
        self._record(stream)
        moved = os.splice(fd, self._data, BURST, offset_dst=self._offset, flags=_SPLICE_FLAGS)
        self._advance(moved)
        return moved

    def write(self, stream: int, content: bytes) -> None:
        """Append bytes that were read already (a terminal's) to this segment."""
        while content:
            self._record(stream)
            written = os.pwrite(self._data, content, self._offset)
            self._advance(written)
            content = content[written:]

    def _ensure_open(self) -> None:
        if self._data < 0:
            self._open((segments(self._directory) or [1])[-1])

    def _record(self, stream: int) -> None:
        self._ensure_open()
        os.pwrite(self._index, RECORD.pack(self._offset << 8 | stream, time.time_ns()), self._position)

    def _advance(self, length: int) -> None:
        if length:
            self._offset += length
            self._position += RECORD.size

    def _rotate(self) -> None:
        surplus = segments(self._directory)[: 1 - max(self._policy.files, 2)]
        if any(self._is_held(number) for number in surplus):
            raise Held
        self._open(self._number + 1)
        for number in surplus:
            for suffix in ("log", "idx"):  # a segment is known by its index, so that none is forgotten half removed
                (self._directory / file_name(number, suffix)).unlink(missing_ok=True)

    def _is_held(self, number: int) -> bool:
        try:
            fd = os.open(self._directory / file_name(number, "log"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False
