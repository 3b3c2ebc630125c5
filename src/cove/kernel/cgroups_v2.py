"""Control groups version 2: one hierarchy for all controllers, mounted at /sys/fs/cgroup."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cove.errors import InvalidArgument, Unsupported
from cove.kernel import device_filter, inotify, pressure
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
from cove.oci.spec import BlockIOLimits, CPULimits, DeviceRule, MemoryLimits, Resources

_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma")
_THROTTLES = (
    ("throttle_read_bps_device", "rbps"),
    ("throttle_write_bps_device", "wbps"),
    ("throttle_read_iops_device", "riops"),
    ("throttle_write_iops_device", "wiops"),
)
_MICROSECOND = 1000


class CgroupsV2(Cgroups):
    """Every process is in one group; controllers are handed down from each group to those below it."""

    version = 2

    def _group(self, path: str) -> str:
        return f"{ROOT}/{path.strip('/')}"

    def directories(self, path: str) -> list[str]:
        return [self._group(path)]

    def procs_file(self, path: str) -> str:
        return f"{self._group(path)}/cgroup.procs"

    def prepare(self, path: str) -> None:
        """Hand every controller down to the new group.

        A controller that cannot be handed down (it is bound to version 1, or real-time tasks hold it) leaves
        its files out below; setting one of its limits then says so.
        """
        directory = ROOT
        for part in path.strip("/").split("/"):
            ready = set(read_file(f"{directory}/cgroup.subtree_control").split())
            for name in read_file(f"{directory}/cgroup.controllers").split():
                if name in _CONTROLLERS and name not in ready:
                    with suppress(OSError):
                        write_file(f"{directory}/cgroup.subtree_control", f"+{name}".encode())
            directory = f"{directory}/{part}"

    @contextmanager
    def birthplace(self, path: str, beside: int | None = None) -> Iterator[Birthplace]:
        """A group that the container divided among groups below it takes no process: then `beside`'s own does."""
        group = self._group(path)
        if beside is not None and read_file(f"{group}/cgroup.subtree_control"):
            group = self._group(read_file(f"/proc/{beside}/cgroup").rpartition("0::")[2])
        fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield Birthplace(directory=fd)
        finally:
            os.close(fd)

    # ── limits ────────────────────────────────────────────────────────────────────────────────────

    def update(self, path: str, resources: Resources) -> None:
        group = self._group(path)
        if resources.memory is not None:
            _limit_memory(group, resources.memory)
        if resources.cpu is not None:
            _limit_cpu(group, resources.cpu)
        if resources.pids is not None:
            limit = resources.pids.limit
            set_limit(f"{group}/pids.max", limit if limit > 0 else "max", "the number of processes")
        if resources.devices:
            _limit_devices(group, resources.devices)
        if resources.block_io is not None:
            _limit_io(group, resources.block_io)
        for page in resources.hugepage_limits:
            set_limit(f"{group}/hugetlb.{page.page_size}.max", page.limit, f"huge pages of {page.page_size}")
            if os.path.exists(reserved := f"{group}/hugetlb.{page.page_size}.rsvd.max"):
                set_limit(reserved, page.limit, f"reserved huge pages of {page.page_size}")
        for name, rdma in resources.rdma.items():
            set_limit(f"{group}/rdma.max", rdma_text(name, rdma), "RDMA resources")
        if resources.network is not None and (resources.network.class_id or resources.network.priorities):
            raise Unsupported("Network class and priority exist only with cgroup v1; leave out resources.network")
        for file, value in resources.unified.items():
            _check_control_file(group, file)
            for line in value.splitlines():
                set_limit(f"{group}/{file}", line, file)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────

    def freeze(self, path: str, frozen: bool) -> None:
        group = self._group(path)
        try:
            write_file(f"{group}/cgroup.freeze", b"1" if frozen else b"0")
        except FileNotFoundError:
            return
        for attempt in range(400):
            if table(f"{group}/cgroup.events").get("frozen", int(frozen)) == int(frozen):
                return
            time.sleep(0.0002 * min(attempt + 1, 25))
        write_file(f"{group}/cgroup.freeze", b"0")
        raise Unsupported(f"The processes of {path} did not stop within two seconds; they run on")

    def kill(self, path: str) -> None:
        """cgroup.kill (kernel 5.14) ends all at once; else they are signalled until none is left."""
        group = self._group(path)
        try:
            write_file(f"{group}/cgroup.kill", b"1")
        except OSError:
            super().kill(path)
            return
        for attempt in range(400):
            if not table(f"{group}/cgroup.events").get("populated", 0):
                return
            time.sleep(0.0002 * min(attempt + 1, 25))

    # ── use ───────────────────────────────────────────────────────────────────────────────────────

    def oom_kills(self, path: str) -> int:
        return table(f"{self._group(path)}/memory.events").get("oom_kill", 0)

    def memory_peak(self, path: str) -> int:
        return number(f"{self._group(path)}/memory.peak")

    def open_oom_events(self, path: str) -> int | None:
        fd = inotify.open_instance()
        try:
            inotify.add_watch(fd, str(f"{self._group(path)}/memory.events"), inotify.MODIFY)
        except OSError:
            os.close(fd)
            return None
        return fd

    def stats(self, path: str) -> CgroupStats:
        group = self._group(path)
        cpu, events = table(f"{group}/cpu.stat"), table(f"{group}/memory.events")
        return CgroupStats(
            cpu_ns=cpu.get("usage_usec", 0) * _MICROSECOND,
            cpu_user_ns=cpu.get("user_usec", 0) * _MICROSECOND,
            cpu_system_ns=cpu.get("system_usec", 0) * _MICROSECOND,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_usec", 0) * _MICROSECOND,
            memory=number(f"{group}/memory.current"),
            memory_peak=self.memory_peak(path),
            memory_limit=number(f"{group}/memory.max"),
            memory_failures=events.get("max", 0),
            memory_stat=table(f"{group}/memory.stat"),
            oom_kills=events.get("oom_kill", 0),
            pids=number(f"{group}/pids.current"),
            pids_limit=number(f"{group}/pids.max"),
            pids_peak=number(f"{group}/pids.peak"),
            swap=number(f"{group}/memory.swap.current"),
            io=_io(group),
            pressure={name: found for name in pressure.RESOURCES if (found := pressure.of_group(group, name))},
            huge_pages=_huge_pages(group),
        )


def _check_control_file(group: str, file: str) -> None:
    """Whether `unified` may name it."""
    controller, dot, name = file.partition(".")
    if "/" in file or not (controller and dot and name):
        raise InvalidArgument(
            f"linux.resources.unified: the specified key has not the form CONTROLLER.VALUE `{file}`; write it as in "
            "memory.high"
        )
    if os.path.exists(f"{group}/{file}"):
        return
    if controller not in (*read_file(f"{group}/cgroup.controllers").split(), "cgroup"):
        raise InvalidArgument(
            f"linux.resources.unified: the requested cgroup controller `{controller}` is not available ({file})"
        )
    raise InvalidArgument(
        f"linux.resources.unified: {file}: no such file or directory; this kernel has no such control file"
    )


def _huge_pages(group: str) -> dict[str, tuple[int, int, int]]:
    try:
        files = os.listdir(group)
    except FileNotFoundError:
        return {}
    found = {}
    for file in files:
        if file.startswith("hugetlb.") and file.endswith(".current") and not file.endswith(".rsvd.current"):
            name = file.removesuffix(".current")
            used, limit = number(f"{group}/{file}"), number(f"{group}/{name}.max")
            found[name.removeprefix("hugetlb.")] = (used, limit, table(f"{group}/{name}.events").get("max", 0))
    return found


def _limit_memory(group: str, limits: MemoryLimits) -> None:
    """`limits.swap` is memory and swap together, as version 1 counted; here swap has its own limit.

    A limit of 0 is none that was asked for. The kernel's memory and that of TCP buffers is part of `limit`.
    """
    if limits.swappiness is not None:
        raise Unsupported("Memory swappiness exists only with cgroup v1; leave it out")
    if limits.disable_oom_killer:
        raise Unsupported("Switching off the OOM killer exists only with cgroup v1; leave it out")
    if limits.check_before_update and limits.limit and 0 < limits.limit < (used := number(f"{group}/memory.current")):
        raise InvalidArgument(f"The memory limit {limits.limit} is below the {used} bytes that are in use; raise it")
    if limits.limit:
        set_limit(f"{group}/memory.max", _or_max(limits.limit), "the memory limit")
    if limits.swap:
        memory = limits.limit or number(f"{group}/memory.max", -1)
        unlimited = limits.swap < 0 or memory < 0
        if not unlimited and limits.swap < memory:
            raise InvalidArgument(
                f"The limit of memory and swap ({limits.swap}) is below the memory limit ({memory}); raise it"
            )
        swap, file = (-1 if unlimited else limits.swap - memory), f"{group}/memory.swap.max"
        if os.path.exists(file) or swap > 0:
            set_limit(file, _or_max(swap), "the limit of memory and swap")
    if limits.reservation:
        set_limit(f"{group}/memory.low", _or_max(limits.reservation), "the memory reservation")


def _or_max(value: int) -> int | str:
    return "max" if value < 0 else value


def weight_of(shares: int) -> int:
    """Version 1's shares (2 to 262144, 1024 is usual) as version 2's weight (1 to 10000, 100 is usual).

    The curve passes through the three pairs of minima, usual values and maxima: its exponent is a parabola of
    log2(shares).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    power = math.log2(shares)
    exponent = (power * power + 125 * power) / 612.0 - 7.0 / 34.0
    return math.ceil(10**exponent)


def _limit_cpu(group: str, limits: CPULimits) -> None:
    if limits.realtime_runtime or limits.realtime_period:
        raise Unsupported("Realtime CPU limits exist only with cgroup v1; leave them out")
    if limits.idle == 0:
        set_limit(f"{group}/cpu.idle", 0, "CPU idle scheduling")
    if limits.shares:
        set_limit(f"{group}/cpu.weight", weight_of(limits.shares), "the CPU shares")
    if limits.idle:
        set_limit(f"{group}/cpu.idle", limits.idle, "CPU idle scheduling")
    shrinking = limits.burst is not None and limits.burst < number(f"{group}/cpu.max.burst")
    if shrinking:  # a burst may never exceed its quota, not even between two writes
        set_limit(f"{group}/cpu.max.burst", limits.burst, "the CPU burst")
    if limits.quota is not None or limits.period is not None:
        before = read_file(f"{group}/cpu.max").split() if os.path.exists(f"{group}/cpu.max") else ["max", "100000"]
        quota = before[0] if limits.quota is None else "max" if limits.quota <= 0 else limits.quota
        set_limit(f"{group}/cpu.max", f"{quota} {limits.period or before[1]}", "the CPU quota")
    if limits.burst is not None and not shrinking:
        set_limit(f"{group}/cpu.max.burst", limits.burst, "the CPU burst")
    if limits.cpus:
        set_limit(f"{group}/cpuset.cpus", limits.cpus, "the set of CPUs")
    if limits.mems:
        set_limit(f"{group}/cpuset.mems", limits.mems, "the set of memory nodes")


def _limit_io(group: str, limits: BlockIOLimits) -> None:
    if limits.leaf_weight or any(device.leaf_weight for device in limits.weight_device):
        raise Unsupported("Leaf weights of block I/O exist only with cgroup v1; leave them out")
    if limits.weight:
        for file, value in _io_weights(group, limits.weight):
            set_limit(file, value, "the block I/O weight")
    for device in limits.weight_device:
        if device.weight is not None:
            _weigh_device(group, f"{device.major}:{device.minor}", device.weight)
    for attribute, key in _THROTTLES:
        for throttle in getattr(limits, attribute):
            name = f"{throttle.major}:{throttle.minor}"
            set_limit(f"{group}/io.max", f"{name} {key}={throttle.rate or 'max'}", f"the rate of device {name}")


def _io_weights(group: str, weight: int) -> list[tuple[str, int]]:
    """blkio's weight (10 to 1000) for disks that BFQ schedules, and stretched to 1…10000 for those under io.cost."""
    bfq, cost = f"{group}/io.bfq.weight", f"{group}/io.weight"
    stretched = (cost, 1 + (weight - 10) * 9999 // 990)
    if not os.path.exists(bfq):
        return [stretched]
    return [(bfq, weight), stretched] if os.path.exists(cost) else [(bfq, weight)]


def divides_disks() -> bool:
    """Whether any disk is divided by weight just now: by the scheduler BFQ, or by io.cost."""
    costs = f"{ROOT}/io.cost.qos"
    if os.path.exists(costs) and "enable=1" in read_file(costs):
        return True
    return any("[bfq]" in _scheduler(disk) for disk in os.listdir("/sys/block"))


def _scheduler(disk: str) -> str:
    try:
        return read_file(f"/sys/block/{disk}/queue/scheduler")
    except FileNotFoundError:
        return ""


def _weigh_device(group: str, name: str, weight: int) -> None:
    """One disk's weight (0: the usual one), in the file of what divides that disk: the other one is refused."""
    *others, last = [(file, f"{name} {value if weight else 'default'}") for file, value in _io_weights(group, weight)]
    for file, text in others:
        with suppress(InvalidArgument):
            set_limit(file, text, f"the weight of device {name}")
            return
    set_limit(*last, f"the weight of device {name}")


def _limit_devices(group: str, rules: tuple[DeviceRule, ...]) -> None:
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device_filter.install(fd, rules)
    except OSError as error:
        name = os.path.basename(group)
        raise Unsupported(f"The kernel takes no filter of devices for {name}: {error.strerror}") from error
    finally:
        os.close(fd)


def _io(group: str) -> tuple[IoCount, ...]:
    try:
        lines = read_file(f"{group}/io.stat").splitlines()
    except OSError:
        return ()
    counts: list[IoCount] = []
    for line in lines:
        device, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if "rbytes" not in values:
            continue  # a device that has only counters of its scheduler's
        major, minor = map(int, device.split(":"))
        counts.append(IoCount(major, minor, "read", int(values["rbytes"]), int(values["rios"])))
        counts.append(IoCount(major, minor, "write", int(values["wbytes"]), int(values["wios"])))
    return tuple(counts)
