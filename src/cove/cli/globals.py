"""The flags before the verb: which daemon, how it is spoken to, whose configuration.

    -H ADDRESS · --tls, --tlsverify · --config DIRECTORY · -D · -v, --help

What the rest of the command reads from the environment is put there.
"""

from __future__ import annotations

import os

from cove.cli.flags import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUED = {"-H": "--host", "-c": "--context", "-l": "--log-level"}
_SWITCHES = {
    "--tls": ("DOCKER_TLS", "1"),
    "--tlsverify": ("DOCKER_TLS_VERIFY", "1"),
    "--debug": ("COVE_TRACEBACK", "1"),
    "-D": ("COVE_TRACEBACK", "1"),
}
_FILES = "put ca.pem, cert.pem and key.pem into one directory and name it with DOCKER_CERT_PATH"
_REFUSED = {
    "--log-level": "the command keeps no log; the daemon has the flag: cove daemon --log-level",
    "--tlscacert": _FILES,
    "--tlscert": _FILES,
    "--tlskey": _FILES,
}


class Globals:
    """What was said before the verb, and the words from the verb on."""

    __slots__ = ("asks_help", "asks_version", "host", "rest")

    def __init__(self, rest: list[str]) -> None:
        self.host = ""
        self.asks_help = self.asks_version = False
        self.rest = rest


def read(words: Sequence[str]) -> Globals:
    """Read the flags that words begin with. Raises UsageError."""
    found = Globals(list(words))
    rest = found.rest
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--") and word[:2] in _VALUED and word[2:]:
            name, equals, value = word[:2], "=", word[2:].removeprefix("=")
        name = _VALUED.get(name, name)
        if name in {"--help", "-h"}:
            found.asks_help = True
        elif name in {"--version", "-v"}:
            found.asks_version = True
        elif name in _SWITCHES:
            _switch(name, value if equals else "true")
        elif name in _REFUSED:
            raise UsageError(f"cove has no global flag {name}: {_REFUSED[name]}")
        elif name in {"--host", "--config", "--context"}:
            if not equals and not rest:
                raise UsageError(f"the flag {name} needs a value")
            _take(found, name, value if equals else rest.pop(0))
        else:
            raise UsageError(f"cove has no global flag {word}; see: cove --help")
    return found


def _switch(name: str, value: str) -> None:
    variable, text = _SWITCHES[name]
    if value.lower() in {"1", "t", "true"}:
        os.environ[variable] = text
    elif value.lower() in {"0", "f", "false"}:
        os.environ.pop(variable, None)
    else:
        raise UsageError(f"the value {value!r} of {name} is not true or false")


def _take(found: Globals, name: str, value: str) -> None:
    if name == "--host":
        found.host = value
    elif name == "--config":
        os.environ["DOCKER_CONFIG"] = os.environ["COVE_CONFIG"] = value
    elif value != "default":
        raise UsageError(f"cove has no contexts, so no {value!r}; name the daemon with -H ADDRESS or COVE_HOST")
