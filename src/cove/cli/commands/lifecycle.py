"""The verbs that end, freeze or rename containers: stop restart kill pause unpause wait rename rm."""

from __future__ import annotations

from cove.cli.attached import exit_code
from cove.cli.each import each
from cove.cli.flags import Call, Flag, Verb
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MANY = "CONTAINER [CONTAINER...]"
_STOP_FLAGS = (
    Flag("signal", "Signal to send", short="s"),
    Flag("timeout", "Seconds until it is killed; -1: never", "int", short="t", hint="seconds"),
    Flag("time", "The same as --timeout", "int", hint="seconds"),
)


def _stopping(verb: str) -> Callable[[Call], int]:
    def run(call: Call) -> int:
        client = connect(call.host)
        timeout = call.text("timeout") or call.text("time") or None
        signal = call.text("signal")
        return each(call.arguments, lambda name: client.containers.act(name, verb, t=timeout, signal=signal))

    return run


def _simple(verb: str) -> Callable[[Call], int]:
    def run(call: Call) -> int:
        client = connect(call.host)
        return each(call.arguments, lambda name: client.containers.act(name, verb))

    return run


def _kill(call: Call) -> int:
    client = connect(call.host)
    return each(call.arguments, lambda name: client.containers.act(name, "kill", signal=call.text("signal")))


def _wait(call: Call) -> int:
    client = connect(call.host)
    return each(call.arguments, lambda name: str(exit_code(client.containers.wait(name))))


def _rename(call: Call) -> int:
    old, new = call.arguments
    connect(call.host).containers.act(old, "rename", name=new)
    return 0


def _remove(call: Call) -> int:
    client = connect(call.host)
    force, volumes, link = call.flag("force"), call.flag("volumes"), call.flag("link")

    def remove(name: str) -> None:
        try:
            client.containers.remove(name, force=force, volumes=volumes, link=link)
        except ApiError as error:
            if error.status != 404 or not force:
                raise

    return each(call.arguments, remove)


STOP = Verb(_stopping("stop"), "Stop running containers.", _MANY, _STOP_FLAGS, least=1, most=None)
RESTART = Verb(_stopping("restart"), "Stop containers and start them again.", _MANY, _STOP_FLAGS, least=1, most=None)
KILL = Verb(
    _kill,
    "Send a signal to running containers: KILL, unless told otherwise.",
    _MANY,
    (Flag("signal", "Signal to send", short="s", default="KILL"),),
    least=1,
    most=None,
)
PAUSE = Verb(_simple("pause"), "Freeze all processes of containers.", _MANY, least=1, most=None)
UNPAUSE = Verb(_simple("unpause"), "Let frozen containers go on.", _MANY, least=1, most=None)
WAIT = Verb(_wait, "Wait until containers stop and print their exit codes.", _MANY, least=1, most=None)
RENAME = Verb(_rename, "Rename a container.", "CONTAINER NEW-NAME", least=2, most=2)
REMOVE = Verb(
    _remove,
    "Remove containers.",
    _MANY,
    (
        Flag("force", "Kill it first if it runs", "bool", short="f"),
        Flag("link", "Remove the link of that name", "bool", short="l"),
        Flag("volumes", "Remove its anonymous volumes too", "bool", short="v"),
    ),
    least=1,
    most=None,
)
