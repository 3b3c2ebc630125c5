"""`cove system df`: what takes disk space, and how much of it could be freed."""

from __future__ import annotations

from cove.cli import humanize, output
from cove.cli.commands.ps import row as container_row
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_COLUMNS = (
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
)


def run(call: Call) -> int:
    found = connect(call.host).system.usage()
    if call.flag("verbose"):
        _verbose(found)
        return 0
    output.show(_summary(found), _COLUMNS, call.text("format"))
    return 0


def _summary(found: dict[str, Any]) -> Sequence[dict[str, Any]]:
    images, containers, volumes, steps = (
        found.get(key) or [] for key in ("Images", "Containers", "Volumes", "BuildCache")
    )
    store = found.get("ImageUsage") or {}
    running = [one for one in containers if one.get("State") in {"running", "paused", "restarting"}]
    written = sum(one.get("SizeRw") or 0 for one in containers)
    busy = sum(one.get("SizeRw") or 0 for one in running)
    mounted = [one for one in volumes if _links(one) > 0]
    stored = sum(_stored(one) for one in volumes)
    cached = sum(one.get("Size") or 0 for one in steps)
    total, free = store.get("TotalSize") or found.get("LayersSize") or 0, store.get("Reclaimable") or 0
    return [
        _line("Images", len(images), store.get("ActiveCount") or 0, total, free),
        _line("Containers", len(containers), len(running), written, written - busy),
        _line("Local Volumes", len(volumes), len(mounted), stored, stored - sum(map(_stored, mounted))),
        _line("Build Cache", len(steps), sum(bool(one.get("InUse")) for one in steps), cached, cached),
    ]


def _line(kind: str, total: int, active: int, size: int, free: int) -> dict[str, Any]:
    share = f" ({free * 100 // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": humanize.size(size, digits=4),
        "Reclaimable": humanize.size(free, digits=4) + share,
    }


def _links(volume: dict[str, Any]) -> int:
    return int((volume.get("UsageData") or {}).get("RefCount") or 0)


def _stored(volume: dict[str, Any]) -> int:
    return max(int((volume.get("UsageData") or {}).get("Size") or 0), 0)


def _shared(image: dict[str, Any]) -> int:
    return max(int(image.get("SharedSize") or 0), 0)


def _verbose(found: dict[str, Any]) -> None:
    print("Images space usage:\n")
    images = [
        [", ".join(image.get("RepoTags") or ["<none>"]), output.short_id(image["Id"]),
         humanize.ago(image.get("Created") or 0), humanize.size(image.get("Size") or 0),
         humanize.size(_shared(image)), humanize.size((image.get("Size") or 0) - _shared(image)),
         str(max(image.get("Containers") or 0, 0))]
        for image in found.get("Images") or ()
    ]  # fmt: skip
    output.table(["NAMES", "IMAGE ID", "CREATED", "SIZE", "SHARED", "UNIQUE", "CONTAINERS"], images)
    print("\nContainers space usage:\n")
    rows = [container_row(one, full=False) for one in found.get("Containers") or ()]
    names = ("ID", "Image", "Command", "Size", "RunningFor", "Status", "Names")
    output.table(
        ["CONTAINER ID", "IMAGE", "COMMAND", "SIZE", "CREATED", "STATUS", "NAMES"],
        [[row[name] for name in names] for row in rows],
    )
    print("\nLocal Volumes space usage:\n")
    volumes = [
        [one["Name"], str(_links(one)), humanize.size(_stored(one))]
        for one in found.get("Volumes") or ()
    ]  # fmt: skip
    output.table(["VOLUME NAME", "LINKS", "SIZE"], volumes)
    print("\nBuild cache usage:\n")
    steps = [
        [one["ID"][:12], one.get("Description") or "", humanize.size(one.get("Size") or 0),
         str(one.get("UsageCount") or 0), str(bool(one.get("Shared"))).lower()]
        for one in found.get("BuildCache") or ()
    ]  # fmt: skip
    output.table(["CACHE ID", "STEP", "SIZE", "USAGE", "SHARED"], steps)


USAGE = Verb(
    run,
    "Show what takes disk space.",
    "",
    (
        Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format"),
        Flag("verbose", "Show every object", "bool", short="v"),
    ),
)
