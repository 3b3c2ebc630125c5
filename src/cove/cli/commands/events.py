"""`cove events`: what happens in the daemon, line by line."""

from __future__ import annotations

from cove.cli import humanize, output
from cove.cli.commands.logs import moment
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def run(call: Call) -> int:
    query = {
        "since": moment(call.text("since"), "since"),
        "until": moment(call.text("until"), "until"),
        "filters": output.filters(call.list("filter")) or None,
    }
    write = _writer(call.text("format"))
    for event in connect(call.host).system.events(query):
        print(write(event), flush=True)
    return 0


def _writer(form: str) -> Callable[[dict[str, Any]], str]:
    if form == "json":
        from cove.cli.template.functions import json

        return json
    return output.renderer(form) if form else _line


def _line(event: dict[str, Any]) -> str:
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    seconds, nanoseconds = divmod(event.get("timeNano") or event.get("time", 0) * 10**9, 10**9)
    when = humanize.nanosecond_time(seconds, nanoseconds)
    text = f"{when} {event.get('Type')} {event.get('Action')} {actor.get('ID')}"
    pairs = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    return f"{text} ({pairs})" if pairs else text


EVENTS = Verb(
    run,
    "Watch what happens in the daemon.",
    "",
    (
        Flag("filter", "Only those that fit: NAME=VALUE", "list", short="f", hint="filter"),
        Flag("format", "json or TEMPLATE", hint="format"),
        Flag("since", "From a time or so long ago", hint="time"),
        Flag("until", "Up to a time or so long ago", hint="time"),
    ),
)
