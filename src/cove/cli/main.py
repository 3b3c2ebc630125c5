"""The `cove` command: finds the verb, imports it, runs it, and turns errors into exit codes.

    cove [-H ADDRESS] VERB …
        one line of the table below ──▶ import its module ──▶ parse its flags ──▶ run it

Exit codes: the program's own where one runs, 125 when Cove could not run it, 126 and 127 as
in a shell; 1 for any other error, 130 after Ctrl-C. A user never sees a traceback: an error
is one sentence on stderr. (COVE_TRACEBACK=1 shows the traceback, for whoever mends Cove.)
"""

from __future__ import annotations

import os
import sys

from cove.cli.flags import Verb, parse
from cove.errors import CoveError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn


def main() -> NoReturn:
    """The command itself. It leaves without tearing the interpreter down: nothing is left to clean up."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # nobody is left to read it
    os._exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        code = _dispatch(list(words))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read our output left; that is no error. Nothing may be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    return code


def _dispatch(words: list[str]) -> int:
    if words and words[0].startswith("-"):
        from cove.cli.globals import read

        try:
            chosen = read(words)
        except CoveError as error:
            return _complain(error.message, 125)
        if chosen.asks_version:
            from cove import __version__

            print(f"Cove version {__version__}")
            return 0
        if chosen.asks_help:
            return _help()
        words, host = chosen.rest, chosen.host
    else:
        host = ""
    if not words or words[0] == "help":
        return _help(words[1:])
    return _run(words, host)


def _run(words: list[str], host: str) -> int:
    from cove.cli.table import GROUPS, find

    name, place, rest = find(words)
    if not place:
        if rest[:1] in (["--help"], ["-h"], []) and name in GROUPS:
            return _help([name])
        return _unknown(name, rest)
    verb: Verb | None = None
    try:
        verb = load(place)
        call = parse(name, verb, rest, host=host)
        return _help(name.split()) if call is None else verb.run(call)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except CoveError as error:
        return _fail(error, error.message, verb)
    except OSError as error:
        return _fail(error, describe(error), verb)
    except Exception as error:
        return _fail(error, f"an internal error of the cove command, {type(error).__name__}: {error}", verb)


def load(place: str) -> Verb:
    """The Verb at `module:NAME` below cove.cli.commands."""
    module, _, attribute = place.partition(":")
    loaded = __import__(f"cove.cli.commands.{module}", fromlist=[attribute])
    verb: Verb = getattr(loaded, attribute)
    return verb


def _fail(error: Exception, message: str, verb: Verb | None) -> int:
    if os.environ.get("COVE_TRACEBACK"):
        raise error
    code = verb.failure if verb else 125
    code = getattr(error, "exit_code", code)
    return _complain(message, code)


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"cove: {message}", file=sys.stderr)
    return code


def _unknown(name: str, rest: list[str]) -> int:
    from cove.cli.suggest import nearest
    from cove.cli.table import GROUPS, TABLE

    if name in GROUPS:
        known = [path.split()[1] for path in TABLE if path.startswith(f"{name} ")]
        word, prefix = rest[0], f"cove {name}"
    else:
        known = [path for path in TABLE if " " not in path] + list(GROUPS)
        word, prefix = name, "cove"
    found = nearest(word, known)
    hint = f"; did you mean: {prefix} {found}?" if found else f"; see: {prefix} --help"
    return _complain(f"{prefix} has no command {word!r}{hint}", 1)


def _help(path: Sequence[str] = ()) -> int:
    from cove.cli.help import show

    render: Callable[[Sequence[str]], int] = show
    return render(path)


if __name__ == "__main__":
    main()
