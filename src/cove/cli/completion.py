"""What may follow the words typed so far: verbs, flags, and the names of what the daemon has.

    cove ⟨global flags⟩ verb ⟨flags⟩ arguments
         └ verbs and groups   └ flags of the verb, names of containers, images, networks, volumes

Pure but for one question to a daemon that is there already: completing never starts one, and never fails.
"""

from __future__ import annotations

from cove.cli.flags import Flag, Verb
from cove.cli.table import GROUPS, TABLE, find, meant, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cove.client import Client

    Candidate = tuple[str, str]
    """A word, and what it means in a few words."""

_GLOBAL = (
    Flag("host", "The daemon: unix://PATH or tcp://HOST:PORT", short="H", hint="address"),
    Flag("config", "Directory of the user's configuration", hint="directory"),
    Flag("tls", "Speak TLS on TCP", "bool"),
    Flag("tlsverify", "Speak TLS on TCP and verify the daemon", "bool"),
    Flag("help", "Show the commands", "bool"),
    Flag("version", "Print the version", "bool", short="v"),
)
_HELP = Flag("help", "Show this command's help", "bool")

_RUNNING = "attach exec kill pause port stats stop top"
_CONTAINERS = "commit cp diff explain export inspect logs rename restart rm start unpause update wait"
_IMAGES = "create history push rmi run save tag"
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_RUNNING.split(), ("running",)),
    **dict.fromkeys(_CONTAINERS.split(), ("container",)),
    **dict.fromkeys(_IMAGES.split(), ("image",)),
    "inspect": ("container", "image", "network", "volume"),
    "container inspect": ("container",),
    "image inspect": ("image",),
    "image attachments": ("image",),
    "image verify": ("image",),
    "network inspect": ("network",),
    "network rm": ("network",),
    "network update": ("network",),
    "network connect": ("network", "container"),
    "network disconnect": ("network", "container"),
    "volume inspect": ("volume",),
    "volume rm": ("volume",),
    "volume clone": ("volume",),
    "volume export": ("volume",),
    "volume import": ("volume",),
    "volume rename": ("volume",),
    "volume snapshot": ("volume",),
}
_VALUES = {"network": "network", "net": "network", "volumes-from": "container", "link": "container"}
"""Flags whose values are names that the daemon knows."""


def complete(words: Sequence[str]) -> Iterable[Candidate]:
    """Candidates for the last of `words`, which may be empty; the words before it are whole."""
    *before, typed = words or [""]
    before, host = _without_globals(before)
    found = [each for each in _candidates(before, typed, host) if each[0].startswith(typed)]
    return list(dict.fromkeys(found))


def _without_globals(words: list[str]) -> tuple[list[str], str]:
    """The words from the verb on, and the daemon's address where one is named."""
    host = ""
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("-H", "--host", "--config", "-c", "--context") and not equals:
            value = words.pop(0) if words else ""
        if name in ("-H", "--host"):
            host = value
    return words, host


def _candidates(before: list[str], typed: str, host: str) -> Iterator[Candidate]:
    if not before:
        yield from _flags(_GLOBAL) if typed.startswith("-") else _verbs()
        return
    if before[0] in GROUPS and len(before) == 1:
        yield from members(before[0])
        return
    name, place, rest = find(before)
    if not place:
        return
    from cove.cli.main import load

    verb = load(place)
    flag = _waiting(verb, rest)
    if flag is not None:
        yield from _named((_VALUES[flag.name],) if flag.name in _VALUES else (), host)
    elif typed.startswith("-") and not _in_program(verb, rest):
        yield from _flags((*verb.flags, _HELP))
    elif not _in_program(verb, rest):
        yield from _named(_ARGUMENTS.get(meant(name), ()), host)


def _verbs() -> Iterator[Candidate]:
    yield from ((path, row[2]) for path, row in TABLE.items() if " " not in path)
    yield from GROUPS.items()


def _flags(flags: Iterable[Flag]) -> Iterator[Candidate]:
    for flag in flags:
        yield f"--{flag.name}", flag.help
        if flag.short:
            yield f"-{flag.short}", flag.help


def _waiting(verb: Verb, words: Sequence[str]) -> Flag | None:
    """The flag that still waits for its value."""
    if not words or not words[-1].startswith("-") or "=" in words[-1] or _in_program(verb, words[:-1]):
        return None
    known = {f"--{flag.name}": flag for flag in verb.flags} | {f"-{flag.short}": flag for flag in verb.flags}
    flag = known.get(words[-1])
    return flag if flag is not None and flag.kind != "bool" else None


def _in_program(verb: Verb, words: Sequence[str]) -> bool:
    """Whether the verb's first argument is there, behind which a program has the word."""
    if not verb.program:
        return False
    known = {f"--{flag.name}": flag for flag in verb.flags} | {f"-{flag.short}": flag for flag in verb.flags}
    waits = False
    for word in words:
        if waits:
            waits = False
        elif word.startswith("-") and word != "-":
            flag = known.get(word)
            waits = flag is not None and flag.kind != "bool"
        else:
            return True
    return False


def _named(kinds: Iterable[str], host: str) -> Iterator[Candidate]:
    """The names that a daemon knows, if one answers."""
    if not kinds:
        return
    from cove.client import Client
    from cove.client.address import resolve
    from cove.errors import CoveError

    client = Client(resolve(host))
    try:
        for kind in kinds:
            yield from _of_kind(client, kind)
    except (CoveError, OSError):
        return


def _of_kind(client: Client, kind: str) -> Iterator[Candidate]:
    if kind in ("running", "container"):
        for one in client.containers.list(all=kind == "container"):
            yield one["Names"][0].removeprefix("/"), f"{one['Image']}, {one['Status']}"
    elif kind == "image":
        for one in client.images.list():
            yield from ((name, one["Id"][7:19]) for name in one.get("RepoTags") or ())
    elif kind == "network":
        yield from ((one["Name"], one["Driver"]) for one in client.networks.list())
    elif kind == "volume":
        yield from ((one["Name"], one["Driver"]) for one in client.volumes.list().get("Volumes") or ())
