"""`events`: what a container uses, once or again and again, and the moments when memory runs out.

One JSON object a line: {"type": "stats" | "oom", "id": …, "data": …}, in runc's form.
"""

from __future__ import annotations

import os
import select
import sys

from cove.errors import Conflict, InvalidArgument
from cove.kernel.cgroups import Cgroups, CgroupStats, drain_events
from cove.runtime.oci import compact, groups, store
from cove.runtime.oci.main import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NO_LIMIT = (1 << 64) - 1


def events(call: Call, words: list[str]) -> int:
    """Print until the container ends, or once with --stats."""
    call.parse(words, ("interval=", "stats"), 1, 1)
    interval = _duration(call.options.text("interval", "5s"))
    container = store.find(call.root, call.arguments[0])
    if container.status() == "stopped":
        raise Conflict(f"container not running: {container.id} has stopped")
    record = container.known
    cgroups = groups.of(record)
    _print("stats", container.id, _stats(cgroups.stats(record.cgroup)))
    if not call.options.switch("stats"):
        _follow(container, cgroups, interval)
    return 0


def _duration(text: str) -> float:
    """Go's notation, one number and unit: 500ms, 5s, 1m."""
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text:
            try:
                if float(number) > 0:
                    return float(number) * _UNITS[unit]
            except ValueError:
                break
    raise InvalidArgument(f'invalid value "{text}" for flag -interval: it takes a duration such as 500ms or 5s')


def _print(kind: str, identity: str, data: dict[str, Any] | None = None) -> None:
    event = {"type": kind, "id": identity} | ({"data": data} if data is not None else {})
    sys.stdout.write(compact.encode(event).decode() + "\n")
    sys.stdout.flush()


def _follow(container: store.Container, cgroups: Cgroups, interval: float) -> None:
    record = container.known
    pidfd = os.pidfd_open(record.pid)
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    memory = cgroups.open_oom_events(record.cgroup)
    if memory is not None:
        waiting.register(memory, select.POLLIN)
    kills = cgroups.oom_kills(record.cgroup)
    while True:
        ready = {fd for fd, _ in waiting.poll(interval * 1000)}
        if memory is not None and memory in ready:
            drain_events(memory)
            if cgroups.oom_kills(record.cgroup) > kills:
                kills = cgroups.oom_kills(record.cgroup)
                _print("oom", container.id)
        if pidfd in ready:
            return
        if not ready:
            _print("stats", container.id, _stats(cgroups.stats(record.cgroup)))


def _stats(used: CgroupStats) -> dict[str, Any]:
    usage: dict[str, Any] = {"total": used.cpu_ns, "kernel": used.cpu_system_ns, "user": used.cpu_user_ns}
    if used.cpu_each_ns:
        usage["percpu"] = list(used.cpu_each_ns)
    return {
        "cpu": {
            "usage": usage,
            "throttling": {
                "periods": used.periods,
                "throttledPeriods": used.throttled_periods,
                "throttledTime": used.throttled_ns,
            },
            **_pressure(used, "cpu"),
        },
        "memory": {
            "cache": used.memory_stat.get("cache", used.memory_stat.get("file", 0)),
            "usage": {
                "limit": used.memory_limit or _NO_LIMIT,
                "usage": used.memory,
                "max": used.memory_peak,
                "failcnt": used.memory_failures,
            },
            "raw": used.memory_stat,
            **_pressure(used, "memory"),
        },
        "pids": {"current": used.pids, "limit": used.pids_limit},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": io.major, "minor": io.minor, "op": io.operation.title(), "value": io.bytes}
                for io in used.io
            ],
            "ioServicedRecursive": [
                {"major": io.major, "minor": io.minor, "op": io.operation.title(), "value": io.operations}
                for io in used.io
            ],
            **_pressure(used, "io"),
        },
        "hugetlb": {
            size: {"usage": usage, "max": most, "failcnt": failures}
            for size, (usage, most, failures) in sorted(used.huge_pages.items())
        },
        "intel_rdt": {},
    }


def _pressure(used: CgroupStats, resource: str) -> dict[str, Any]:
    """The member "psi", where the kernel measures it for groups."""
    found = used.pressure.get(resource)
    if found is None:
        return {}
    kinds = zip(("some", "full"), (found.some, found.full), found.waited, strict=True)
    return {
        "psi": {
            kind: {"avg10": averages[0], "avg60": averages[1], "avg300": averages[2], "total": waited}
            for kind, averages, waited in kinds
        }
    }
