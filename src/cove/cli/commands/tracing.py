"""`cove net trace`: the way of a packet to a container, and where it ends."""

from __future__ import annotations

from cove.cli.flags import Call, Flag, Verb
from cove.client import connect


def run(call: Call) -> int:
    ways = [way for target in call.arguments for way in connect(call.host).networks.trace(target)]
    if call.text("format") == "json":
        from cove.cli.template.functions import json

        print(json(ways))
        return 0 if all(way["Arrives"] for way in ways) else 1
    for position, way in enumerate(ways):
        if position:
            print()
        print(way["Aim"])
        for step in way["Steps"]:
            print(f"  {'→' if step['Ok'] else '✗'} {step['Place'] + ':':<11}{step['Text']}")
        print("it arrives" if way["Arrives"] else "it ends there")
    return 0 if all(way["Arrives"] for way in ways) else 1


TRACE = Verb(
    run,
    "Follow a packet's way from the host's port to the process in a container, and say where it ends.",
    "HOST:PORT[/PROTOCOL]|CONTAINER[:PORT] [...]",
    (Flag("format", "text or json", hint="format"),),
    least=1,
    most=None,
)
