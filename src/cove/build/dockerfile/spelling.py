"""How an image's history spells instructions: as BuildKit writes them, for tools that read it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cove.build.dockerfile import instructions as ins
from cove.oci.image import Healthcheck

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SHOWN = re.compile(r"\\.|'|\"|\$(\w+)|\$\{(\w+)\}", re.DOTALL)
_UNITS = ((3600 * 10**9, "h"), (60 * 10**9, "m"))


def words(texts: tuple[str, ...]) -> str:
    """A list of quoted words: ["sh" "-c"]."""
    return f"[{' '.join(_quoted(text) for text in texts)}]"


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(char) or (char if char.isprintable() else _code(char)) for char in text) + '"'


def _code(char: str) -> str:
    point = ord(char)
    if point < 0x80:
        return "\\v" if char == "\v" else f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def healthcheck(check: Healthcheck) -> str:
    """The fields by name."""
    return (
        f"HEALTHCHECK {{Test:[{' '.join(check.test)}] Interval:{duration(check.interval)} "
        f"Timeout:{duration(check.timeout)} StartPeriod:{duration(check.start_period)} "
        f"StartInterval:{duration(check.start_interval)} Retries:{check.retries}}}"
    )


def duration(nanoseconds: int) -> str:
    """Go's way to write one: 1m30s, 1.5s, 250ms."""
    if nanoseconds < 10**9:
        for unit, name in ((10**6, "ms"), (10**3, "µs"), (1, "ns")):
            if nanoseconds >= unit:
                return f"{nanoseconds / unit:.9f}".rstrip("0").rstrip(".") + name
        return "0s"
    done = ""
    for unit, name in _UNITS:
        whole, rest = divmod(nanoseconds, unit)
        done += f"{whole}{name}" if whole or done else ""
        nanoseconds = rest
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{done}{seconds}{fraction}s"


def copied(copy: ins.Copy, sources: list[str], destination: str, owner: str, mode: str) -> str:
    """COPY and ADD with the flags that shape the result."""
    flags = "--parents " * copy.parents + "".join(
        f"--{name}={value} " for name, value in (("chown", owner), ("chmod", mode)) if value
    )
    names = [*sources, *(f"<<{each.name}" for each in copy.heredocs)]
    return f"{'ADD' if copy.add else 'COPY'} {flags}{' '.join(names)} {destination}"


def run(args: tuple[str, ...], declared: Mapping[str, str]) -> str:
    """The words of a RUN after the arguments that its stage declares: |1 NAME=VALUE /bin/sh -c …"""
    given = [f"|{len(declared)}", *(f"{name}={value}" for name, value in declared.items())] if declared else []
    return " ".join(["RUN", *given, *args])


def progress(instruction: ins.Instruction, variables: Mapping[str, str]) -> str:
    """The line as people see it while it is done: the values of variables that are set, where they are not quoted."""
    node = instruction.node
    quote = ""

    def put(match: re.Match[str]) -> str:
        nonlocal quote
        found = match[0]
        if found in ("'", '"') and quote in ("", found):
            quote = "" if quote else found
        name = match[1] or match[2]
        return found if not name or quote == "'" else variables.get(name, found)

    return _SHOWN.sub(put, f"{node.name}{instruction.text.lstrip()[len(node.written) :]}")
