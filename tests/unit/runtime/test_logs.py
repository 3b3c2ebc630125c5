"""The log on disk: nothing lost by a killed writer, the last lines, rotation, times, holding readers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cove.runtime.logs.follow import LogFollower, LogWatcher
from cove.runtime.logs.reader import Chunk, LogReader, lines
from cove.runtime.logs.writer import RECORD, Held, LogWriter, file_name, segments
from cove.runtime.messages import LogPolicy

_writes = st.lists(st.tuples(st.sampled_from([1, 2]), st.text("ab\n", min_size=1, max_size=8).map(str.encode)))
_quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _text(chunks: list[Chunk], stream: int) -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


def _fill(directory: Path, writes: list[tuple[int, bytes]], segment_bytes: int = 1 << 20, files: int = 1000) -> None:
    writer = LogWriter(LogPolicy(directory=str(directory), segment_bytes=segment_bytes, files=files))
    for stream, data in writes:
        writer.make_room()
        writer.write(stream, data)
    writer.close()


@_quick
@given(_writes, st.integers(60, 200), st.booleans())
def test_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes]], size: int, merge: bool
) -> None:
    directory = tmp_path_factory.mktemp("log")
    _fill(directory, writes, size)
    chunks = list(LogReader(directory).read(merge=merge))
    for stream in (1, 2):
        expected = b"".join(data for each, data in writes if each == stream)
        assert _text(chunks, stream) == expected
        assert _text(list(LogReader(directory).read(streams=frozenset({stream}))), stream) == expected
    assert b"".join(chunk.data for chunk in chunks) == b"".join(data for _, data in writes)


def _last_lines(writes: list[tuple[int, bytes]], count: int) -> dict[int, bytes]:
    """The plain way: every line with the place where it ends; the last ones by that place."""
    found: list[tuple[int, int, bytes]] = []
    partial = {1: b"", 2: b""}
    ends = {1: 0, 2: 0}
    at = 0
    for stream, data in writes:
        for byte in data:
            at += 1
            partial[stream] += bytes([byte])
            ends[stream] = at
            if byte == 10:
                found.append((at, stream, partial[stream]))
                partial[stream] = b""
    found += [(ends[stream], stream, rest) for stream, rest in partial.items() if rest]
    chosen = sorted(found)[-count:]
    return {stream: b"".join(line for _, each, line in chosen if each == stream) for stream in (1, 2)}


@_quick
@given(_writes, st.integers(1, 6), st.integers(60, 200))
def test_tail_is_the_last_lines_of_both_streams(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes]], count: int, size: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    _fill(directory, writes, size)
    chunks = list(LogReader(directory).read(tail=count))
    assert {stream: _text(chunks, stream) for stream in (1, 2)} == _last_lines(writes, count)


def test_since_until_and_lines(tmp_path: Path) -> None:
    marks = []
    writer = LogWriter(LogPolicy(directory=str(tmp_path)))
    for number in range(4):
        writer.write(1, b"a%d\nb%d" % (number, number))
        marks.append(time.time_ns())
        time.sleep(0.002)
    writer.close()
    read = LogReader(tmp_path).read(since_ns=marks[0] + 1, until_ns=marks[2])
    assert b"".join(chunk.data for chunk in read) == b"a1\nb1a2\nb2"
    timed = list(lines(LogReader(tmp_path).read(merge=False)))
    assert [line.data for line in timed] == [b"a0\n", b"b0a1\n", b"b1a2\n", b"b2a3\n", b"b3"]
    assert [line.time_ns for line in timed] == sorted(line.time_ns for line in timed)


def test_rotation_is_bounded_and_a_cursor_survives_it(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    _fill(tmp_path, [(1, b"x" * 50)] * 40, 200, 3)
    assert len(segments(tmp_path)) == 3
    first = list(reader.read())
    _fill(tmp_path, [(1, b"y" * 50)], 200, 3)
    assert b"".join(chunk.data for chunk in reader.read()) == b"y" * 50
    assert set(b"".join(chunk.data for chunk in first)) == {ord("x")}


def test_a_holding_reader_is_waited_for(tmp_path: Path) -> None:
    reader = LogReader(tmp_path, hold=True)
    inlet, outlet = os.pipe()
    os.set_blocking(inlet, False)
    writer = LogWriter(LogPolicy(directory=str(tmp_path), segment_bytes=100, files=2))
    seen, written = b"", b""
    with pytest.raises(Held):
        for number in range(100):
            os.write(outlet, b"%03d " % number * 10)
            written += b"%03d " % number * 10
            writer.make_room()
            writer.splice(inlet, 1)
            if number == 0:
                seen += b"".join(chunk.data for chunk in reader.read())
    seen += b"".join(chunk.data for chunk in reader.read())
    writer.make_room()
    writer.splice(inlet, 1)
    seen += b"".join(chunk.data for chunk in reader.read())
    assert seen == written
    reader.close()


def test_index_and_data_are_reconciled(tmp_path: Path) -> None:
    _fill(tmp_path, [(1, b"one\n"), (2, b"two\n")])
    index = tmp_path / file_name(1, "idx")
    whole = index.read_bytes()
    index.write_bytes(whole + RECORD.pack(8 << 8 | 1, 5) + RECORD.pack(900 << 8 | 1, 5) + b"half")
    assert [chunk.data for chunk in LogReader(tmp_path).read()] == [b"one\n", b"two\n"]
    _fill(tmp_path, [(2, b"three\n")])
    assert [(c.stream, c.data) for c in LogReader(tmp_path).read()] == [(1, b"one\n"), (2, b"two\nthree\n")]
    index.write_bytes(b"")
    _fill(tmp_path, [(2, b"four\n")])
    assert [(c.stream, c.data) for c in LogReader(tmp_path).read()] == [(1, b"one\ntwo\nthree\n"), (2, b"four\n")]


def test_a_killed_pump_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """A writer of numbered lines, and a pump that is killed again and again."""
    fifo = tmp_path / "fifo"
    log = tmp_path / "log"
    os.mkfifo(fifo)
    inlet = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    source = os.fork()
    if source == 0:
        with open(fifo, "wb", buffering=1 << 14) as file:
            for number in range(300_000):
                file.write(b"%d\n" % number)
        os._exit(0)
    for delay in (0.003, 0.01, 0.005, 0.02, 0.001, 0.008):
        pump = _pump(inlet, log)
        time.sleep(delay)
        os.kill(pump, signal.SIGKILL)
        os.waitpid(pump, 0)
    pump = _pump(inlet, log)
    os.waitpid(source, 0)
    while os.waitpid(pump, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    os.close(inlet)
    content = b"".join(chunk.data for chunk in LogReader(log).read())
    assert content == b"".join(b"%d\n" % number for number in range(300_000))


def _pump(fifo: int, log: Path) -> int:
    """A child that moves the FIFO into the log until it has been empty for a while."""
    child = os.fork()
    if child:
        return child
    writer = LogWriter(LogPolicy(directory=str(log), segment_bytes=100_000, files=1000))
    idle = 0
    while idle < 100:
        try:
            writer.make_room()
            writer.splice(fifo, 1)
            idle = 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.002)
    os._exit(0)


def test_follower_sees_rotation_and_ends(tmp_path: Path) -> None:
    async def follow() -> bytes:
        watcher = LogWatcher()
        follower = LogFollower(LogReader(tmp_path), watcher)
        loop = asyncio.get_running_loop()
        for number in range(20):
            loop.call_later(0.005 * number, _fill, tmp_path, [(1, b"%d\n" % number)], 60, 50)
        loop.call_later(0.15, follower.finish)
        seen = b"".join([chunk.data async for chunk in follower.chunks()])
        watcher.close()
        return seen

    assert asyncio.run(follow()) == b"".join(b"%d\n" % number for number in range(20))
    assert len(segments(tmp_path)) > 1
