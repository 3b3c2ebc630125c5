"""`cove volume create|ls|rm`."""

from __future__ import annotations

import sys

from cove.cli import humanize, output
from cove.cli.each import each
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import pairs
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(call: Call) -> int:
    name = call.arguments[0] if call.arguments else call.text("name")
    if call.arguments and call.text("name"):
        raise UsageError("the volume has two names, one as an argument and one in --name; use one of them")
    body = {
        "Name": name,
        "Driver": call.text("driver"),
        "DriverOpts": pairs(call.list("opt"), "opt"),
        "Labels": pairs(call.list("label"), "label"),
    }
    print(connect(call.host).volumes.create(body)["Name"])
    return 0


def volumes(call: Call) -> int:
    size = call.flag("size")
    answer = connect(call.host).volumes.list(output.filters(call.list("filter")), size=size)
    for warning in answer.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    found = sorted(answer.get("Volumes") or (), key=lambda volume: str(volume["Name"]))
    if call.flag("quiet"):
        for volume in found:
            print(volume["Name"])
        return 0
    output.show(
        map(_row, found),
        (("Driver", "DRIVER"), ("Name", "VOLUME NAME"), *((("Links", "LINKS"), ("Size", "SIZE")) if size else ())),
        call.text("format"),
        headings={"Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Scope": "SCOPE"},
    )
    return 0


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    labels = volume.get("Labels") or {}
    usage = volume.get("UsageData") or {"Size": -1, "RefCount": -1}
    return {
        "Name": volume["Name"],
        "Driver": volume.get("Driver", ""),
        "Scope": volume.get("Scope", ""),
        "Mountpoint": volume.get("Mountpoint", ""),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Status": "N/A",
        "Availability": "N/A",
        "Group": "N/A",
        "Size": humanize.size(usage["Size"]) if usage["Size"] >= 0 else "N/A",
        "Links": str(usage["RefCount"]) if usage["RefCount"] >= 0 else "N/A",
        "Label": lambda name: labels.get(name, ""),
    }


def remove(call: Call) -> int:
    client = connect(call.host)
    return each(call.arguments, lambda name: client.volumes.remove(name, force=call.flag("force")))


CREATE = Verb(
    create,
    "Create a volume.",
    "[VOLUME]",
    (
        Flag("driver", "Driver of the volume: local, or a plugin's name", short="d"),
        Flag("label", "Set a label: KEY=VALUE", "list"),
        Flag("name", "The same as the argument"),
        Flag("opt", "Option of the driver: KEY=VALUE", "list", short="o"),
    ),
    most=1,
)
LIST = Verb(
    volumes,
    "List volumes.",
    "",
    (
        Flag("filter", "Only those that fit: NAME=VALUE", "list", short="f", hint="filter"),
        Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format"),
        Flag("quiet", "Show names only", "bool", short="q"),
        Flag("size", "Measure what each takes on disk, and count who uses it", "bool", short="s"),
    ),
)
REMOVE = Verb(
    remove,
    "Remove volumes that no container uses.",
    "VOLUME [VOLUME...]",
    (Flag("force", "Say nothing about volumes that do not exist", "bool", short="f"),),
    least=1,
    most=None,
)
