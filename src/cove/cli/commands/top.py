"""`cove top`: the processes of a container."""

from __future__ import annotations

from cove.cli import output
from cove.cli.flags import Call, Verb
from cove.client import connect


def run(call: Call) -> int:
    container, *ps = call.arguments
    found = connect(call.host).containers.top(container, " ".join(ps))
    output.table(found.get("Titles") or [], found.get("Processes") or [])
    return 0


TOP = Verb(run, "Show the processes of a container.", "CONTAINER [PS-OPTIONS]", least=1, most=None, program=True)
