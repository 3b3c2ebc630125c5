"""`--help`: of the command, of a group of verbs, of one verb."""

from __future__ import annotations

import os
import sys
from textwrap import wrap

from cove.cli.flags import Flag, Verb
from cove.cli.main import load
from cove.cli.suggest import nearest
from cove.cli.table import GROUPS, TABLE, find, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ORDER = ("Run something", "See what runs", "Start, stop, change", "Files of a container", "Images", "The daemon")


def show(path: Sequence[str]) -> int:
    """Print the help of a path of words; 0, or 1 when there is no such verb."""
    if not path:
        _write(_overview())
    elif path[0] in GROUPS and len(path) == 1:
        _write(_group(path[0]))
    else:
        name, place, _ = find(path)
        if not place:
            found = nearest(path[0], TABLE)
            hint = f"; did you mean {found}?" if found else ""
            print(f"cove: there is no command {path[0]!r}{hint}", file=sys.stderr)
            return 1
        _write(_verb(name, load(place)))
    return 0


def _write(lines: Iterable[str]) -> None:
    print("\n".join(lines))


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def _width() -> int:
    try:
        return min(max(os.get_terminal_size(1).columns, 60), 110)
    except OSError:
        return 96


def _overview() -> Iterable[str]:
    yield _bold("cove") + " runs applications in isolated containers."
    yield ""
    yield "  cove run -it debian:bookworm          a shell in a new container"
    yield "  cove run -d -p 8080:80 --name web IMG  a server, published on port 8080"
    yield ""
    yield f"{_bold('Usage')}  cove [-H ADDRESS] COMMAND"
    for group in _ORDER:
        yield ""
        yield _bold(group)
        for path, row in TABLE.items():
            if row[1] == group:
                yield f"  {path:<12}{row[2]}"
    yield ""
    yield _bold("More commands")
    for group, title in GROUPS.items():
        verbs = " ".join(sorted({verb for verb, _ in members(group)}))
        yield from _hanging(f"  {group:<12}", f"{title}: {verbs}")
    yield ""
    yield _bold("Global options")
    yield "  -H, --host ADDRESS   The daemon: unix://PATH or tcp://HOST:PORT (else COVE_HOST, DOCKER_HOST)"
    yield "      --tls            Speak TLS on TCP, with the files in DOCKER_CERT_PATH; --tlsverify: and verify them"
    yield "      --config DIR     Where passwords of registries are kept"
    yield "  -D, --debug          Show where an error comes from"
    yield "  -v, --version        Print the version"
    yield ""
    yield "Run `cove COMMAND --help` for a command's options."


def _group(group: str) -> Iterable[str]:
    yield f"{_bold('Usage')}  cove {group} COMMAND"
    yield ""
    yield _bold(GROUPS[group])
    for verb, summary in members(group):
        yield f"  {verb:<12}{summary}"


def _verb(name: str, verb: Verb) -> Iterable[str]:
    options = "[OPTIONS] " if verb.flags else ""
    yield f"{_bold('Usage')}  cove {name} {options}{verb.arguments}".rstrip()
    yield ""
    yield verb.summary
    if verb.notes:
        yield ""
        yield from verb.notes.strip("\n").splitlines()
    if verb.flags:
        yield ""
        yield _bold("Options")
        heads = [(_head(flag), flag) for flag in sorted(verb.flags, key=lambda flag: flag.name)]
        width = min(max(len(head) for head, _ in heads), 36) + 3
        for head, flag in heads:
            yield from _hanging(f"  {head:<{width}}", _explain(flag))


def _head(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    return f"{short}--{flag.name} {flag.hint}".rstrip()


def _explain(flag: Flag) -> str:
    default = flag.default
    if not default or default in {"false", "0"}:
        return flag.help
    return f"{flag.help} (default {default})"


def _hanging(head: str, text: str) -> Iterable[str]:
    lines = wrap(text, max(_width() - len(head), 30)) or [""]
    yield head + lines[0]
    for line in lines[1:]:
        yield " " * len(head) + line
