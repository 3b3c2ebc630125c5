"""The systemd driver of control groups: each container is a transient scope, which systemd knows and shows.

A group is named "SLICE:PREFIX:NAME", as runtimes write it in a configuration's cgroupsPath: the scope
PREFIX-NAME.scope in SLICE ("" is system.slice). A path that begins with "/" is a plain group, as with cgroupfs.

    create (limits are remembered) ──▶ a process is made ──▶ admit: StartTransientUnit with its pid ──▶ limits
                                            kill ──▶ remove: StopUnit ──◀

A scope cannot be without a process, hence the order. The scope is delegated: systemd makes it and leaves what is
below it alone. Limits are given to systemd too, which would else undo them at its next daemon-reload; what it does
not know (swappiness, I/O weights of BFQ, …) and finer values than it keeps are written to the files after it.
Everything else is the files' of version 1 or 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cove.errors import InvalidArgument
from cove.kernel import systemd
from cove.kernel.cgroups import Birthplace, Cgroups, CgroupStats
from cove.kernel.dbus import Variant
from cove.kernel.systemd import Property
from cove.oci.spec import BlockIOLimits, CPULimits, DeviceRule, MemoryLimits, Resources

_DEFAULT_SLICE = "system.slice"
_INFINITY = (1 << 64) - 1
_SECOND = 1_000_000
_DEFAULT_PERIOD = 100_000


def scope_of(path: str) -> tuple[str, str]:
    """(slice, scope) that a path names. Raises InvalidArgument."""
    slice_, colon, rest = path.partition(":")
    prefix, second, name = rest.partition(":")
    slice_ = slice_ or _DEFAULT_SLICE
    if not colon or not second or not name or "/" in path:
        raise InvalidArgument(f"{path!r} names no group of systemd's; write it as SLICE:PREFIX:NAME")
    if not slice_.endswith(".slice"):
        raise InvalidArgument(f"{slice_!r} is no slice of systemd's; its name has to end in .slice")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return slice_, unit


def directory_of(path: str) -> str:
    """Where systemd puts that scope: the slice a-b.slice lies in a.slice (systemd.slice(5))."""
    slice_, unit = scope_of(path)
    stem = slice_.removesuffix(".slice")
    if stem == "-":
        return f"/{unit}"
    words = stem.split("-")
    if "" in words:
        raise InvalidArgument(f"{slice_!r} is no slice of systemd's: a dash needs a word on both sides")
    above = "/".join("-".join(words[: count + 1]) + ".slice" for count in range(len(words)))
    return f"/{above}/{unit}"


class CgroupsSystemd(Cgroups):
    """Scopes for paths with colons; all files are those of `files`, the version that the host has."""

    driver = "systemd"

    def __init__(self, files: Cgroups) -> None:
        super().__init__(files.parent)
        self.version = files.version
        self._files = files
        self._pending: dict[str, Resources | None] = {}

    @staticmethod
    def _at(path: str) -> str:
        return path if path.startswith("/") else directory_of(path)

    # ── made and removed by systemd ───────────────────────────────────────────────────────────────

    def create(self, path: str, resources: Resources | None) -> None:
        if path.startswith("/"):
            self._files.create(path, resources)
        else:
            scope_of(path)
            self._pending[path] = resources

    @contextmanager
    def birthplace(self, path: str, beside: int | None = None) -> Iterator[Birthplace]:
        if path in self._pending:
            yield Birthplace()
        else:
            with self._files.birthplace(self._at(path), beside) as place:
                yield place

    def admit(self, path: str, pid: int) -> None:
        """Make the scope around a process that exists, and limit it."""
        if path not in self._pending:
            return
        resources = self._pending.pop(path)
        slice_, unit = scope_of(path)
        limits = properties_of(resources, self.version) if resources is not None else []
        systemd.start_scope(unit, [*_scope(path, slice_, pid), *limits])
        try:
            at = self._at(path)
            if self.version == 1 or _beyond_systemd(resources):
                self._files.create(at, None)
            if self.version == 1:
                self._files.attach(at, pid)  # systemd knows only some of the hierarchies
            if resources is not None:
                self._files.update(at, resources)
        except BaseException:
            self.kill(path)
            self.remove(path)
            raise

    def attach(self, path: str, pid: int) -> None:
        self.admit(path, pid)
        self._files.attach(self._at(path), pid)

    def update(self, path: str, resources: Resources) -> None:
        if not path.startswith("/"):
            limits = properties_of(resources, self.version)
            if limits:
                systemd.set_properties(scope_of(path)[1], limits)
        self._files.update(self._at(path), resources)

    def remove(self, path: str) -> None:
        if path.startswith("/"):
            self._files.remove(path)
        elif path in self._pending:
            del self._pending[path]
        else:
            self._files.remove(self._at(path))
            systemd.stop_unit(scope_of(path)[1])

    def remove_parent(self) -> None:
        self._files.remove_parent()

    # ── the files' ────────────────────────────────────────────────────────────────────────────────

    def directories(self, path: str) -> list[Path]:
        return self._files.directories(self._at(path))

    def procs_file(self, path: str) -> Path:
        return self._files.procs_file(self._at(path))

    def prepare(self, path: str) -> None:
        self._files.prepare(self._at(path))

    def freeze(self, path: str, frozen: bool) -> None:
        self._files.freeze(self._at(path), frozen)

    def kill(self, path: str) -> None:
        self._files.kill(self._at(path))

    def stats(self, path: str) -> CgroupStats:
        return self._files.stats(self._at(path))

    def oom_kills(self, path: str) -> int:
        return self._files.oom_kills(self._at(path))

    def open_oom_events(self, path: str) -> int | None:
        return self._files.open_oom_events(self._at(path))


# ── limits as systemd has them ────────────────────────────────────────────────────────────────────


def _scope(path: str, slice_: str, pid: int) -> list[Property]:
    return [
        ("Description", Variant("s", f"container {path.rpartition(':')[2]}")),
        ("Slice", Variant("s", slice_)),
        ("PIDs", Variant("au", [pid])),
        ("Delegate", Variant("b", True)),
        ("DefaultDependencies", Variant("b", False)),
        ("CollectMode", Variant("s", "inactive-or-failed")),
        *((f"{what}Accounting", Variant("b", True)) for what in ("CPU", "Memory", "Tasks", "IO")),
    ]


def _beyond_systemd(resources: Resources | None) -> bool:
    """Whether a controller is wanted that systemd does not hand down."""
    return resources is not None and bool(resources.hugepage_limits or resources.rdma)


def properties_of(resources: Resources, version: int) -> list[Property]:
    """The limits that systemd.resource-control(5) has a word for."""
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
        from cove.kernel.cgroups_v2 import weight_of

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
        values = [(f"/dev/block/{each.major}:{each.minor}", each.rate) for each in throttles]
        present = [(device, rate) for device, rate in values if os.path.exists(device) and rate]
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


_ALL = ("char", "block")


def _class(rule: DeviceRule) -> str:
    """systemd's word for all devices of a type, or of a major number, which it knows by the driver's name."""
    kind = "char" if rule.type in "cu" else "block"
    if rule.major is None:
        return f"{kind}-*"
    _, _, blocks = (text := Path("/proc/devices").read_text()).partition("Block devices:")
    listed = blocks if kind == "block" else text.partition("Block devices:")[0]
    names = dict(words for line in listed.splitlines() if len(words := line.split()) == 2 and words[0].isdecimal())
    return f"{kind}-{names.get(str(rule.major), rule.major)}"
