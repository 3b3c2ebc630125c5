"""`cove search`: repositories at a registry that shows its catalogue."""

from __future__ import annotations

from cove.cli import credentials, output, reference
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

_COLUMNS = (("Name", "NAME"),)


def run(call: Call) -> int:
    (term,) = call.arguments
    auth = credentials.header(reference.registry(term))
    found = connect(call.host).images.search(term, call.number("limit"), auth=auth)
    output.show([{"Name": each["name"]} for each in found], _COLUMNS, call.text("format"))
    return 0


SEARCH = Verb(
    run,
    "Search a registry for images.",
    "REGISTRY/WORD",
    (
        Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format"),
        Flag("limit", "Most names to show", "int", default="25"),
    ),
    least=1,
    most=1,
    notes="Registries that show their catalogue can be searched: Cove's own, Docker's, Harbor. Docker Hub cannot.",
)
