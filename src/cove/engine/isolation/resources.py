"""A HostConfig's limits as control group values, and the refusal of those that make no sense.

Pure but for looking up the numbers of device nodes of the host. Bytes, microseconds and counts as in the
runtime-spec's config-linux.md; a value of zero means that nothing was asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from cove.engine.host import HostFacts
from cove.errors import InvalidArgument, Unsupported
from cove.oci.spec import (
    BlockIOLimits,
    CPULimits,
    Device,
    DeviceRule,
    MemoryLimits,
    PidsLimit,
    Resources,
    ThrottleDevice,
    WeightDevice,
)
from cove.wire import containers as wire

_MINIMUM_MEMORY = 6 << 20
_PERIOD = 100_000

_BASE_RULES = (
    DeviceRule(allow=False),
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(allow=True, type="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    *(DeviceRule(allow=True, type="c", major=5, minor=minor) for minor in (0, 1, 2)),
    DeviceRule(allow=True, type="c", major=136),
)
"""Nothing but null zero full random urandom tty console ptmx pts. A node of another device may be made
(package managers do), not opened."""


def limits(asked: wire.Resources, host: HostFacts) -> Resources:
    """The limits without the device rules; raises InvalidArgument or Unsupported."""
    check_memory(asked, host)
    _check_cpu(asked, host)
    return Resources(memory=_memory(asked), cpu=_cpu(asked), pids=_pids(asked), block_io=_block_io(asked))


def check_memory(asked: wire.Resources, host: HostFacts) -> None:
    """Docker's rules for the memory limits, with its words."""
    memory, swap, reservation = asked.memory, asked.memory_swap, asked.memory_reservation
    if 0 < memory < _MINIMUM_MEMORY or memory < 0:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory > 0 and swap not in (-1, 0) and swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory == 0 and swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < reservation < _MINIMUM_MEMORY or reservation < 0:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if asked.memory_swappiness not in (None, -1) and not 0 <= (asked.memory_swappiness or 0) <= 100:
        raise InvalidArgument(f"Invalid value: {asked.memory_swappiness}, valid memory swappiness range is 0-100")
    if host.cgroup_version == 2 and asked.memory_swappiness not in (None, -1):
        raise Unsupported("Memory swappiness exists only with cgroup v1; leave out --memory-swappiness")
    if host.cgroup_version == 2 and asked.oom_kill_disable:
        raise Unsupported("Switching off the OOM killer exists only with cgroup v1; leave out --oom-kill-disable")


def _memory(asked: wire.Resources) -> MemoryLimits | None:
    swappiness = None if asked.memory_swappiness == -1 else asked.memory_swappiness
    if not (asked.memory or asked.memory_reservation or asked.oom_kill_disable) and swappiness is None:
        return None
    return MemoryLimits(
        limit=asked.memory or None,
        reservation=asked.memory_reservation or None,
        swap=effective_swap(asked) or None,
        swappiness=swappiness,
        disable_oom_killer=asked.oom_kill_disable or None,
    )


def effective_swap(asked: wire.Resources) -> int:
    """Memory and swap together: twice the memory unless the user said something else; -1 is unlimited."""
    if asked.memory_swap or not asked.memory:
        return asked.memory_swap
    return asked.memory * 2


def _check_cpu(asked: wire.Resources, host: HostFacts) -> None:
    if asked.nano_cpus and (asked.cpu_period or asked.cpu_quota):
        other = "Period" if asked.cpu_period else "Quota"
        raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {other} cannot both be set")
    if asked.nano_cpus < 0 or asked.nano_cpus > host.cpus * 10**9 or 0 < asked.nano_cpus < 10**7:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {host.cpus}.00, as there are only {host.cpus} CPUs available"
        )
    if asked.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({asked.cpu_shares}): value must be a positive integer")
    if asked.cpu_period and not 1000 <= asked.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < asked.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cgroup_version == 2 and (asked.cpu_realtime_period or asked.cpu_realtime_runtime):
        raise Unsupported(
            "Realtime CPU limits exist only with cgroup v1; leave out --cpu-rt-period and --cpu-rt-runtime"
        )
    if asked.cpu_count or asked.cpu_percent or asked.io_maximum_iops or asked.io_maximum_bandwidth:
        raise Unsupported("CPU count, CPU percent and maximum IO are limits of another operating system")
    _check_set(asked.cpuset_cpus, host.online_cpus, "cpuset cpus", "CPUs")
    _check_set(asked.cpuset_mems, host.online_mems, "cpuset mems", "memory nodes")


def _check_set(text: str, available: str, what: str, plural: str) -> None:
    if not text:
        return
    try:
        wanted, there = parse_set(text), parse_set(available)
    except ValueError:
        raise InvalidArgument(f"Invalid value {text} for {what}") from None
    if not wanted <= there:
        raise InvalidArgument(f"Requested {plural} are not available - requested {text}, available: {available}")


def parse_set(text: str) -> frozenset[int]:
    """Numbers of a list like "0-3,8" (cpuset(7), "List format"); raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if low > high or high > 8192:
            raise ValueError(part)
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def _cpu(asked: wire.Resources) -> CPULimits | None:
    quota, period = asked.cpu_quota, asked.cpu_period
    if asked.nano_cpus:
        quota, period = asked.nano_cpus * _PERIOD // 10**9, _PERIOD
    values = CPULimits(
        shares=max(asked.cpu_shares, 2) if asked.cpu_shares else None,
        quota=quota or None,
        period=period or None,
        realtime_runtime=asked.cpu_realtime_runtime or None,
        realtime_period=asked.cpu_realtime_period or None,
        cpus=asked.cpuset_cpus,
        mems=asked.cpuset_mems,
    )
    return None if values == CPULimits() else values


def _pids(asked: wire.Resources) -> PidsLimit | None:
    return PidsLimit(limit=asked.pids_limit) if asked.pids_limit else None


def _block_io(asked: wire.Resources) -> BlockIOLimits | None:
    weights = [asked.blkio_weight, *(device.weight for device in asked.blkio_weight_device)]
    if any(weight and not 10 <= weight <= 1000 for weight in weights):
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    values = BlockIOLimits(
        weight=asked.blkio_weight or None,
        weight_device=tuple(
            WeightDevice(major=major, minor=minor, weight=device.weight)
            for device in asked.blkio_weight_device
            for major, minor in [_number(device.path)]
        ),
        throttle_read_bps_device=_throttles(asked.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(asked.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(asked.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(asked.blkio_device_write_iops),
    )
    return None if values == BlockIOLimits() else values


DEVICE_LIMITS = (
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
)
"""The members of the API's Resources that are lists with a limit for each device."""


def lifting(before: wire.HostConfig, after: wire.HostConfig) -> wire.HostConfig:
    """`after` as a running container is told of it: a device that is no longer limited has a limit of zero."""
    changes: dict[str, object] = {}
    for name in DEVICE_LIMITS:
        now = getattr(after, name)
        paths = {device.path for device in now}
        kind: type[wire.ThrottleDevice | wire.WeightDevice] = (
            wire.WeightDevice if name == "blkio_weight_device" else wire.ThrottleDevice
        )
        gone = tuple(kind(path=device.path) for device in getattr(before, name) if device.path not in paths)
        changes[name] = (*now, *gone)
    return msgspec.structs.replace(after, **changes)


def _throttles(devices: tuple[wire.ThrottleDevice, ...]) -> tuple[ThrottleDevice, ...]:
    return tuple(
        ThrottleDevice(major=major, minor=minor, rate=device.rate)
        for device in devices
        for major, minor in [_number(device.path)]
    )


def _number(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        raise InvalidArgument(f"the device {path} does not exist on this host") from None
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidArgument(f"{path} is no block device: limits of block I/O are for disks, e.g. /dev/sda")
    return os.major(found.st_rdev), os.minor(found.st_rdev)


# ── devices ───────────────────────────────────────────────────────────────────────────────────────


def devices(asked: wire.HostConfig) -> tuple[tuple[Device, ...], tuple[DeviceRule, ...]]:
    """The nodes to make besides the standard ones, and the rules of the device controller."""
    if asked.privileged:
        return tuple(_host_devices()), (DeviceRule(allow=True),)
    nodes: list[Device] = []
    rules = list(_BASE_RULES)
    for mapping in asked.devices:
        access = mapping.cgroup_permissions or "rwm"
        if not set(access) <= set("rwm"):
            raise InvalidArgument(f"invalid device mode: {access}")
        for node in _mapped(mapping.path_on_host, mapping.path_in_container or mapping.path_on_host):
            nodes.append(node)
            rules.append(DeviceRule(allow=True, type=node.type, major=node.major, minor=node.minor, access=access))
    rules.extend(_rule(text) for text in asked.device_cgroup_rules or ())
    return tuple(nodes), tuple(rules)


def _mapped(source: str, target: str) -> Iterator[Device]:
    """The device at `source`, or all devices in that directory."""
    try:
        node = _node(source, target)
        if node is not None:
            yield node
            return
        found = []
        for directory, _, files in os.walk(source):
            for file in files:
                with suppress(FileNotFoundError):  # a link that leads nowhere is no device
                    node = _node(f"{directory}/{file}", f"{target}{directory[len(source) :]}/{file}")
                    found += [node] if node is not None else []
    except OSError:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{source}": no such file or directory'
        ) from None
    if not found:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{source}": not a device node'
        )
    yield from found


def _node(source: str, target: str) -> Device | None:
    found = os.stat(source)
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    if not kind:
        return None
    return Device(
        type=kind,
        path=target,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        file_mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )


_NOT_SHARED = frozenset({"pts", "shm", "fd", "mqueue", "console", "null", "zero", "full", "random", "urandom", "tty"})


def _host_devices() -> Iterator[Device]:
    """Every device node of the host's /dev, for a privileged container."""
    for directory, directories, files in os.walk("/dev"):
        if directory == "/dev":
            directories[:] = [name for name in directories if name not in _NOT_SHARED]
        for file in files:
            if directory == "/dev" and (file in _NOT_SHARED or file == "ptmx"):
                continue
            path = f"{directory}/{file}"
            try:
                node = None if os.path.islink(path) else _node(path, path)
            except FileNotFoundError:
                continue
            if node is not None:
                yield node


def _rule(text: str) -> DeviceRule:
    """Read "c 1:3 rwm" (the syntax of the kernel's devices controller)."""
    try:
        kind, numbers, access = text.split()
        major, minor = numbers.split(":")
        if kind not in ("a", "b", "c") or not set(access) <= set("rwm") or not access:
            raise ValueError(text)
        return DeviceRule(
            allow=True,
            type=kind,
            major=None if major == "*" else int(major),
            minor=None if minor == "*" else int(minor),
            access=access,
        )
    except ValueError:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'") from None
