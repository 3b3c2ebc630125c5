"""`cove logs`: what a container wrote."""

from __future__ import annotations

import time

from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import seconds
from cove.cli.session import write_all
from cove.client import connect
from cove.client.frames import STDERR, Frames

_FLAGS = (
    Flag("details", "Show the attributes that labels and the environment give", "bool"),
    Flag("follow", "Go on as more is written", "bool", short="f"),
    Flag("since", "From a time (2026-01-02T13:23:37Z) or so long ago (42m)", hint="time"),
    Flag("tail", "Only so many lines of the end", short="n", default="all", hint="lines"),
    Flag("timestamps", "Show the time of each line", "bool", short="t"),
    Flag("until", "Up to a time or so long ago", hint="time"),
)


def run(call: Call) -> int:
    (container,) = call.arguments
    client = connect(call.host)
    tty = bool(client.containers.inspect(container)["Config"].get("Tty"))
    tail = call.text("tail")
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise UsageError(f"the value {tail!r} of --tail is neither a number of lines nor all")
    response = client.containers.logs(
        container,
        stdout=True,
        stderr=True,
        follow=call.flag("follow"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details") or None,
        since=moment(call.text("since"), "since"),
        until=moment(call.text("until"), "until"),
        tail="all" if tail.startswith("-") else tail,
    )
    frames = Frames()
    for chunk in response.chunks():
        if tty:
            write_all(1, chunk)
            continue
        for stream, piece in frames.feed(chunk):
            write_all(2 if stream == STDERR else 1, piece)
    return 0


def moment(text: str, flag: str) -> str:
    """A flag's time as the API's: Unix seconds with decimals. `42m` means so long ago; "" stays ""."""
    if not text:
        return ""
    if text.replace(".", "", 1).isdecimal():
        return text
    if text[:4].isdecimal() and "-" in text:
        from cove.cli.humanize import unix

        try:
            return f"{unix(_completed(text)):.9f}"
        except ValueError:
            raise UsageError(f"the value {text!r} of --{flag} is no time such as 2026-01-02T13:23:37Z") from None
    return f"{time.time() - seconds(text, flag):.9f}"


def _completed(text: str) -> str:
    """A date, or a time without seconds or zone, as a whole RFC 3339 text in local time."""
    day, _, clock = text.partition("T")
    clock = clock or "00:00:00"
    if len(clock) == 5:
        clock += ":00"
    zoned = clock.endswith("Z") or "+" in clock or "-" in clock
    zone = "" if zoned else time.strftime("%z")
    return f"{day}T{clock}{zone[:3]}{':' if zone else ''}{zone[3:]}"


LOGS = Verb(run, "Show what a container wrote to stdout and stderr.", "CONTAINER", _FLAGS, least=1, most=1)
