"""`list`: the containers below --root."""

from __future__ import annotations

import os

from cove.errors import InvalidArgument, NotFound
from cove.runtime.oci import compact, store
from cove.runtime.oci.main import Call
from cove.runtime.oci.state import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def listing(call: Call, words: list[str]) -> int:
    """As a table, as JSON, or only the ids."""
    call.parse(words, ("format|f=", "quiet|q"), 0, 0)
    form = call.options.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument(f'invalid format option "{form}", it is table or json')
    if call.root_given and not os.path.isdir(call.root):
        raise NotFound(f"--root {call.root} is no directory, so there are no containers to list")
    containers = store.every(call.root)
    if call.options.switch("quiet"):
        print("".join(f"{each.id}\n" for each in containers), end="")
        return 0
    found = [describe(each) for each in containers]
    print(compact.encode(found).decode() if form == "json" else _table(found))
    return 0


def _table(found: list[dict[str, Any]]) -> str:
    rows = [[name.upper() for name in _COLUMNS]]
    rows += [[str(each.get(name, "")) for name in _COLUMNS] for each in found]
    widths = [max(len(row[at]) for row in rows) + 2 for at in range(len(_COLUMNS))]
    lines = ("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
