"""`cove diff`, `export`, `commit`: a container's file system as changes, an archive, an image."""

from __future__ import annotations

from cove.cli.files import output_of, write_all
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

_LETTERS = ("C", "A", "D")


def diff(call: Call) -> int:
    for change in connect(call.host).containers.changes(call.arguments[0]):
        print(_LETTERS[change["Kind"]], change["Path"])
    return 0


def export(call: Call) -> int:
    path = output_of(call)
    response = connect(call.host).containers.export(call.arguments[0])
    write_all(response.chunks(), path)
    return 0


def commit(call: Call) -> int:
    from cove.cli.reference import split

    container, *target = call.arguments
    repository, tag = split(target[0]) if target else ("", "")
    query = {
        "repo": repository,
        "tag": tag,
        "comment": call.text("message"),
        "author": call.text("author"),
        "changes": call.list("change"),
        "pause": call.flag("pause"),
    }
    print(connect(call.host).images.commit(container, query))
    return 0


DIFF = Verb(diff, "Show what changed in a container's file system (C, A, D).", "CONTAINER", least=1, most=1)
EXPORT = Verb(
    export,
    "Write a container's file system as a tar archive, to stdout unless told otherwise.",
    "CONTAINER",
    (Flag("output", "Write to a file", short="o", hint="file"),),
    least=1,
    most=1,
)
COMMIT = Verb(
    commit,
    "Make an image of a container's changes.",
    "CONTAINER [REPOSITORY[:TAG]]",
    (
        Flag("author", "Say who made it", short="a"),
        Flag("change", "Apply an instruction of a Dockerfile", "list", short="c", hint="instruction"),
        Flag("message", "Say what changed", short="m"),
        Flag("pause", "Pause the container meanwhile", "bool", short="p", default="true"),
    ),
    least=1,
    most=2,
)
