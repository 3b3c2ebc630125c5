"""What running containers use: one sample, or one a second.

Reads the control group and the container's own network counters; both are a handful of small files, read
inline. A client computes its percentages from each sample and the one before it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from cove.engine.containers.launch import cgroup_of
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.kernel.cgroups import CgroupStats
from cove.kernel.pressure import Pressure
from cove.wire import stats as wire
from cove.wire.times import ZERO, stamp

_PERIOD = 1.0
_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


class Stats:
    """The use cases of measurements."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self._context = context
        self._registry = registry

    async def once(self, ref: str, *, one_shot: bool = False) -> wire.Stats:
        """One sample; unless `one_shot`, with one a second before it to compare with."""
        container = self._registry.find(ref)
        first = self._sample(container, None)
        if one_shot or not container.facts.running:
            return first
        await asyncio.sleep(_PERIOD)
        return self._sample(container, first)

    def stream(self, ref: str) -> AsyncIterator[wire.Stats]:
        """A sample a second until the container is removed; NotFound at once."""
        return self._stream(self._registry.find(ref))

    async def _stream(self, container: Container) -> AsyncIterator[wire.Stats]:
        before: wire.Stats | None = None
        while self._registry.get(container.id) is container:
            before = self._sample(container, before)
            yield before
            await asyncio.sleep(_PERIOD)

    def _sample(self, container: Container, before: wire.Stats | None) -> wire.Stats:
        empty = wire.Stats(name=f"/{container.name}", id=container.id)
        if not container.facts.running:
            return empty
        try:
            used = self._context.cgroups.stats(cgroup_of(container, self._context))
        except OSError:
            return empty  # it ended between the two lines
        previous = before if before is not None and before.read != ZERO else None
        return msgspec.structs.replace(
            empty,
            read=stamp(time.time_ns()),
            preread=previous.read if previous else ZERO,
            pids_stats=wire.PidsStats(current=used.pids, limit=used.pids_limit or msgspec.UNSET),
            num_procs=0,
            blkio_stats=_blkio(used),
            cpu_stats=_cpu(used, self._context.host.cpus),
            precpu_stats=previous.cpu_stats if previous else wire.CPUStats(),
            memory_stats=wire.MemoryStats(
                usage=used.memory,
                max_usage=used.memory_peak or msgspec.UNSET,
                stats=used.memory_stat,
                failcnt=used.memory_failures or msgspec.UNSET,
                limit=used.memory_limit or self._context.host.memory,
            ),
            pressure_stats={name: _pressure(found) for name, found in used.pressure.items()} or msgspec.UNSET,
            networks=self._networks(container),
            net_rate=container.record.host.net_rate or msgspec.UNSET,
        )

    def _networks(self, container: Container) -> dict[str, wire.NetworkStats] | msgspec.UnsetType:
        if not container.facts.attached.endpoints or "host" in container.record.endpoints:
            return msgspec.UNSET
        try:
            text = Path(f"/proc/{container.facts.pid}/net/dev").read_text()
        except OSError:
            return msgspec.UNSET
        return interfaces(text)


def interfaces(text: str) -> dict[str, wire.NetworkStats]:
    """The counters of /proc/PID/net/dev (proc_pid_net(5)), without the loopback's."""
    found: dict[str, wire.NetworkStats] = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if name.strip() == "lo" or len(numbers) < 12:
            continue
        found[name.strip()] = wire.NetworkStats(
            rx_bytes=numbers[0],
            rx_packets=numbers[1],
            rx_errors=numbers[2],
            rx_dropped=numbers[3],
            tx_bytes=numbers[8],
            tx_packets=numbers[9],
            tx_errors=numbers[10],
            tx_dropped=numbers[11],
        )
    return found


def _cpu(used: CgroupStats, cpus: int) -> wire.CPUStats:
    return wire.CPUStats(
        cpu_usage=wire.CPUUsage(
            total_usage=used.cpu_ns,
            percpu_usage=used.cpu_each_ns or msgspec.UNSET,
            usage_in_kernelmode=used.cpu_system_ns,
            usage_in_usermode=used.cpu_user_ns,
        ),
        system_cpu_usage=system_cpu_ns(),
        online_cpus=cpus,
        throttling_data=wire.ThrottlingData(
            periods=used.periods, throttled_periods=used.throttled_periods, throttled_time=used.throttled_ns
        ),
    )


def _pressure(found: Pressure) -> wire.Pressure:
    some, full = (
        wire.Stall(avg10=averages[0], avg60=averages[1], avg300=averages[2]) for averages in (found.some, found.full)
    )
    return wire.Pressure(some=some, full=full)


def system_cpu_ns() -> int:
    """All CPUs' time, busy and idle: the first seven (user to softirq) and steal of /proc/stat's first line."""
    with open("/proc/stat", encoding="ascii") as file:
        words = file.readline().split()
    return sum(int(word) for word in words[1:9]) * _TICK_NS


def _blkio(used: CgroupStats) -> wire.BlkioStats:
    if not used.io:
        return wire.BlkioStats()
    return wire.BlkioStats(
        io_service_bytes_recursive=tuple(
            wire.BlkioEntry(major=each.major, minor=each.minor, op=each.operation, value=each.bytes)
            for each in used.io
        ),
        io_serviced_recursive=tuple(
            wire.BlkioEntry(major=each.major, minor=each.minor, op=each.operation, value=each.operations)
            for each in used.io
        ),
    )
