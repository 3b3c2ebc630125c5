"""Entry point of `cove-oci`: finds the verb, imports it, and turns what goes wrong into one sentence and a code.

Codes are runc's: 1 for every failure, 3 for an unknown command, 255 for an exec that did not come about; run and
exec in the foreground end with the program's own.
"""

from __future__ import annotations

import gc
import os
import sys

from cove.errors import CoveError, InvalidArgument, describe
from cove.runtime.oci.flags import Options, parse
from cove.runtime.oci.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

DEFAULT_ROOT = "/run/cove-oci"
"""For the host's root; everybody else has one below $XDG_RUNTIME_DIR."""

_GLOBAL = (
    "root=",
    "log=",
    "log-format=",
    "log-level=",
    "debug",
    "systemd-cgroup",
    "cgroup-manager=",
    "rootless=",
    "criu=",
    "help|h|?",
    "version|v|V",
)
_HELP = "help|h"

# The module and the function of each verb, and what it does.
_VERBS = {
    "create": ("create", "create", "make a container: everything but its program runs"),
    "start": ("start", "start", "let a created container's program run"),
    "state": ("state", "state", "print a container's state as JSON"),
    "kill": ("kill", "kill", "send a signal to a container's first process, or to all"),
    "delete": ("delete", "delete", "remove a container that has stopped"),
    "run": ("run", "run", "create and start a container, and wait for it"),
    "exec": ("execute", "execute", "run a further process in a container"),
    "ps": ("ps", "ps", "list a container's processes"),
    "pause": ("pause", "pause", "stop every process of a container"),
    "resume": ("pause", "resume", "let them go on"),
    "update": ("update", "update", "change a container's limits"),
    "events": ("events", "events", "print what a container uses, and when memory runs out"),
    "list": ("listing", "listing", "list the containers below --root"),
    "spec": ("example", "spec", "write an example config.json"),
    "features": ("features", "features", "print what this runtime supports as JSON"),
}
# Even their --help: that is how engines ask whether containers can be saved here.
_NOT_HERE = {
    "checkpoint": "checkpoint is not supported: a container's memory cannot be saved by this runtime",
    "restore": "restore is not supported: this runtime makes no checkpoints that could be restored",
}


class Call:
    """One command as it was given: global flags, the verb's flags and arguments."""

    __slots__ = ("arguments", "log", "manager", "options", "root", "root_given", "rootless", "verb")

    def __init__(self, verb: str, given: Options, log: Log) -> None:
        self.verb = verb
        self.log = log
        self.root_given = given.given("root")
        self.root = os.path.abspath(given.text("root") or _default_root())
        self.rootless = given.text("rootless", "auto")
        if self.rootless not in ("auto", "true", "false"):
            raise InvalidArgument(f'invalid value "{self.rootless}" for --rootless: it is true, false or auto')
        self.manager = given.text("cgroup-manager", "systemd" if given.switch("systemd-cgroup") else "cgroupfs")
        if self.manager not in ("cgroupfs", "systemd", "disabled"):
            raise InvalidArgument(f"unknown cgroup manager {self.manager}, it is cgroupfs, systemd or disabled")
        self.options = Options()
        self.arguments: list[str] = []

    def parse(
        self, words: list[str], flags: tuple[str, ...], least: int, most: int | None, *, mixed: bool = True
    ) -> None:
        """Take the verb's own words; `least` to `most` arguments."""
        self.options, self.arguments = parse((*flags, _HELP), words, mixed=mixed)
        if self.options.switch("help"):
            from cove.runtime.oci import usage

            usage.of_command(self.verb, _VERBS[self.verb][2], (*flags, _HELP), takes_id=least > 0)
            sys.exit(0)
        count = len(self.arguments)
        if count < least or (most is not None and count > most):
            wanted = f"exactly {least}" if most == least else f"at least {least}"
            raise InvalidArgument(f'"{self.verb}" requires {wanted} argument(s), {count} given')


def _default_root() -> str:
    own = os.environ.get("XDG_RUNTIME_DIR")
    if not own or (os.geteuid() == 0 and os.environ.get("USER") == "root"):
        return DEFAULT_ROOT
    from cove.runtime import rootless

    return f"{own}/cove-oci" if rootless.is_rootless() else DEFAULT_ROOT


def _overview() -> None:
    from cove.runtime.oci import usage

    usage.overview({verb: told for verb, (_, _, told) in _VERBS.items()}, _GLOBAL)


def _find(verb: str) -> Callable[[Call, list[str]], int]:
    import importlib

    module, function, _ = _VERBS[verb]
    found: Callable[[Call, list[str]], int] = getattr(importlib.import_module(f"cove.runtime.oci.{module}"), function)
    return found


def _perform(log: Log, given: Options, words: list[str]) -> int:
    verb, *rest = words
    if verb == "help":
        verb, rest = (rest[0], ["--help"]) if rest else ("", [])
    if not verb:
        _overview()
        return 0
    if verb in _NOT_HERE:
        raise InvalidArgument(_NOT_HERE[verb])
    if verb not in _VERBS:
        log.error(f"unknown command (No help topic for '{verb}'): `cove-oci --help` lists them all")
        return 3
    call = Call(verb, given, log)
    log.debug(f"cove-oci {verb} {' '.join(rest)}")
    return _find(verb)(call, rest)


def run(arguments: list[str]) -> int:
    """Perform one command: its exit code."""
    log, verb = Log("", "text", debug=False), ""
    try:
        given, words = parse(_GLOBAL, arguments, mixed=False)
        if given.switch("version"):
            from cove.runtime.oci import usage

            usage.version()
            return 0
        if given.switch("help") or not words:
            _overview()
            return 0
        verb = words[0]
        log = Log(given.text("log"), given.text("log-format", "text"), debug=given.switch("debug"))
        return _perform(log, given, words)
    except CoveError as error:
        log.error(error.message)
    except OSError as error:
        log.error(f"{verb} failed: {describe(error)}" if verb else describe(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # A fault of this program's own: even that is told in one sentence, with the way to see more.
        if "--debug" in arguments:
            raise
        log.error(f"{verb} failed by a fault of cove-oci: {type(error).__name__}: {error}; --debug shows where")
    return 255 if verb == "exec" else 1


def main() -> NoReturn:
    """Entry point of `cove-oci`."""
    gc.disable()  # what is made here is little, and needed to the end
    # msgspec takes it where it is installed and does without where not; its import, and what that brings along, are
    # a tenth of what `create` costs.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    # Nothing is left to tidy: what an interpreter does at its end would only cost time.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
