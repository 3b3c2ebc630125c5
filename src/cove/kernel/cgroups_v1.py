"""Control groups version 1: one hierarchy per controller, mounted below /sys/fs/cgroup."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property

from cove.errors import InvalidArgument, Unsupported
from cove.kernel.cgroups import (
    ROOT,
    Birthplace,
    Cgroups,
    CgroupStats,
    IoCount,
    number,
    rdma_text,
    read_file,
    set_limit,
    table,
    write_file,
)
from cove.oci.spec import BlockIOLimits, CPULimits, DeviceRule, MemoryLimits, NetworkLimits, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cove.kernel.pressure import Pressure

_CONTROLLERS = (
    *("memory", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "pids"),
    *("hugetlb", "net_cls", "net_prio", "rdma"),
)
_SYSTEMD = "name=systemd"
_UNLIMITED = 1 << 60
_SECOND = 1_000_000
_ATTEMPTS = 70
_THROTTLES = (
    ("throttle_read_bps_device", "blkio.throttle.read_bps_device"),
    ("throttle_write_bps_device", "blkio.throttle.write_bps_device"),
    ("throttle_read_iops_device", "blkio.throttle.read_iops_device"),
    ("throttle_write_iops_device", "blkio.throttle.write_iops_device"),
)


def _inherit(parent: str, directory: str) -> None:
    if not read_file(f"{directory}/cpuset.cpus"):
        for name in ("cpuset.cpus", "cpuset.mems"):
            write_file(f"{directory}/{name}", read_file(f"{parent}/{name}").encode())


class CgroupsV1(Cgroups):
    """Controllers that are mounted together share a hierarchy and are joined once."""

    version = 1

    def __init__(self, parent: str, *, hybrid: bool = False) -> None:
        """`hybrid`: groups are made in trees without controllers too, that of version 2 and systemd's own.

        They have no limits. Systemd knows by them which service or session a process belongs to, and ends with;
        packet filters know processes by that of version 2, which also measures pressure.
        """
        super().__init__(parent)
        self._hybrid = hybrid

    @cached_property
    def _mounted(self) -> list[tuple[str, str, str]]:
        """Kind, options and place of every mount of control groups."""
        found = []
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
        for line in lines:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            if kind in ("cgroup", "cgroup2"):
                found.append((kind, options, left.split(" ")[4]))
        return found

    @cached_property
    def _hierarchies(self) -> dict[str, str]:
        mounted = {}
        wanted = {*_CONTROLLERS, _SYSTEMD} if self._hybrid else set(_CONTROLLERS)
        for kind, options, place in self._mounted:
            if kind == "cgroup":
                for name in set(options.split(",")) & wanted:
                    mounted[name] = place
        if "memory" not in mounted or "pids" not in mounted:
            raise Unsupported(
                f"The control groups below {ROOT} lack memory or pids; mount cgroup v2 or every v1 controller"
            )
        return mounted

    def directory_of(self, controller: str, path: str) -> str:
        mount = self._hierarchies.get(controller, f"{ROOT}/{controller}")
        return f"{mount}/{path.strip('/')}"

    def directories(self, path: str) -> list[str]:
        name = path.strip("/")
        unified = [self._unified] if self._unified else []
        return [f"{mount}/{name}" for mount in (*self._mounts, *unified)]

    @cached_property
    def _mounts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._hierarchies.values()))

    @cached_property
    def _unified(self) -> str | None:
        """The tree of version 2, if groups are made there too."""
        places = [place for kind, _, place in self._mounted if kind == "cgroup2"] if self._hybrid else []
        return places[0] if places and os.access(places[0], os.W_OK) else None

    @contextmanager
    def birthplace(self, path: str, beside: int | None = None) -> Iterator[Birthplace]:
        with ExitStack() as opened:

            def at(name: str, flags: int) -> int:
                fd = os.open(name, flags | os.O_CLOEXEC)
                opened.callback(os.close, fd)
                return fd

            name = path.strip("/")
            unified = at(f"{self._unified}/{name}", os.O_RDONLY | os.O_DIRECTORY) if self._unified else None
            doors = tuple(at(f"{mount}/{name}/tasks", os.O_WRONLY) for mount in self._mounts)
            yield Birthplace(directory=unified, doors=doors)

    def procs_file(self, path: str) -> str:
        return self._file("pids", path, "cgroup.procs")

    def prepare(self, path: str) -> None:
        """A new cpuset is empty, and takes no process until it has CPUs and memory nodes.

        The groups above are told to give theirs to new ones (cgroup.clone_children), so that this is one
        look for every group but the first, or the first after somebody removed those above.
        """
        if "cpuset" not in self._hierarchies or read_file(self._file("cpuset", path, "cpuset.cpus")):
            return
        directory = self._hierarchies["cpuset"]
        *above, name = path.strip("/").split("/")
        for part in above:
            parent, directory = directory, f"{directory}/{part}"
            _inherit(parent, directory)
            write_file(f"{directory}/cgroup.clone_children", b"1")
        _inherit(directory, f"{directory}/{name}")

    def update(self, path: str, resources: Resources) -> None:
        if resources.unified:
            names = ", ".join(sorted(resources.unified))
            raise Unsupported(
                f"Unified control files ({names}) are an invalid configuration on this host: only cgroup v2 has them"
            )
        if resources.memory is not None:
            _limit_memory(self.directory_of("memory", path), resources.memory)
        if resources.cpu is not None:
            _limit_cpu(self.directory_of("cpu", path), self.directory_of("cpuset", path), resources.cpu)
            if resources.cpu.realtime_period or resources.cpu.realtime_runtime:
                _limit_realtime(self.directory_of("cpu", ""), path, resources.cpu)
        if resources.pids is not None:
            limit = resources.pids.limit
            set_limit(self._file("pids", path, "pids.max"), limit if limit > 0 else "max", "the number of processes")
        if resources.devices:
            _limit_devices(self.directory_of("devices", path), resources.devices)
        if resources.block_io is not None:
            _limit_block_io(self.directory_of("blkio", path), resources.block_io)
        for page in resources.hugepage_limits:
            file = self._file("hugetlb", path, f"hugetlb.{page.page_size}.limit_in_bytes")
            set_limit(file, page.limit, f"huge pages of {page.page_size}")
        for name, rdma in resources.rdma.items():
            set_limit(self._file("rdma", path, "rdma.max"), rdma_text(name, rdma), "RDMA resources")
        if resources.network is not None:
            self._limit_network(path, resources.network)

    def _limit_network(self, path: str, limits: NetworkLimits) -> None:
        if limits.class_id is not None:
            set_limit(self._file("net_cls", path, "net_cls.classid"), limits.class_id, "the network class")
        for each in limits.priorities:
            file = self._file("net_prio", path, "net_prio.ifpriomap")
            set_limit(file, f"{each.name} {each.priority}", "an interface's priority")

    def freeze(self, path: str, frozen: bool) -> None:
        file = self._file("freezer", path, "freezer.state")
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
        return table(self._file("memory", path, "memory.oom_control")).get("oom_kill", 0)

    def waits_for_memory(self, path: str) -> bool:
        control = table(self._file("memory", path, "memory.oom_control"))
        return bool(control.get("oom_kill_disable") and control.get("under_oom"))

    def memory_peak(self, path: str) -> int:
        return number(self._file("memory", path, "memory.max_usage_in_bytes"))

    def open_oom_events(self, path: str) -> int | None:
        group = self.directory_of("memory", path)
        events = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            control = os.open(f"{group}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write_file(f"{group}/cgroup.event_control", f"{events} {control}".encode())
            finally:
                os.close(control)
        except OSError:
            os.close(events)
            return None
        return events

    def stats(self, path: str) -> CgroupStats:
        memory, cpu = self.directory_of("memory", path), table(self._file("cpu", path, "cpu.stat"))
        account = self.directory_of("cpuacct", path)
        ticks = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        times = table(f"{account}/cpuacct.stat")
        limit = number(f"{memory}/memory.limit_in_bytes")
        try:
            each = tuple(map(int, read_file(f"{account}/cpuacct.usage_percpu").split()))
        except OSError:
            each = ()
        return CgroupStats(
            cpu_ns=number(f"{account}/cpuacct.usage"),
            cpu_user_ns=times.get("user", 0) * ticks,
            cpu_system_ns=times.get("system", 0) * ticks,
            cpu_each_ns=each,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_time", 0),
            memory=number(f"{memory}/memory.usage_in_bytes"),
            memory_peak=self.memory_peak(path),
            memory_limit=limit if limit < _UNLIMITED else 0,
            memory_failures=number(f"{memory}/memory.failcnt"),
            memory_stat=table(f"{memory}/memory.stat"),
            oom_kills=self.oom_kills(path),
            pids=number(self._file("pids", path, "pids.current")),
            pids_limit=number(self._file("pids", path, "pids.max")),
            swap=max(number(f"{memory}/memory.memsw.usage_in_bytes") - number(f"{memory}/memory.usage_in_bytes"), 0),
            io=self._io(self.directory_of("blkio", path)),
            pressure=_pressure(f"{self._unified}/{path.strip('/')}") if self._unified else {},
        )

    @staticmethod
    def _io(group: str) -> tuple[IoCount, ...]:
        counts: dict[tuple[str, str], list[int]] = {}
        for at, name in enumerate(
            ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive")
        ):
            try:
                lines = read_file(f"{group}/{name}").splitlines()
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


def _pressure(group: str) -> dict[str, Pressure]:
    from cove.kernel import pressure

    return {name: found for name in pressure.RESOURCES if (found := pressure.of_group(group, name))}


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


def _limit_memory(group: str, limits: MemoryLimits) -> None:
    """A limit of 0 is none that was asked for. `kernel` has no effect since Linux 5.16, and is part of `limit`."""
    limit, swap = f"{group}/memory.limit_in_bytes", f"{group}/memory.memsw.limit_in_bytes"
    writes: list[tuple[str, int | None, str]] = [
        (limit, limits.limit, "the memory limit"),
        (swap, limits.swap, "the limit of memory and swap"),
    ]
    if limits.limit == -1 and limits.swap is None and os.path.exists(swap):
        writes.insert(0, (swap, -1, "the limit of memory and swap"))  # which memory alone may never exceed
    before = number(swap, _UNLIMITED)
    if limits.limit and limits.swap and before < _UNLIMITED and (limits.swap == -1 or limits.swap > before):
        writes.reverse()  # memory may never exceed memory and swap, not even between two writes
    for file, value, what in writes:
        if value and not (file is swap and not os.path.exists(file) and value in (-1, limits.limit)):
            set_limit(file, value, what)
    if limits.reservation:
        set_limit(f"{group}/memory.soft_limit_in_bytes", limits.reservation, "the memory reservation")
    if limits.kernel_tcp:
        set_limit(f"{group}/memory.kmem.tcp.limit_in_bytes", limits.kernel_tcp, "the memory of TCP buffers")
    if limits.swappiness is not None:
        set_limit(f"{group}/memory.swappiness", limits.swappiness, "the swappiness")
    if limits.disable_oom_killer is not None:
        set_limit(f"{group}/memory.oom_control", int(limits.disable_oom_killer), "the OOM killer")


def _limit_cpu(group: str, cpuset: str, limits: CPULimits) -> None:
    bandwidth = [
        (f"{group}/cpu.cfs_period_us", limits.period, "the CPU period"),
        (f"{group}/cpu.cfs_quota_us", limits.quota, "the CPU quota"),
        (f"{group}/cpu.cfs_burst_us", limits.burst, "the CPU burst"),
    ]
    if limits.burst is not None and limits.burst < number(f"{group}/cpu.cfs_burst_us"):
        bandwidth.reverse()  # a burst may never exceed its quota, not even between two writes
    elif limits.quota and limits.period and limits.period < number(f"{group}/cpu.cfs_period_us"):
        bandwidth[:2] = bandwidth[1::-1]  # nor the quota its share of the group above
    values = [
        (f"{group}/cpu.idle", 0 if limits.idle == 0 else None, "CPU idle scheduling"),
        (f"{group}/cpu.shares", limits.shares or None, "the CPU shares"),
        (f"{group}/cpu.idle", limits.idle or None, "CPU idle scheduling"),
        *bandwidth,
        (f"{cpuset}/cpuset.cpus", limits.cpus or None, "the set of CPUs"),
        (f"{cpuset}/cpuset.mems", limits.mems or None, "the set of memory nodes"),
    ]
    for file, value, what in values:
        if value is not None:
            set_limit(file, value, what)


def _limit_realtime(root: str, path: str, limits: CPULimits) -> None:
    """A group has realtime only out of the share of the one above, and a new one has none: first those get it."""
    runtime, period = limits.realtime_runtime or 0, limits.realtime_period or _SECOND
    *above, name = path.strip("/").split("/")
    directory = root
    for part in above:
        directory = f"{directory}/{part}"
        held, of = number(f"{directory}/cpu.rt_runtime_us"), number(f"{directory}/cpu.rt_period_us", _SECOND)
        taken = sum(number(f"{directory}/{each}/cpu.rt_runtime_us") for each in os.listdir(directory) if each != name)
        if held < (wanted := taken + -(-runtime * of // period)):
            set_limit(f"{directory}/cpu.rt_runtime_us", wanted, f"the realtime runtime of {part}")
    group = f"{directory}/{name}"
    values = [
        (f"{group}/cpu.rt_period_us", limits.realtime_period, "the realtime period"),
        (f"{group}/cpu.rt_runtime_us", limits.realtime_runtime, "the realtime runtime"),
    ]
    if limits.realtime_runtime and limits.realtime_runtime < number(f"{group}/cpu.rt_runtime_us"):
        values.reverse()  # a period may never be shorter than its runtime, not even between two writes
    for file, value, what in values:
        if value:
            _set_realtime(file, value, what, patient=runtime <= period)


def _set_realtime(file: str, value: int, what: str, *, patient: bool) -> None:
    """A group that was removed keeps its share until its last process is reaped, which may be a slow init's to do."""
    for attempt in range(_ATTEMPTS if patient else 0):
        try:
            set_limit(file, value, what)
        except InvalidArgument as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EINVAL:
                raise
            time.sleep(0.002 * (attempt + 1))
        else:
            return
    set_limit(file, value, what)


def _limit_devices(group: str, rules: Sequence[DeviceRule]) -> None:
    """Two files, opened once: there are many rules, and a start waits for them."""
    with ExitStack() as opened:
        files = {}
        for allow, name in ((True, "devices.allow"), (False, "devices.deny")):
            files[allow] = os.open(f"{group}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            opened.callback(os.close, files[allow])
        for rule in rules:
            for text in _device_texts(rule):
                try:
                    os.write(files[rule.allow], text.encode())
                except OSError as error:
                    reason = os.strerror(error.errno or 0)
                    file = "devices.allow" if rule.allow else "devices.deny"
                    raise InvalidArgument(
                        f"The kernel refuses {text} as a device rule (in {file}): {reason}"
                    ) from error


def _device_texts(rule: DeviceRule) -> list[str]:
    if rule.type == "a" and rule.major is None and rule.minor is None:
        return ["a"]
    major = "*" if rule.major is None else rule.major
    minor = "*" if rule.minor is None else rule.minor
    kinds = {"a": "bc", "u": "c"}.get(rule.type, rule.type)
    return [f"{kind} {major}:{minor} {rule.access}" for kind in kinds]


def _limit_block_io(group: str, limits: BlockIOLimits) -> None:
    bfq = "" if os.path.exists(f"{group}/blkio.weight") else "bfq."
    weights: list[tuple[str, int | str | None, str]] = [
        (f"blkio.{bfq}weight", limits.weight, "the block I/O weight"),
        ("blkio.leaf_weight", limits.leaf_weight, "the block I/O weight of its own processes"),
    ]
    for device in limits.weight_device:
        name = f"{device.major}:{device.minor}"
        weight = f"{name} {device.weight}" if device.weight is not None else None
        weights += [
            (f"blkio.{bfq}weight_device", weight, f"{name}'s weight"),
            ("blkio.leaf_weight_device", f"{name} {device.leaf_weight}" if device.leaf_weight else None, name),
        ]
    for file, value, what in weights:
        if value:
            set_limit(f"{group}/{file}", value, what)
    for attribute, file in _THROTTLES:
        for throttle in getattr(limits, attribute):
            name = f"{throttle.major}:{throttle.minor}"
            set_limit(f"{group}/{file}", f"{name} {throttle.rate}", f"the rate of device {name}")
