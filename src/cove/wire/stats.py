"""Measurements of a running container, as `docker stats` reads them.

Names are lower-case with underscores here, as the API has them. CPU times are in nanoseconds.
A client computes its percentage from the two samples `cpu_stats` and `precpu_stats`.
"""

from __future__ import annotations

import msgspec


class CPUUsage(msgspec.Struct, frozen=True, kw_only=True):
    total_usage: int = 0
    percpu_usage: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    usage_in_kernelmode: int = 0
    usage_in_usermode: int = 0


class ThrottlingData(msgspec.Struct, frozen=True, kw_only=True):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class CPUStats(msgspec.Struct, frozen=True, kw_only=True):
    """`system_cpu_usage`: the whole host's busy and idle time together."""

    cpu_usage: CPUUsage = CPUUsage()
    system_cpu_usage: int | msgspec.UnsetType = msgspec.UNSET
    online_cpus: int | msgspec.UnsetType = msgspec.UNSET
    throttling_data: ThrottlingData = ThrottlingData()


class MemoryStats(msgspec.Struct, frozen=True, kw_only=True):
    """`stats`: the controller's memory.stat. Empty of a container that does not run."""

    usage: int | msgspec.UnsetType = msgspec.UNSET
    max_usage: int | msgspec.UnsetType = msgspec.UNSET
    stats: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    failcnt: int | msgspec.UnsetType = msgspec.UNSET
    limit: int | msgspec.UnsetType = msgspec.UNSET


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """Per cent of the last 10, 60 and 300 seconds."""

    avg10: float
    avg60: float
    avg300: float


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """How long some, or all, tasks waited for a resource (Cove's own; cgroup v2)."""

    some: Stall
    full: Stall


class BlkioEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`op`: "read", "write", …; bytes or operations in `value`."""

    major: int
    minor: int
    op: str
    value: int


class BlkioStats(msgspec.Struct, frozen=True, kw_only=True):
    io_service_bytes_recursive: tuple[BlkioEntry, ...] | None = None
    io_serviced_recursive: tuple[BlkioEntry, ...] | None = None
    io_queue_recursive: tuple[BlkioEntry, ...] | None = None
    io_service_time_recursive: tuple[BlkioEntry, ...] | None = None
    io_wait_time_recursive: tuple[BlkioEntry, ...] | None = None
    io_merged_recursive: tuple[BlkioEntry, ...] | None = None
    io_time_recursive: tuple[BlkioEntry, ...] | None = None
    sectors_recursive: tuple[BlkioEntry, ...] | None = None


class PidsStats(msgspec.Struct, frozen=True, kw_only=True):
    current: int | msgspec.UnsetType = msgspec.UNSET
    limit: int | msgspec.UnsetType = msgspec.UNSET


class NetworkStats(msgspec.Struct, frozen=True, kw_only=True):
    """One interface, seen from inside the container."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class StorageStats(msgspec.Struct, frozen=True, kw_only=True):
    """Only other systems have these; clients want the object."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """One sample with the one before it; of a stopped container with zero times and no usage."""

    name: str
    id: str
    read: str = "0001-01-01T00:00:00Z"
    preread: str = "0001-01-01T00:00:00Z"
    os_type: str = "linux"
    pids_stats: PidsStats = PidsStats()
    blkio_stats: BlkioStats = BlkioStats()
    num_procs: int = 0
    storage_stats: StorageStats = StorageStats()
    cpu_stats: CPUStats = CPUStats()
    precpu_stats: CPUStats = CPUStats()
    memory_stats: MemoryStats = MemoryStats()
    pressure_stats: dict[str, Pressure] | msgspec.UnsetType = msgspec.UNSET
    networks: dict[str, NetworkStats] | msgspec.UnsetType = msgspec.UNSET
    net_rate: str | msgspec.UnsetType = msgspec.UNSET
    """Cove's own: the limit of the container on each of its networks, "in=1048576,out=524288"."""
