"""`cove attach`: this terminal as the terminal of a running container."""

from __future__ import annotations

from cove.cli.attached import exit_code, forwarder, resizer
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.session import Session
from cove.cli.terminal import is_terminal
from cove.client import connect

_FLAGS = (
    Flag("detach-keys", "Keys that detach this terminal", hint="keys"),
    Flag("no-stdin", "Do not send this command's stdin", "bool"),
    Flag("sig-proxy", "Pass signals on to the program", "bool", default="true"),
)


def run(call: Call) -> int:
    (container,) = call.arguments
    client = connect(call.host)
    found = client.containers.inspect(container)
    state, config = found["State"], found["Config"]
    if not state["Running"]:
        raise UsageError(f"the container {container} is not running; start it first")
    if state.get("Paused"):
        raise UsageError(f"the container {container} is paused; unpause it first")
    tty = bool(config.get("Tty"))
    stdin = bool(config.get("OpenStdin")) and not call.flag("no-stdin")
    if tty and stdin and not is_terminal(0):
        raise UsageError("the input device is not a terminal; use --no-stdin to watch only")
    identity = found["Id"]
    waiting = client.containers.wait(identity)
    keys = call.text("detach-keys")
    stream = client.containers.attach(identity, stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=keys)
    session = Session(
        stream,
        tty=tty,
        stdin=stdin,
        resize=resizer(client, identity),
        forward=forwarder(client, identity) if call.flag("sig-proxy") and not tty else None,
        detach_keys=keys,
    )
    session.run()
    if session.detached:
        waiting.close()
        return 0
    return exit_code(waiting)


ATTACH = Verb(
    run,
    "Attach this terminal to a running container; Ctrl-P Ctrl-Q leaves it.",
    "CONTAINER",
    _FLAGS,
    least=1,
    most=1,
)
