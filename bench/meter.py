"""What a piece of work costs an engine: wall time, processor time, and the memory of its processes.

An engine and all that descends from it live in a control group of their own, so nothing it does is missed:
processes that lived for a millisecond, daemons that left their parent. Processor time is the group's own count;
memory is what its processes hold for themselves (anonymous pages), sampled, because the kernel's own peak counts
the page cache too, which is nobody's cost while there is room.

    group = Group("docker") ─▶ [*group.words(), program, …] is started in it ─▶ group.measured(work) ─▶ group.remove()
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.01
_ROOT = Path("/sys/fs/cgroup")
_JOIN = 'for group in $1; do echo $$ > "$group/cgroup.procs"; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time, seconds of processor time, and how many bytes more than before at the worst moment."""

    wall: float
    processor: float
    memory: int


class Group:
    """A control group of the bench's own, of either version."""

    def __init__(self, name: str) -> None:
        called = f"cove-bench-{os.getpid()}-{name}"
        if (_ROOT / "cgroup.controllers").exists():
            with suppress(OSError):  # it may be on already, and is not ours to insist on
                (_ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
            self._paths = [_ROOT / called]
        else:
            self._paths = [_ROOT / "cpuacct" / called, _ROOT / "memory" / called]
        for path in self._paths:
            path.mkdir()

    def words(self) -> list[str]:
        """What runs a program in the group."""
        return ["sh", "-c", _JOIN, "sh", " ".join(map(str, self._paths))]

    def measured(self, work: Callable[[], object]) -> Cost:
        """The cost of `work`, which the group's processes do."""
        with _Sampler(self._memory) as sampler:
            before = self._processor()
            began = time.perf_counter()
            work()
            wall = time.perf_counter() - began
            processor = self._processor() - before
        return Cost(wall, processor, sampler.peak - sampler.first)

    def remove(self) -> None:
        """When its processes are gone; those that linger for a moment are waited for."""
        for path in self._paths:
            for _ in range(100):
                for below, _, _ in os.walk(path, topdown=False):  # an engine may have made groups in its own
                    with suppress(OSError):
                        os.rmdir(below)
                if not path.exists():
                    break
                time.sleep(0.05)

    def _processor(self) -> float:
        usage = self._paths[0] / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        return _field(self._paths[0] / "cpu.stat", "usage_usec") / 1e6

    def _memory(self) -> int:
        version_1 = (self._paths[-1] / "memory.usage_in_bytes").exists()
        return _field(self._paths[-1] / "memory.stat", "total_rss" if version_1 else "anon")


class _Sampler:
    def __init__(self, memory: Callable[[], int]) -> None:
        self._memory = memory
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.first = self.peak = memory()

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, self._memory())


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise RuntimeError(f"{path} has no field {name}")
