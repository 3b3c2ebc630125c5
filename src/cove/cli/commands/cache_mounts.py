"""`cove builder mounts|export|import`: what `RUN --mount=type=cache` keeps between builds, listed and moved."""

from __future__ import annotations

from cove.cli import humanize, output
from cove.cli.files import chunks_of, input_of, open_input, output_of, write_all
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = (
    ("ID", "ID"),
    ("Name", "MOUNT"),
    ("Owner", "OWNER"),
    ("Mode", "MODE"),
    ("From", "FROM"),
    ("Size", "SIZE"),
    ("LastUsed", "LAST USED"),
)


def list_(call: Call) -> int:
    rows = [_row(each) for each in connect(call.host).builds.mounts()]
    output.show(rows, _COLUMNS, call.text("format"))
    return 0


def _row(mount: dict[str, Any]) -> dict[str, Any]:
    base = output.short_id(mount.get("Base") or "")
    return {
        "ID": output.short_id(mount["Id"]),
        "Name": mount["Name"],
        "Owner": mount["Owner"],
        "Mode": mount["Mode"],
        "From": f"{base} {mount.get('Source') or ''}".strip() or "-",
        "Size": humanize.size(mount["Size"]),
        "LastUsed": humanize.ago(humanize.unix(mount["LastUsedAt"])),
    }


def export(call: Call) -> int:
    path = output_of(call)
    response = connect(call.host).builds.export_mount(call.arguments[0])
    write_all(response.chunks(), path)
    return 0


def import_(call: Call) -> int:
    path = input_of(call)
    name = call.arguments[0] if call.arguments else None
    query = {"id": name, "owner": call.text("owner") or None, "mode": call.text("mode") or None}
    with open_input(path) as source:
        made = connect(call.host).builds.import_mount(chunks_of(source), query)
    print(made["Name"])
    return 0


LIST = Verb(
    list_,
    "List what RUN --mount=type=cache keeps between builds.",
    "",
    (Flag("format", "A template, json or table", hint="template"),),
)
EXPORT = Verb(
    export,
    "Write a cache mount's content as a tar archive, to stdout unless told otherwise. MOUNT is its id: in the "
    "Dockerfile id=, else the target; or its own, as the list has it.",
    "MOUNT",
    (Flag("output", "Write to a file", short="o", hint="file"),),
    least=1,
    most=1,
)
IMPORT = Verb(
    import_,
    "Put an archive in a cache mount's place. One that was exported tells whose; of any other, MOUNT is the mount's "
    "id and the flags are its options.",
    "[MOUNT]",
    (
        Flag("input", "Read from a file", short="i", hint="file"),
        Flag("mode", "The mount's mode=, in octal", hint="mode"),
        Flag("owner", "The mount's uid= and gid=", hint="uid:gid"),
    ),
    least=0,
    most=1,
)
