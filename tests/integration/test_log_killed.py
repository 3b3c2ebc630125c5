"""A log's writer that is killed at each of its system calls: no line is lost, doubled or torn, no file forgotten."""

from __future__ import annotations

import os
import pty
import tty
from pathlib import Path

import pytest

from cove.runtime.logs.pump import Pump
from cove.runtime.logs.reader import LogReader
from cove.runtime.logs.stdio import Streams
from cove.runtime.logs.writer import segments
from cove.runtime.loop import Loop
from cove.runtime.messages import LogPolicy
from tests.killed_at import trial

_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC


class _Container:
    """Numbered lines on two FIFOs, or on a terminal whose output passes through one; a log of short segments."""

    def __init__(self, directory: Path, *, terminal: bool, files: int) -> None:
        self.files = files
        self.log = directory / "log"
        self.console, self.slave = pty.openpty() if terminal else (None, None)
        self.fifos: list[int] = []
        for name in ("stdout",) if terminal else ("stdout", "stderr"):
            os.mkfifo(directory / name)
            self.fifos.append(os.open(directory / name, _FLAGS))
        if self.console is not None and self.slave is not None:
            tty.setraw(self.slave)
            os.set_blocking(self.console, False)
        self.said = {1: b"", 2: b""}
        self.count = 0

    def say(self, stream: int) -> None:
        self.count += 1
        line = f"line {self.count}\n".encode()
        self.said[stream] += line
        os.write(self.slave if self.slave is not None else self.fifos[stream - 1], line)

    def pump(self) -> None:
        """What a supervisor does from its start on until there is nothing to move."""
        loop = Loop()
        streams = Streams(list(zip(self.fifos, (1, 2), strict=False)), console=self.console)
        pump = Pump(loop, streams, LogPolicy(directory=str(self.log), segment_bytes=60, files=self.files))
        pump.start()
        for _ in range(4):
            loop.later(0, lambda: None)
            loop.turn()
        pump.drain()
        pump.stop()

    def close(self) -> None:
        for fd in (*self.fifos, self.console, self.slave):
            if fd is not None:
                os.close(fd)


@pytest.mark.parametrize(("terminal", "files"), [(False, 1000), (True, 1000), (False, 2)])
def test_every_window(tmp_path: Path, terminal: bool, files: int) -> None:
    done, stop = False, 0
    other = 1 if terminal else 2
    while not done:
        stop += 1
        directory = tmp_path / str(stop)
        directory.mkdir()
        container = _Container(directory, terminal=terminal, files=files)
        for stream in (1, other, 1, 1, other, 1):
            container.say(stream)
            container.pump()
        for stream in (1, other):
            container.say(stream)
        done = trial(container.pump, stop)
        for _ in range(4):
            container.say(other)
            container.pump()
        chunks = list(LogReader(container.log).read(merge=False))
        container.close()
        for stream in (1, 2):
            lines = b"".join(each.data for each in chunks if each.stream == stream)
            whole = container.said[stream] if files > 2 else container.said[stream][-len(lines) :]
            assert lines == whole, f"killed at stop {stop}"
        assert b"line 12\n" in lines or terminal
        numbers = segments(container.log)
        assert len(numbers) > 1 and len(list(container.log.iterdir())) == 2 * len(numbers), "no file is forgotten"
        assert files > 2 or len(numbers) == 2
    assert stop > 40
