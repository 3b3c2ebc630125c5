"""`cove net trace`: the way of a packet to a container, and where it ends."""

from __future__ import annotations

from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(call: Call) -> int:
    ways = [way for target in call.arguments for way in connect(call.host).networks.trace(target)]
    if call.text("format") == "json":
        from cove.cli.template.functions import json

        print(json(ways))
        return 0 if all(way["Arrives"] for way in ways) else 1
    told: list[dict[str, Any]] = []
    for position, way in enumerate(ways):
        if position:
            print()
        print(way["Aim"])
        steps = way["Steps"]
        same = _common_end(told, steps)
        for step in steps[: len(steps) - same]:
            print(f"  {'→' if step['Ok'] else '✗'} {step['Place'] + ':':<12}{step['Text']}")
        if same:
            print(f"  ⋮ {', '.join(step['Place'] for step in steps[len(steps) - same :])}: as above")
        told = steps
        print("it arrives" if way["Arrives"] else "it ends there")
    return 0 if all(way["Arrives"] for way in ways) else 1


def _common_end(told: list[dict[str, Any]], steps: list[dict[str, Any]]) -> int:
    """How many of the last steps were told of the way before already."""
    same = 0
    while same < min(len(told), len(steps)) and told[-1 - same] == steps[-1 - same]:
        same += 1
    return same


TRACE = Verb(
    run,
    "Follow a packet's way from the host's port to the process in a container, and say where it ends.",
    "HOST:PORT[/PROTOCOL]|CONTAINER[:PORT] [...]",
    (Flag("format", "text or json", hint="format"),),
    least=1,
    most=None,
)
