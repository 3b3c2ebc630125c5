"""`cove start`: stopped containers run again; with -a one of them has this terminal."""

from __future__ import annotations

from cove.cli.attached import run_attached, start_failure
from cove.cli.each import each
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import ApiError, connect

_FLAGS = (
    Flag("attach", "Attach stdout and stderr, pass signals on", "bool", short="a"),
    Flag("detach-keys", "Keys that detach this terminal", hint="keys"),
    Flag("interactive", "Attach stdin", "bool", short="i"),
)


def run(call: Call) -> int:
    client = connect(call.host)
    if not call.flag("attach") and not call.flag("interactive"):
        return each(call.arguments, lambda name: client.containers.start(name))
    if len(call.arguments) != 1:
        raise UsageError("only one container can be started with -a or -i")
    found = client.containers.inspect(call.arguments[0])
    if found["State"]["Running"]:
        raise UsageError(
            f"the container {call.arguments[0]} is running already; use: cove attach {call.arguments[0]}"
        )
    try:
        return run_attached(
            client,
            found["Id"],
            tty=bool(found["Config"].get("Tty")),
            streams={
                "stdin": call.flag("interactive") and bool(found["Config"].get("OpenStdin")),
                "stdout": True,
                "stderr": True,
            },
            detach_keys=call.text("detach-keys"),
            sig_proxy=True,
            removed=bool(found["HostConfig"].get("AutoRemove")),
        )
    except ApiError as error:
        raise start_failure(error) from error


START = Verb(run, "Start stopped containers.", "CONTAINER [CONTAINER...]", _FLAGS, least=1, most=None)
