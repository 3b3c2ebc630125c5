"""`cove exec`: one more program in a running container."""

from __future__ import annotations

from cove.cli.attached import start_failure
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import environment
from cove.cli.session import Session
from cove.cli.terminal import is_terminal, size
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FLAGS = (
    Flag("detach", "Run it in the background", "bool", short="d"),
    Flag("detach-keys", "Keys that detach this terminal", hint="keys"),
    Flag("env", "Set an environment variable: NAME=VALUE", "list", short="e"),
    Flag("env-file", "Read environment variables from a file", "list", hint="file"),
    Flag("interactive", "Send this command's stdin", "bool", short="i"),
    Flag("privileged", "Give the program every right of the host", "bool"),
    Flag("tty", "Give the program a terminal", "bool", short="t"),
    Flag("user", "User (and group): name|uid[:group|gid]", short="u"),
    Flag("workdir", "Working directory inside the container", short="w", hint="path"),
)


def run(call: Call) -> int:
    container, *command = call.arguments
    tty, detached = call.flag("tty"), call.flag("detach")
    stdin = call.flag("interactive") and not detached
    if tty and stdin and not is_terminal(0):
        raise UsageError("the input device is not a terminal; leave out -t to send it something else")
    body: dict[str, Any] = {
        "Cmd": command,
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detached,
        "AttachStderr": not detached,
        "Env": environment(call.list("env"), call.list("env-file")),
        "Privileged": call.flag("privileged"),
        "User": call.text("user"),
        "WorkingDir": call.text("workdir"),
        "DetachKeys": call.text("detach-keys"),
    }
    client = connect(call.host)
    exec_id = client.execs.create(container, body)

    def resize(rows: int, columns: int) -> None:
        try:
            client.execs.resize(exec_id, height=rows, width=columns)
        except ApiError as error:
            if error.status not in {404, 409, 500}:  # it ended meanwhile
                raise

    try:
        if detached:
            client.execs.start_detached(exec_id, tty=tty)
            return 0
        stream = client.execs.start(exec_id, tty=tty, size=size(1) if tty else None)
    except ApiError as error:
        raise start_failure(error) from error
    session = Session(stream, tty=tty, stdin=stdin, resize=resize, detach_keys=call.text("detach-keys"))
    session.run()
    if session.detached:
        return 0
    return int(client.execs.inspect(exec_id).get("ExitCode") or 0)


EXEC = Verb(
    run,
    "Run a command in a running container.",
    "CONTAINER COMMAND [ARG...]",
    _FLAGS,
    least=2,
    most=None,
    program=True,
)
