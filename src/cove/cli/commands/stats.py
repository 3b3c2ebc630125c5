"""`cove stats`: what containers use, on a terminal a table that is written again every second.

One stream for each container, read in turn: every stream gives one sample a second, so a
turn takes a second. A container that ends leaves the table; one that starts joins it at the
next turn, when no containers were named.
"""

from __future__ import annotations

import sys

from cove.cli import humanize, output
from cove.cli.flags import Call, Flag, Verb
from cove.client import ApiError, Client, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Stream = Iterator[dict[str, Any]]

_COLUMNS = (
    ("Container", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
)
_RATE = ("NetRate", "NET LIMIT")
_CLEAR = "\033[H\033[2J\033[3J"


def run(call: Call) -> int:
    client = connect(call.host)
    once = call.flag("no-stream")
    streams: dict[str, Stream] = {}
    while True:
        _join(client, call, streams, once=once)
        rows = [row for name in list(streams) if (row := _next(name, streams, full=call.flag("no-trunc")))]
        if sys.stdout.isatty() and not once:
            sys.stdout.write(_CLEAR)
        form = call.text("format")
        columns = (*_COLUMNS, _RATE) if any(row["NetRate"] for row in rows) else _COLUMNS
        output.show(rows, columns, form, headings={"ID": "CONTAINER ID", **dict([_RATE])})
        sys.stdout.flush()
        if once or (call.arguments and not streams):
            return 0
        if not streams:
            _pause()


def _pause() -> None:
    import time

    time.sleep(1)


def _join(client: Client, call: Call, streams: dict[str, Stream], *, once: bool) -> None:
    """Begin to watch what is not watched yet: the containers named, else all that run."""
    if call.arguments:
        if streams:
            return
        wanted = call.arguments
    else:
        wanted = [one["Id"] for one in client.containers.list(all=call.flag("all"))]
    for name in wanted:
        if name not in streams:
            try:
                streams[name] = client.twin().containers.stats(name, stream=not once)
            except ApiError as error:
                if call.arguments or error.status not in {404, 409}:
                    raise


def _next(name: str, streams: dict[str, Stream], *, full: bool) -> dict[str, Any] | None:
    sample = next(streams[name], None)
    if sample is None:
        del streams[name]
        return None
    return row(sample, name, full=full)


def row(sample: dict[str, Any], name: str, *, full: bool) -> dict[str, Any]:
    """One sample as the fields that `--format` knows; `--` for what a stopped container lacks."""
    memory = sample.get("memory_stats") or {}
    used, limit = _used(memory), memory.get("limit") or 0
    networks = (sample.get("networks") or {}).values()
    received = sum(one.get("rx_bytes", 0) for one in networks)
    sent = sum(one.get("tx_bytes", 0) for one in networks)
    read, written = _block(sample)
    identity = output.short_id(sample.get("id") or name, full=full)
    return {
        "Container": identity,
        "ID": identity,
        "Name": (sample.get("name") or "").lstrip("/") or "--",
        "CPUPerc": f"{_cpu(sample):.2f}%",
        "MemUsage": f"{humanize.binary_size(used)} / {humanize.binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{humanize.size(received)} / {humanize.size(sent)}",
        "NetRate": _rate(sample.get("net_rate") or ""),
        "BlockIO": f"{humanize.size(read)} / {humanize.size(written)}",
        "MemPeak": humanize.binary_size(memory["max_usage"]) if memory.get("max_usage") else "--",
        "Pressure": _pressure(sample.get("pressure_stats") or {}),
        "PIDs": str((sample.get("pids_stats") or {}).get("current") or 0),
    }


def _rate(text: str) -> str:
    """`in=1048576,out=524288` as `1MiB/s in / 512KiB/s out`."""
    parts = (part.partition("=") for part in text.split(",") if part)
    return " / ".join(f"{humanize.binary_size(int(amount))}/s {direction}" for direction, _, amount in parts)


def _pressure(stats: dict[str, Any]) -> str:
    """`cpu 12% memory 0% io 3%`: time in which some process waited, of the last ten seconds."""
    return " ".join(f"{name} {found['some']['avg10']:.0f}%" for name, found in stats.items()) or "--"


def _used(memory: dict[str, Any]) -> int:
    """Memory without the page cache that can be dropped: cgroup v1 and v2 name it differently."""
    detail = memory.get("stats") or {}
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    usage = memory.get("usage") or 0
    return int(usage - cache if cache < usage else usage)


def _cpu(sample: dict[str, Any]) -> float:
    """Per cent of one CPU since the sample before."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    used = _total(now) - _total(before)
    passed = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cpus = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or ()) or 1
    return float(used / passed * cpus * 100) if used > 0 and passed > 0 else 0.0


def _total(stats: dict[str, Any]) -> int:
    return int((stats.get("cpu_usage") or {}).get("total_usage") or 0)


def _block(sample: dict[str, Any]) -> tuple[int, int]:
    entries = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    read = sum(entry["value"] for entry in entries if entry.get("op", "").lower() == "read")
    written = sum(entry["value"] for entry in entries if entry.get("op", "").lower() == "write")
    return read, written


STATS = Verb(
    run,
    "Watch what containers use.",
    "[CONTAINER...]",
    (
        Flag("all", "Show stopped containers too", "bool", short="a"),
        Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format"),
        Flag("no-stream", "Show it once", "bool"),
        Flag("no-trunc", "Show everything in full", "bool"),
    ),
    most=None,
)
