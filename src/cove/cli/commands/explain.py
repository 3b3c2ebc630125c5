"""`cove explain`: how a container is isolated, on one page."""

from __future__ import annotations

from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = Flag("format", "text, json or a template", hint="format")


def run(call: Call) -> int:
    client = connect(call.host)
    for position, name in enumerate(call.arguments):
        if position and call.text("format") in {"", "text"}:
            print()
        write(client.containers.explain(name), call.text("format"), verbose=call.flag("verbose"))
    return 0


def write(found: dict[str, Any], form: str, *, verbose: bool) -> None:
    """Print an explanation as `--format` says."""
    if form in {"", "text"}:
        from cove.cli.explanation import show

        show(found, verbose=verbose)
    elif form == "json":
        from cove.cli.template.functions import json

        print(json(found))
    elif "{{" in form:
        from cove.cli.output import renderer

        print(renderer(form)(found))
    else:
        raise UsageError(f"the value {form!r} of --format is not text, json or a template such as {{{{.State}}}}")


EXPLAIN = Verb(
    run,
    "Show how containers are isolated: namespaces, limits and their use, rights, mounts, network and ports.",
    "CONTAINER [CONTAINER...]",
    (FORMAT, Flag("verbose", "Show every capability, path and file that enforces it", "bool", short="v")),
    least=1,
    most=None,
)
