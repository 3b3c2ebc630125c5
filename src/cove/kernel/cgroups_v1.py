"""Control groups version 1: one hierarchy per controller, mounted below /sys/fs/cgroup."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from cove.errors import InvalidArgument, Unsupported
from cove.kernel.cgroups import ROOT, Cgroups, CgroupStats, IoCount, number, read_file, set_limit, table, write_file
from cove.oci.spec import BlockIOLimits, CPULimits, DeviceRule, MemoryLimits, Resources

_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls")
_UNLIMITED = 1 << 60
_THROTTLES = (
    ("throttle_read_bps_device", "blkio.throttle.read_bps_device"),
    ("throttle_write_bps_device", "blkio.throttle.write_bps_device"),
    ("throttle_read_iops_device", "blkio.throttle.read_iops_device"),
    ("throttle_write_iops_device", "blkio.throttle.write_iops_device"),
)


def _inherit(parent: Path, directory: Path) -> None:
    if not read_file(directory / "cpuset.cpus"):
        for name in ("cpuset.cpus", "cpuset.mems"):
            write_file(directory / name, read_file(parent / name).encode())


def _device_text(rule: DeviceRule) -> str:
    major = "*" if rule.major is None else rule.major
    minor = "*" if rule.minor is None else rule.minor
    return "a" if rule.type == "a" else f"{rule.type} {major}:{minor} {rule.access}"


class CgroupsV1(Cgroups):
    """Controllers that are mounted together share a hierarchy and are joined once."""

    version = 1

    def __init__(self, parent: str) -> None:
        super().__init__(parent)
        self._cloning: set[str] = set()

    @cached_property
    def _hierarchies(self) -> dict[str, Path]:
        mounted = {}
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            if kind == "cgroup":
                for name in set(options.split(",")) & set(_CONTROLLERS):
                    mounted[name] = Path(left.split(" ")[4])
        if "memory" not in mounted or "pids" not in mounted:
            raise Unsupported(
                f"The control groups below {ROOT} lack memory or pids; mount cgroup v2 or every v1 controller"
            )
        return mounted

    def _group(self, controller: str, path: str) -> Path:
        """A controller's directory of this group; one that is not mounted gives a path that is not there."""
        return self._hierarchies.get(controller, ROOT / controller) / path.strip("/")

    def directories(self, path: str) -> list[Path]:
        name = path.strip("/")
        return [mount / name for mount in self._mounts]

    @cached_property
    def _mounts(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self._hierarchies.values()))

    def procs_file(self, path: str) -> Path:
        return self._group("pids", path) / "cgroup.procs"

    def prepare(self, path: str) -> None:
        """A new cpuset is empty, and takes no process until it has CPUs and memory nodes.

        The groups above are told to give theirs to new ones (cgroup.clone_children), so that this is one
        look for every group but the first.
        """
        if "cpuset" not in self._hierarchies:
            return
        directory = self._hierarchies["cpuset"]
        *above, name = path.strip("/").split("/")
        for part in above:
            parent, directory = directory, directory / part
            if str(directory) not in self._cloning:
                _inherit(parent, directory)
                write_file(directory / "cgroup.clone_children", b"1")
                self._cloning.add(str(directory))
        _inherit(directory, directory / name)

    def update(self, path: str, resources: Resources) -> None:
        if resources.memory is not None:
            self._limit_memory(self._group("memory", path), resources.memory)
        if resources.cpu is not None:
            self._limit_cpu(path, resources.cpu)
        if resources.pids is not None:
            limit = resources.pids.limit
            set_limit(
                self._group("pids", path) / "pids.max", limit if limit > 0 else "max", "the number of processes"
            )
        if resources.devices:
            self._devices(self._group("devices", path), resources.devices)
        if resources.block_io is not None:
            self._limit_block_io(self._group("blkio", path), resources.block_io)
        for page in resources.hugepage_limits:
            file = self._group("hugetlb", path) / f"hugetlb.{page.page_size}.limit_in_bytes"
            set_limit(file, page.limit, f"huge pages of {page.page_size}")
        if resources.network is not None and resources.network.class_id is not None:
            set_limit(
                self._group("net_cls", path) / "net_cls.classid", resources.network.class_id, "the network class"
            )

    def _limit_memory(self, group: Path, limits: MemoryLimits) -> None:
        limit, swap = group / "memory.limit_in_bytes", group / "memory.memsw.limit_in_bytes"
        writes: list[tuple[Path, int | None, str]] = [
            (limit, limits.limit, "the memory limit"),
            (swap, limits.swap, "the limit of memory and swap"),
        ]
        growing = limits.limit is not None and limits.swap is not None and self._memory_limit(swap) < _UNLIMITED
        if growing and (limits.swap == -1 or (limits.swap or 0) > self._memory_limit(swap)):
            writes.reverse()  # memory may never exceed memory and swap, not even between two writes
        for file, value, what in writes:
            if value is not None and not (file is swap and not file.exists() and value in (-1, limits.limit)):
                set_limit(file, value, what)
        if limits.reservation is not None:
            set_limit(group / "memory.soft_limit_in_bytes", limits.reservation, "the memory reservation")
        if limits.swappiness is not None:
            set_limit(group / "memory.swappiness", limits.swappiness, "the swappiness")
        if limits.disable_oom_killer:
            set_limit(group / "memory.oom_control", 1, "the OOM killer")

    @staticmethod
    def _memory_limit(file: Path) -> int:
        return number(file, _UNLIMITED)

    def _limit_cpu(self, path: str, limits: CPULimits) -> None:
        group, cpuset = self._group("cpu", path), self._group("cpuset", path)
        values = [
            (group / "cpu.shares", limits.shares, "the CPU shares"),
            (group / "cpu.cfs_period_us", limits.period, "the CPU period"),
            (group / "cpu.cfs_quota_us", limits.quota, "the CPU quota"),
            (group / "cpu.cfs_burst_us", limits.burst, "the CPU burst"),
            (group / "cpu.rt_period_us", limits.realtime_period, "the realtime period"),
            (group / "cpu.rt_runtime_us", limits.realtime_runtime, "the realtime runtime"),
            (group / "cpu.idle", limits.idle, "CPU idle scheduling"),
            (cpuset / "cpuset.cpus", limits.cpus or None, "the set of CPUs"),
            (cpuset / "cpuset.mems", limits.mems or None, "the set of memory nodes"),
        ]
        for file, value, what in values:
            if value is not None:
                set_limit(file, value, what)

    @staticmethod
    def _devices(group: Path, rules: Sequence[DeviceRule]) -> None:
        """Two files, opened once: there are many rules, and a start waits for them."""
        with ExitStack() as opened:
            files = {}
            for allow, name in ((True, "devices.allow"), (False, "devices.deny")):
                files[allow] = os.open(group / name, os.O_WRONLY | os.O_CLOEXEC)
                opened.callback(os.close, files[allow])
            for rule in rules:
                text = _device_text(rule)
                try:
                    os.write(files[rule.allow], text.encode())
                except OSError as error:
                    raise InvalidArgument(f"The kernel refuses {text} as a device rule: {error.strerror}") from error

    @staticmethod
    def _limit_block_io(group: Path, limits: BlockIOLimits) -> None:
        if limits.weight:
            weight = group / "blkio.weight"
            set_limit(
                weight if weight.exists() else group / "blkio.bfq.weight", limits.weight, "the block I/O weight"
            )
        for device in limits.weight_device:
            text = f"{device.major}:{device.minor} {device.weight}"
            set_limit(group / "blkio.weight_device", text, "a device's block I/O weight")
        for attribute, file in _THROTTLES:
            for throttle in getattr(limits, attribute):
                set_limit(group / file, f"{throttle.major}:{throttle.minor} {throttle.rate}", "a device's rate")

    def freeze(self, path: str, frozen: bool) -> None:
        file = self._group("freezer", path) / "freezer.state"
        wanted = "FROZEN" if frozen else "THAWED"
        for attempt in range(400):
            try:
                write_file(file, wanted.encode())
                if read_file(file) == wanted:
                    return
            except FileNotFoundError:
                return
            time.sleep(0.0002 * min(attempt + 1, 25))
        write_file(file, b"THAWED")
        raise Unsupported(f"The processes of {path} did not stop within two seconds; they run on")

    def oom_kills(self, path: str) -> int:
        return table(self._group("memory", path) / "memory.oom_control").get("oom_kill", 0)

    def open_oom_events(self, path: str) -> int | None:
        group = self._group("memory", path)
        events = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            control = os.open(group / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write_file(group / "cgroup.event_control", f"{events} {control}".encode())
            finally:
                os.close(control)
        except OSError:
            os.close(events)
            return None
        return events

    def stats(self, path: str) -> CgroupStats:
        memory, cpu = self._group("memory", path), table(self._group("cpu", path) / "cpu.stat")
        account = self._group("cpuacct", path)
        ticks = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        times = table(account / "cpuacct.stat")
        limit = number(memory / "memory.limit_in_bytes")
        try:
            each = tuple(map(int, read_file(account / "cpuacct.usage_percpu").split()))
        except OSError:
            each = ()
        return CgroupStats(
            cpu_ns=number(account / "cpuacct.usage"),
            cpu_user_ns=times.get("user", 0) * ticks,
            cpu_system_ns=times.get("system", 0) * ticks,
            cpu_each_ns=each,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_time", 0),
            memory=number(memory / "memory.usage_in_bytes"),
            memory_peak=number(memory / "memory.max_usage_in_bytes"),
            memory_limit=limit if limit < _UNLIMITED else 0,
            memory_failures=number(memory / "memory.failcnt"),
            memory_stat=table(memory / "memory.stat"),
            oom_kills=self.oom_kills(path),
            pids=number(self._group("pids", path) / "pids.current"),
            pids_limit=number(self._group("pids", path) / "pids.max"),
            io=self._io(self._group("blkio", path)),
        )

    @staticmethod
    def _io(group: Path) -> tuple[IoCount, ...]:
        counts: dict[tuple[str, str], list[int]] = {}
        for at, name in enumerate(
            ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive")
        ):
            try:
                lines = read_file(group / name).splitlines()
            except OSError:
                continue
            for line in lines:
                words = line.split()
                if len(words) == 3 and words[1] in ("Read", "Write"):
                    counts.setdefault((words[0], words[1].lower()), [0, 0])[at] = int(words[2])
        found = []
        for (device, operation), (size, operations) in counts.items():
            major, _, minor = device.partition(":")
            found.append(IoCount(int(major), int(minor), operation, size, operations))
        return tuple(found)
