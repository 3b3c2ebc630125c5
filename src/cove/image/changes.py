"""Changes to an image's configuration in a Dockerfile's words, as `import -c` and `commit -c` take them.

CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from cove.errors import InvalidArgument
from cove.oci.image import ContainerConfig, Healthcheck

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_DURATION = re.compile(r"(?:([0-9.]+)h)?(?:([0-9.]+)m(?!s))?(?:([0-9.]+)s)?(?:([0-9.]+)ms)?")
_VARIABLE = re.compile(r"\$(?:(?P<plain>\w+)|\{(?P<name>\w+)(?:(?P<rule>:[-+])(?P<word>[^}]*))?\})")
_EXPANDED = frozenset({"ENV", "LABEL", "EXPOSE", "USER", "VOLUME", "WORKDIR", "STOPSIGNAL"})
_FLAGS = {"interval": "interval", "timeout": "timeout", "start-period": "start_period"}
_FLAGS["start-interval"] = "start_interval"


def apply(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """The configuration after every change in order; InvalidArgument names the one that makes no sense.

    A change may hold several lines, each with an instruction.
    """
    for change in _instructions(changes):
        word, _, rest = change.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if word in _EXPANDED:
            known = dict(entry.split("=", 1) for entry in config.env if "=" in entry)
            rest = _expanded(rest, known, shell=word in ("ENV", "LABEL") and "=" in rest.partition(" ")[0])
        config = _one(config, word, rest, change)
    return config


def _instructions(changes: Iterable[str]) -> Iterator[str]:
    for change in changes:
        lines = [line for line in change.splitlines() if line.strip()]
        yield from lines or [change]


def _expanded(text: str, known: Mapping[str, str], *, shell: bool) -> str:
    """`$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}` replaced, but not behind \\ or in single quotes.

    With `shell`, what is put in is quoted, so that blanks in it do not end a word.
    """
    found: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and text[at + 1 : at + 2] == "$":
            found.append("\\$" if shell and not quote else "$")
            at += 2
            continue
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        variable = _VARIABLE.match(text, at) if letter == "$" and quote != "'" else None
        if variable is None:
            found.append(letter)
            at += 1
            continue
        value = _value(variable, known)
        special = r'(["\\])' if quote else r"([^\w@%+=:,./-])"
        found.append(re.sub(special, r"\\\1", value) if shell else value)
        at = variable.end()
    return "".join(found)


def _value(variable: re.Match[str], known: Mapping[str, str]) -> str:
    value = known.get(variable["plain"] or variable["name"], "")
    if variable["rule"] == ":-":
        return value or variable["word"]
    if variable["rule"] == ":+":
        return variable["word"] if value else ""
    return value


def _one(config: ContainerConfig, word: str, rest: str, change: str) -> ContainerConfig:
    if not rest:
        raise InvalidArgument(f"the change {change!r} needs an argument")
    match word:
        case "CMD":
            return replace(config, cmd=_command(rest))
        case "ENTRYPOINT":
            return replace(config, entrypoint=_command(rest))
        case "ENV":
            merged = dict(entry.split("=", 1) for entry in config.env if "=" in entry) | _pairs(rest, change)
            return replace(config, env=tuple(f"{key}={value}" for key, value in merged.items()))
        case "LABEL":
            return replace(config, labels=config.labels | _pairs(rest, change))
        case "EXPOSE":
            return replace(config, exposed_ports=config.exposed_ports | {port: {} for port in _ports(rest)})
        case "VOLUME":
            return replace(config, volumes=config.volumes | {path: {} for path in _list(rest)})
        case "USER":
            return replace(config, user=rest)
        case "WORKDIR":
            return replace(config, working_dir=posixpath.normpath(posixpath.join(config.working_dir or "/", rest)))
        case "STOPSIGNAL":
            return replace(config, stop_signal=rest)
        case "ONBUILD":
            return replace(config, on_build=(*config.on_build, rest))
        case "HEALTHCHECK":
            return replace(config, healthcheck=_healthcheck(rest, change))
    raise InvalidArgument(f"{word} is not a valid change command; see CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, …")


def _command(text: str) -> tuple[str, ...]:
    """The JSON form as it is, any other through the shell."""
    return _json_list(text) or ("/bin/sh", "-c", text)


def _json_list(text: str) -> tuple[str, ...]:
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            return ()
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return tuple(found)
    return ()


def _list(text: str) -> tuple[str, ...]:
    return _json_list(text) or tuple(text.split())


def _pairs(text: str, change: str) -> dict[str, str]:
    """KEY=VALUE … with shell quoting, or the old form KEY VALUE."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"the change {change!r} has unbalanced quotes") from error
    if words and "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value:
            raise InvalidArgument(f"the change {change!r} must have the form KEY=VALUE")
        return {key: value.strip()}
    if not all("=" in word and not word.startswith("=") for word in words):
        raise InvalidArgument(f"the change {change!r} must have the form KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


def _ports(text: str) -> list[str]:
    found: list[str] = []
    for word in text.split():
        match = _PORT.fullmatch(word)
        if match is None:
            raise InvalidArgument(f"invalid containerPort: {word}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word}")
        found += [f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)]
    return found


def _healthcheck(text: str, change: str) -> Healthcheck:
    numbers: dict[str, int] = {}
    while text.startswith("--"):
        flag, _, text = text.partition(" ")
        key, _, value = flag[2:].partition("=")
        if key == "retries" and value.isdigit():
            numbers["retries"] = int(value)
        elif key in _FLAGS:
            numbers[_FLAGS[key]] = _duration(value, change)
        else:
            raise InvalidArgument(f"the change {change!r} has the unknown flag {flag}")
        text = text.strip()
    if text.upper() == "NONE":
        return Healthcheck(test=("NONE",))
    word, _, rest = text.partition(" ")
    if word.upper() != "CMD" or not rest.strip():
        raise InvalidArgument(f"the change {change!r} must say CMD and a command, or NONE")
    listed = _json_list(rest.strip())
    test = ("CMD", *listed) if listed else ("CMD-SHELL", rest.strip())
    return Healthcheck(
        test=test,
        interval=numbers.get("interval", 0),
        timeout=numbers.get("timeout", 0),
        start_period=numbers.get("start_period", 0),
        start_interval=numbers.get("start_interval", 0),
        retries=numbers.get("retries", 0),
    )


def _duration(text: str, change: str) -> int:
    """Go's durations ("1m30s") in nanoseconds."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise InvalidArgument(f"the change {change!r} has the invalid duration {text!r}")
    units = (3600.0, 60.0, 1.0, 0.001)
    return round(sum(float(part) * unit for part, unit in zip(match.groups(), units, strict=True) if part) * 1e9)
