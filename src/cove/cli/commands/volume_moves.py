"""`cove volume export|import|clone|rename|snapshot`: a volume's content on the move."""

from __future__ import annotations

from cove.cli.files import chunks_of, input_of, open_input, output_of, write_all
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect


def export(call: Call) -> int:
    path = output_of(call)
    response = connect(call.host).volumes.export(call.arguments[0])
    write_all(response.chunks(), path)
    return 0


def import_(call: Call) -> int:
    path = input_of(call)
    with open_input(path) as source:
        connect(call.host).volumes.import_(call.arguments[0], chunks_of(source))
    print(call.arguments[0])
    return 0


def _move(call: Call, verb: str) -> int:
    name, *target = call.arguments
    print(connect(call.host).volumes.move(verb, name, target[0] if target else "")["Name"])
    return 0


def clone(call: Call) -> int:
    return _move(call, "clone")


def rename(call: Call) -> int:
    return _move(call, "rename")


def snapshot(call: Call) -> int:
    return _move(call, "snapshot")


EXPORT = Verb(
    export,
    "Write a volume's content as a tar archive, to stdout unless told otherwise.",
    "VOLUME",
    (Flag("output", "Write to a file", short="o", hint="file"),),
    least=1,
    most=1,
)
IMPORT = Verb(
    import_,
    "Put a tar archive's content into a volume, which is made if it is not there.",
    "VOLUME",
    (Flag("input", "Read from a file", short="i", hint="file"),),
    least=1,
    most=1,
)
CLONE = Verb(clone, "Make another volume with the same content.", "VOLUME NEW", least=2, most=2)
RENAME = Verb(rename, "Rename a volume that no container uses.", "VOLUME NEW", least=2, most=2)
SNAPSHOT = Verb(snapshot, "Keep a volume's present content in another volume.", "VOLUME [NEW]", least=1, most=2)
