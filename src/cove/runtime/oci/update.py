"""`update`: change a container's limits while it runs."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from cove.errors import Conflict, InvalidArgument, Unsupported
from cove.kernel.cgroups import awake, idleness
from cove.oci.spec import BlockIOLimits, CPULimits, MemoryLimits, PidsLimit, Resources
from cove.runtime.oci import groups, store
from cove.runtime.oci.main import Call

_MEMORY = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap"}
_CPU = {
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-burst": "burst",
    "cpu-share": "shares",
    "cpu-rt-period": "realtime_period",
    "cpu-rt-runtime": "realtime_runtime",
    "cpu-idle": "idle",
}
_NOT_HERE = {
    "l3-cache-schema": "Intel RDT",
    "mem-bw-schema": "Intel RDT",
    "kernel-memory": "kernels since 5.11 have no limit of kernel memory",
    "kernel-memory-tcp": "kernels since 5.11 have no limit of kernel memory",
}
_FLAGS = (
    "resources|r=",
    "blkio-weight=",
    "cpuset-cpus=",
    "cpuset-mems=",
    "pids-limit=",
    *(f"{name}=" for name in (*_MEMORY, *_CPU, *_NOT_HERE)),
)


def update(call: Call, words: list[str]) -> int:
    """Apply the limits of --resources, or those of the flags; what is not named stays as it is."""
    call.parse(words, _FLAGS, 1, 1)
    container = store.find(call.root, call.arguments[0])
    container.lock()
    if container.status() == "stopped":
        raise Conflict(f"container not running: {container.id} has nothing that could be limited")
    source = call.options.text("resources")
    resources = _read(source) if source else _from_flags(call)
    record = container.known
    if container.waits() and resources.cpu is not None and resources.cpu.idle is not None:
        record.idle, resources = idleness(resources), awake(resources)
        container.save(record)
    groups.of(record).update(record.cgroup, resources)
    return 0


def _read(source: str) -> Resources:
    try:
        if source == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(source, "rb") as file:
                content = file.read()
        resources = msgspec.json.decode(content, type=Resources)
    except OSError as error:
        raise InvalidArgument(f"--resources {source} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"--resources {source} is no valid description of limits: {error}") from None
    return _without_zeros(resources)


def _without_zeros(resources: Resources) -> Resources:
    """A zero means "as it is" in these files, as their usual writers leave no member out."""
    memory, cpu, pids, block_io = resources.memory, resources.cpu, resources.pids, resources.block_io
    return msgspec.structs.replace(
        resources,
        memory=_nonzero(memory, "limit", "reservation", "swap", "kernel", "kernel_tcp"),
        cpu=_nonzero(cpu, "shares", "quota", "period", "realtime_runtime", "realtime_period"),
        pids=pids if pids is not None and pids.limit else None,
        block_io=_nonzero(block_io, "weight"),
    )


def _nonzero(value: Any, *names: str) -> Any:
    if value is None:
        return None
    return msgspec.structs.replace(value, **{name: getattr(value, name) or None for name in names})


def _from_flags(call: Call) -> Resources:
    options = call.options
    for name, reason in _NOT_HERE.items():
        if options.given(name):
            raise Unsupported(f"--{name} is not supported: {reason}")

    def chosen(table: dict[str, str]) -> dict[str, int]:
        return {field: _size(options.text(flag), flag) for flag, field in table.items() if options.given(flag)}

    cpu: dict[str, Any] = dict(chosen(_CPU))
    cpu |= {name: options.text(f"cpuset-{name}") for name in ("cpus", "mems") if options.given(f"cpuset-{name}")}
    memory: dict[str, Any] = dict(chosen(_MEMORY))
    return Resources(
        memory=MemoryLimits(**memory) if memory else None,
        cpu=CPULimits(**cpu) if cpu else None,
        pids=PidsLimit(limit=options.number("pids-limit")) if options.given("pids-limit") else None,
        block_io=BlockIOLimits(weight=options.number("blkio-weight")) if options.given("blkio-weight") else None,
    )


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _size(text: str, flag: str) -> int:
    """A number, or for memory one with a unit: 64m, 1GiB."""
    number = text.lower().removesuffix("ib").rstrip("b") if flag in _MEMORY else text
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        return int(number.removesuffix(unit)) * _UNITS[unit]
    except (KeyError, ValueError):
        raise InvalidArgument(f'invalid value "{text}" for flag -{flag}') from None
