"""What a piece of work costs an engine: wall time, processor time, and the memory of its processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.02
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time, seconds of processor time, and how many bytes more than before at the worst moment."""

    wall: float
    processor: float
    memory: int


def measured(pid: int, work: Callable[[], object]) -> Cost:
    """The cost of `work`, which the process `pid` and its descendants do.

    Processor time is that of all of them, those that ended included, as long as their parents waited for them.
    Memory is the proportional set size, sampled; what an engine has anyway is not counted.
    """
    with _Sampler(pid) as sampler:
        before = _processor(pid)
        began = time.perf_counter()
        work()
        wall = time.perf_counter() - began
    return Cost(wall, _processor(pid) - before, sampler.peak - sampler.first)


class _Sampler:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.first = self.peak = _memory(pid)

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, _memory(self._pid))


def _family(pid: int) -> list[int]:
    """The process and its descendants, of whichever of their threads they are children."""
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        with suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                waiting += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
    return found


def _processor(pid: int) -> float:
    total = 0
    for each in _family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5)
    return total / _TICK


def _memory(pid: int) -> int:
    total = 0
    for each in _family(pid):
        try:
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
        except OSError:
            continue
    return total
