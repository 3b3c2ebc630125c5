"""Every limit of a container beside what it uses now, and how much it waits for what it lacks.

What is used comes from two samples a moment apart, so that rates are those of now. A row without a limit is told
too: that nothing bounds a resource is what a reader wants to know.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from cove.engine.containers.stats import interfaces
from cove.engine.explain.units import amount, count, size
from cove.engine.host import HostFacts
from cove.kernel import pressure
from cove.kernel.cgroups import Cgroups, CgroupStats
from cove.network import rates
from cove.network.driver import Queue
from cove.oci.spec import CPULimits, Process, Resources, ThrottleDevice
from cove.wire.containers import HostConfig
from cove.wire.explain import Limit, Pressure

_PERIOD = 100_000


class Sample(msgspec.Struct, frozen=True):
    """What was used until a moment (seconds of the monotonic clock); `net`: bytes received and sent."""

    at: float
    used: CgroupStats
    net: tuple[int, int] = (0, 0)


def sample(groups: Cgroups, cgroup: str, pid: int) -> Sample:
    """Measure a running container once."""
    try:
        text = Path(f"/proc/{pid}/net/dev").read_text()
    except OSError:
        text = ""
    counters = interfaces(text).values()
    net = (sum(each.rx_bytes for each in counters), sum(each.tx_bytes for each in counters))
    return Sample(time.monotonic(), groups.stats(cgroup), net)


class Live(msgspec.Struct, frozen=True):
    """Two samples, the directories of the control group, and what the rates of each network hold back (in, out)."""

    before: Sample
    after: Sample
    directories: Sequence[str]
    queues: Sequence[tuple[Queue | None, Queue | None]] = ()

    def rate(self, before: float, after: float) -> float:
        """How much a second."""
        return max(0.0, after - before) / max(self.after.at - self.before.at, 1e-6)

    def file(self, *names: str) -> str:
        """Where a limit stands, whichever version of control groups it is."""
        paths = (f"{directory}/{name}" for directory in self.directories for name in names)
        return next((path for path in paths if os.path.exists(path)), "")

    def pressure(self, resource: str) -> Pressure | None:
        found, scope = self.after.used.pressure.get(resource), "container"
        if found is None:
            found, scope = pressure.of_host(resource), "host"
        if found is None:
            return None
        return Pressure(some10=found.some[0], some60=found.some[1], full10=found.full[0], scope=scope)


def explain(
    asked: HostConfig, wanted: Resources, process: Process, host: HostFacts, live: Live | None, *, own_network: bool
) -> tuple[Limit, ...]:
    """`live` None for a container that does not run."""
    rows = [*_cpu(wanted.cpu, host, live), *_memory(asked, host, live), _pids(asked, live), *_io(wanted, live)]
    if own_network:
        rows += _network(asked, live)
    rows += [
        Limit(
            resource=f"ulimit {each.type.removeprefix('RLIMIT_').lower()}",
            unit="ulimit",
            limit=None if each.soft < 0 else float(each.soft),
            text=f"{count(each.soft)} for each process, up to {count(each.hard)} on its own wish",
        )
        for each in process.rlimits
    ]
    return tuple(rows)


def _cpu(wanted: CPULimits | None, host: HostFacts, live: Live | None) -> Iterable[Limit]:
    quota, period = (wanted.quota, wanted.period) if wanted else (None, None)
    share = quota / (period or _PERIOD) if quota and quota > 0 else None
    text = f"at most {share:g} of {host.cpus} CPUs" if share else f"no limit: all {host.cpus} CPUs when they are idle"
    used, source, waits = None, "", None
    if live:
        used = round(live.rate(live.before.used.cpu_ns, live.after.used.cpu_ns) / 1e9, 3)
        source, waits = live.file("cpu.max", "cpu.cfs_quota_us"), live.pressure("cpu")
        throttled = live.after.used
        if throttled.periods:
            text += f"; held back in {throttled.throttled_periods} of {throttled.periods} periods"
    yield Limit(resource="cpu", unit="cpus", limit=share, used=used, text=text, source=source, pressure=waits)
    if wanted and wanted.shares:
        source = live.file("cpu.weight", "cpu.shares") if live else ""
        text = f"{wanted.shares / 1024:g} times the usual share when CPUs are short"
        yield Limit(resource="cpu shares", unit="weight", limit=float(wanted.shares), text=text, source=source)
    if wanted and (wanted.cpus or wanted.mems):
        source = live.file("cpuset.cpus") if live else ""
        parts = ([f"CPUs {wanted.cpus} only"] if wanted.cpus else []) + (
            [f"memory of node {wanted.mems} only"] if wanted.mems else []
        )
        yield Limit(resource="cpu set", unit="set", text=", ".join(parts), source=source)


def _memory(asked: HostConfig, host: HostFacts, live: Live | None) -> Iterable[Limit]:
    limit = asked.memory or None
    text = f"{size(limit)}, then a process is killed" if limit else f"no limit: all {size(host.memory)} of the host"
    used, peak, source, waits = None, None, "", None
    if live:
        found = live.after.used
        used, peak = float(working(found)), float(found.memory_peak) or None
        source, waits = live.file("memory.max", "memory.limit_in_bytes"), live.pressure("memory")
        if found.oom_kills:
            text += f"; {count(found.oom_kills)} killed so far"
    yield Limit(
        resource="memory",
        unit="bytes",
        limit=float(limit) if limit else None,
        used=used,
        peak=peak,
        text=text,
        source=source,
        pressure=waits,
    )
    if limit and asked.memory_swap:
        swap = asked.memory_swap - limit
        text = "unlimited" if asked.memory_swap < 0 else f"{size(swap)} of swap on top" if swap else "no swap"
        yield Limit(
            resource="swap",
            unit="bytes",
            limit=float(swap) if swap >= 0 else None,
            used=float(live.after.used.swap) if live else None,
            text=text,
            source=live.file("memory.swap.max", "memory.memsw.limit_in_bytes") if live else "",
        )
    if asked.memory_reservation:
        source = live.file("memory.low", "memory.soft_limit_in_bytes") if live else ""
        text = f"{size(asked.memory_reservation)} are left to it when memory is short"
        yield Limit(
            resource="memory reservation",
            unit="bytes",
            limit=float(asked.memory_reservation),
            text=text,
            source=source,
        )


def working(used: CgroupStats) -> int:
    """Memory without the file cache that can be dropped at once."""
    cache = used.memory_stat.get("total_inactive_file", used.memory_stat.get("inactive_file", 0))
    return used.memory - cache if cache < used.memory else used.memory


def _pids(asked: HostConfig, live: Live | None) -> Limit:
    limit = asked.pids_limit if asked.pids_limit and asked.pids_limit > 0 else None
    return Limit(
        resource="processes",
        unit="processes",
        limit=float(limit) if limit else None,
        used=float(live.after.used.pids) if live else None,
        peak=float(live.after.used.pids_peak) or None if live else None,
        text=f"{count(limit)} processes and threads, then fork fails" if limit else "no limit but the host's",
        source=live.file("pids.max") if live else "",
    )


def _io(wanted: Resources, live: Live | None) -> Iterable[Limit]:
    """One row for all devices, and one for each device and direction that has a limit."""
    block = wanted.block_io
    total = _block_rate(live, None, None)
    text = "no limit" if block is None else f"weight {block.weight}" if block.weight else "limited by device"
    waits = live.pressure("io") if live else None
    source = live.file("io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight") if live else ""
    yield Limit(resource="block i/o", unit="bytes/s", used=total, text=text, source=source, pressure=waits)
    if block is None:
        return
    tables: tuple[tuple[Sequence[ThrottleDevice], str, str, str], ...] = (
        (block.throttle_read_bps_device, "read", "bytes/s", "blkio.throttle.read_bps_device"),
        (block.throttle_write_bps_device, "write", "bytes/s", "blkio.throttle.write_bps_device"),
        (block.throttle_read_iops_device, "read", "operations/s", "blkio.throttle.read_iops_device"),
        (block.throttle_write_iops_device, "write", "operations/s", "blkio.throttle.write_iops_device"),
    )
    for devices, operation, unit, file in tables:
        for each in devices:
            used = _block_rate(live, (each.major, each.minor), operation, operations=unit != "bytes/s")
            yield Limit(
                resource=f"{operation} {_device(each.major, each.minor)}",
                unit=unit,
                limit=float(each.rate),
                used=used,
                text=f"at most {amount(each.rate, unit)}",
                source=live.file("io.max", file) if live else "",
            )


def _device(major: int, minor: int) -> str:
    """A block device's name, its numbers when it has none any more."""
    try:
        return os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return f"{major}:{minor}"


def _block_rate(
    live: Live | None, device: tuple[int, int] | None, operation: str | None, *, operations: bool = False
) -> float | None:
    if live is None:
        return None
    before, after = (
        sum(
            each.operations if operations else each.bytes
            for each in at.used.io
            if device in (None, (each.major, each.minor)) and operation in (None, each.operation)
        )
        for at in (live.before, live.after)
    )
    return round(live.rate(before, after), 1)


def _network(asked: HostConfig, live: Live | None) -> list[Limit]:
    rate = rates.parse(asked.net_rate)
    found = []
    for position, (name, limit) in enumerate((("network in", rate.inward), ("network out", rate.outward))):
        used = live.rate(live.before.net[position], live.after.net[position]) if live else None
        text = f"at most {amount(limit, 'bytes/s')} on each of its networks" if limit else "no limit"
        found.append(
            Limit(
                resource=name,
                unit="bytes/s",
                limit=float(limit) if limit else None,
                used=None if used is None else round(used, 1),
                text=text + (_held_back(live, position) if live else ""),
                source="HTB class on the network's ifb" if limit and live else "",
            )
        )
    return found


def _held_back(live: Live, position: int) -> str:
    """What waits or was dropped for a rate, the container's or a network's."""
    queues = [queue for pair in live.queues if (queue := pair[position]) is not None]
    waiting, dropped = (sum(getattr(queue, name) for queue in queues) for name in ("waiting", "dropped"))
    found = f"; {size(waiting)} wait" if waiting else ""
    return found + (f"; {count(dropped)} packets found the queue full" if dropped else "")
