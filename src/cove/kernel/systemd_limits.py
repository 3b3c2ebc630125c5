"""A container's scope and limits in systemd's words. Pure but for looking up the names of devices.

Source: systemd.scope(5), systemd.resource-control(5), org.freedesktop.systemd1(5) for the properties' types.
"""

from __future__ import annotations

import os
from pathlib import Path

from cove.errors import InvalidArgument
from cove.kernel.cgroups_v2 import weight_of
from cove.kernel.dbus import Variant
from cove.kernel.systemd import Property
from cove.oci.spec import BlockIOLimits, CPULimits, DeviceRule, MemoryLimits, Resources

_INFINITY = (1 << 64) - 1
_SECOND = 1_000_000
_DEFAULT_PERIOD = 100_000
_ALL = ("char", "block")
_UNIFIED = {
    "cpu.weight": "CPUWeight",
    "memory.min": "MemoryMin",
    "memory.low": "MemoryLow",
    "memory.high": "MemoryHigh",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}


def scope(path: str, slice_: str, pid: int) -> list[Property]:
    """A delegated scope around one process."""
    return [
        ("Description", Variant("s", f"container {path.rpartition(':')[2]}")),
        ("Slice", Variant("s", slice_)),
        ("PIDs", Variant("au", [pid])),
        ("Delegate", Variant("b", True)),
        ("DefaultDependencies", Variant("b", False)),
        ("CollectMode", Variant("s", "inactive-or-failed")),
        *((f"{what}Accounting", Variant("b", True)) for what in ("CPU", "Memory", "Tasks", "IO")),
    ]


def limits(resources: Resources, version: int) -> list[Property]:
    """Those that systemd.resource-control(5) has a word for."""
    found: list[Property] = []
    if resources.memory is not None:
        found += _memory(resources.memory, version)
    if resources.cpu is not None:
        found += _cpu(resources.cpu, version)
    if resources.pids is not None:
        found.append(("TasksMax", Variant("t", _limit(resources.pids.limit or -1))))
    if resources.block_io is not None and version == 2:
        found += _block_io(resources.block_io)
    if resources.devices and version == 1:
        # On version 2 a filter of its own is installed, and systemd's would be a second one.
        found += [("DevicePolicy", Variant("s", "strict")), ("DeviceAllow", Variant("a(ss)", _devices(resources)))]
    return [*found, *_unified(resources.unified)]


def _unified(files: dict[str, str]) -> list[Property]:
    """Those of version 2's files that systemd writes too; whether a value is one says the kernel."""
    found: list[Property] = []
    for name, property_ in _UNIFIED.items():
        value = files.get(name, "").strip()
        if value == "max" or value.isdecimal():
            found.append((property_, Variant("t", _INFINITY if value == "max" else int(value))))
    return found


def _limit(value: int) -> int:
    return _INFINITY if value < 0 else value


def _memory(limits: MemoryLimits, version: int) -> list[Property]:
    if version == 1:
        return [] if limits.limit is None else [("MemoryLimit", Variant("t", _limit(limits.limit)))]
    found: list[Property] = []
    if limits.limit is not None:
        found.append(("MemoryMax", Variant("t", _limit(limits.limit))))
    if limits.reservation is not None:
        found.append(("MemoryLow", Variant("t", _limit(limits.reservation))))
    if limits.swap is not None and limits.swap < 0:
        found.append(("MemorySwapMax", Variant("t", _INFINITY)))
    elif limits.swap is not None and limits.limit is not None and limits.swap >= limits.limit >= 0:
        found.append(("MemorySwapMax", Variant("t", limits.swap - limits.limit)))
    return found


def _cpu(limits: CPULimits, version: int) -> list[Property]:
    found: list[Property] = []
    if limits.shares:
        weight = ("CPUShares", limits.shares) if version == 1 else ("CPUWeight", weight_of(limits.shares))
        found.append((weight[0], Variant("t", weight[1])))
    if limits.quota is not None:
        period = limits.period or _DEFAULT_PERIOD
        share = _INFINITY if limits.quota <= 0 else limits.quota * _SECOND // period
        # systemd keeps hundredths of a CPU; the exact value is written to the file afterwards.
        found.append(
            ("CPUQuotaPerSecUSec", Variant("t", share if share == _INFINITY else -(-share // 10_000) * 10_000))
        )
    if limits.period:
        found.append(("CPUQuotaPeriodUSec", Variant("t", limits.period)))
    if version == 2 and limits.cpus:
        found.append(("AllowedCPUs", Variant("ay", _bitmask(limits.cpus))))
    if version == 2 and limits.mems:
        found.append(("AllowedMemoryNodes", Variant("ay", _bitmask(limits.mems))))
    return found


def _bitmask(listed: str) -> bytes:
    """A list like "0-2,5" as a little-endian mask. Raises InvalidArgument."""
    mask = 0
    for part in listed.strip().split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 8192:
            raise InvalidArgument(f"{listed!r} is no list of CPUs or memory nodes; write it as 0-2,5")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    return mask.to_bytes(max((mask.bit_length() + 7) // 8, 1), "little")


def _block_io(limits: BlockIOLimits) -> list[Property]:
    found: list[Property] = []
    for name, throttles in (
        ("IOReadBandwidthMax", limits.throttle_read_bps_device),
        ("IOWriteBandwidthMax", limits.throttle_write_bps_device),
        ("IOReadIOPSMax", limits.throttle_read_iops_device),
        ("IOWriteIOPSMax", limits.throttle_write_iops_device),
    ):
        values = [(f"/dev/block/{each.major}:{each.minor}", each.rate or _INFINITY) for each in throttles]
        present = [(device, rate) for device, rate in values if os.path.exists(device)]
        if present:
            found.append((name, Variant("a(st)", present)))
    return found


def _devices(resources: Resources) -> list[tuple[str, str]]:
    return [
        (f"/dev/{'char' if rule.type in 'cu' else 'block'}/{rule.major}:{rule.minor}", rule.access)
        if rule.major is not None and rule.minor is not None
        else (_class(rule), rule.access)
        for rule in resources.devices
        if rule.allow and (rule.type != "a")
    ] + [(f"{kind}-*", "rwm") for rule in resources.devices if rule.allow and rule.type == "a" for kind in _ALL]


def _class(rule: DeviceRule) -> str:
    """systemd's word for all devices of a type, or of a major number, which it knows by the driver's name."""
    kind = "char" if rule.type in "cu" else "block"
    if rule.major is None:
        return f"{kind}-*"
    _, _, blocks = (text := Path("/proc/devices").read_text()).partition("Block devices:")
    listed = blocks if kind == "block" else text.partition("Block devices:")[0]
    names = dict(words for line in listed.splitlines() if len(words := line.split()) == 2 and words[0].isdecimal())
    return f"{kind}-{names.get(str(rule.major), rule.major)}"
