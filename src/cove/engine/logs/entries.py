"""What a log driver is given, and what it is: entries, the container they come from, and a place to send them to."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from cove import ids
from cove.engine.containers.records import Record
from cove.errors import InvalidArgument
from cove.wire.containers import LogConfig

STDERR = 2
_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")


class Entry(msgspec.Struct, frozen=True):
    """One line without its newline, or a part of one that is too long (`partial`: more of it follows)."""

    stream: int
    time_ns: int
    data: bytes
    partial: bool = False


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The container as its log's readers know it. `attributes`: the labels and variables that the user chose."""

    id: str
    name: str
    image: str
    image_id: str
    command: str
    created_ns: int
    tag: str
    attributes: dict[str, str]


class Sink(Protocol):
    """A connection to one log server, used by one task at a time. After an OSError it is opened again."""

    async def open(self) -> None:
        """Reach the server. Raises OSError, TimeoutError among them."""

    async def send(self, entries: Sequence[Entry]) -> None:
        """Hand all of them over, in order. Raises OSError."""

    def close(self) -> None:
        """Let go of the connection, if there is one."""


def source(record: Record) -> Source:
    """What a driver tells about a container."""
    options = record.host.log_config.config
    return Source(
        id=record.id,
        name=record.name,
        image=record.image,
        image_id=record.image_id,
        command=" ".join((record.path, *record.args)),
        created_ns=record.created_ns,
        tag=tag(options.get("tag") or "{{.ID}}", record),
        attributes=attributes(record),
    )


def tag(template: str, record: Record) -> str:
    """A tag like "{{.ImageName}}/{{.Name}}"; raises InvalidArgument for what is no field."""
    fields = _fields(record)

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise _no_tag(template)
        return fields[match[1]]

    found = _FIELD.sub(value, template)
    if "{{" in _FIELD.sub("", template):
        raise _no_tag(template)
    return found


def check_tag(config: LogConfig) -> None:
    """Raise InvalidArgument for a tag that no container could have."""
    template = config.config.get("tag", "")
    if any(match[1] not in _NAMES for match in _FIELD.finditer(template)) or "{{" in _FIELD.sub("", template):
        raise _no_tag(template)


def _fields(record: Record) -> Mapping[str, str]:
    values = (
        ids.short(record.id),
        record.id,
        record.name,
        ids.short(record.image_id.partition(":")[2]),
        record.image_id,
        record.image,
        " ".join((record.path, *record.args)),
        "cove",
        socket.gethostname(),
    )
    return dict(zip(_NAMES, values, strict=True))


_NAMES = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "Command", "DaemonName", "Hostname")


def _no_tag(template: str) -> InvalidArgument:
    known = ", ".join(f"{{{{.{name}}}}}" for name in _NAMES)
    return InvalidArgument(f"invalid log opt tag '{template}': fields that there are: {known}")


def attributes(record: Record) -> dict[str, str]:
    """The labels and variables that `labels`, `labels-regex`, `env` and `env-regex` choose."""
    options = record.host.log_config.config
    variables = dict(entry.partition("=")[::2] for entry in record.config.env)
    return _chosen(record.config.labels, options, "labels") | _chosen(variables, options, "env")


def _chosen(values: Mapping[str, str], options: Mapping[str, str], kind: str) -> dict[str, str]:
    names = {name.strip() for name in options.get(kind, "").split(",")}
    pattern = pattern_of(options, kind)
    return {
        key: value
        for key, value in sorted(values.items())
        if key in names or (pattern is not None and pattern.search(key))
    }


def pattern_of(options: Mapping[str, str], kind: str) -> re.Pattern[str] | None:
    """The regular expression of `labels-regex` or `env-regex`; raises InvalidArgument."""
    text = options.get(f"{kind}-regex", "")
    if not text:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"invalid log opt {kind}-regex '{text}': {error}") from None
