"""`RUN --mount=…`: its comma-separated fields as one value. Source: the Dockerfile reference, "RUN --mount"."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cove.build.dockerfile.parser import nearest
from cove.build.dockerfile.syntax import DockerfileError, Position

_TYPES = frozenset({"bind", "cache", "tmpfs", "secret", "ssh"})
_KEYS: dict[str, frozenset[str]] = {
    "bind": frozenset("type target source from rw ro".split()),
    "cache": frozenset("type target source from rw ro id sharing mode uid gid".split()),
    "tmpfs": frozenset("type target size".split()),
    "secret": frozenset("type target source id required mode uid gid env".split()),
    "ssh": frozenset("type target id required mode uid gid".split()),
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "readonly": "ro", "readwrite": "rw"}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Asked:
    """A mount as it is written; `from_` names a stage, a context or an image."""

    type: str
    target: str
    source: str = ""
    from_: str = ""
    readonly: bool = False
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int = -1
    uid: int = 0
    gid: int = 0
    size: int = 0
    env: str = ""


def parse(text: str, position: Position, cwd: str, expand: Callable[[str], str]) -> Asked:
    """The mount that `text` asks for, each value expanded; a relative target is below `cwd`. DockerfileError."""
    rows = list(csv.reader(io.StringIO(text), strict=False))
    fields: dict[str, str] = {}
    for field in rows[0] if rows else []:
        key, equals, value = field.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if not equals and key not in ("ro", "rw", "required"):
            raise DockerfileError(f"invalid field '{field}' of --mount must be a key=value pair", position)
        if key == "from" and "$" in value[:-1]:
            raise DockerfileError("'from' doesn't support variable expansion, define alias stage instead", position)
        fields[key] = expand(value) if equals else "true"
    kind = fields.get("type", "bind").lower()
    if kind not in _TYPES:
        hint = _hint(kind, _TYPES) or "; bind, cache, tmpfs, secret and ssh are known"
        raise DockerfileError(f'unsupported mount type "{kind}"{hint}', position)
    for key in fields:
        if key not in _KEYS[kind]:
            raise DockerfileError(
                f"unexpected key '{key}' for mount type '{kind}'{_hint(key, _KEYS[kind])}", position
            )
    return _checked(kind, fields, position, cwd)


def _checked(kind: str, fields: dict[str, str], position: Position, cwd: str) -> Asked:
    target = fields.get("target", "")
    identity = fields.get("id", "")
    if kind == "secret":
        source = fields.get("source", "")
        if source and identity:
            raise DockerfileError(
                "a secret mount has either an id or a source: both source and id can't be set", position
            )
        identity = source or identity or posixpath.basename(target)
        if not identity:
            raise DockerfileError("a secret mount needs an id or a target", position)
        if not target and not fields.get("env"):
            target = f"/run/secrets/{posixpath.basename(identity)}"
    elif kind == "ssh":
        identity = identity or "default"
    elif not target:
        raise DockerfileError(f"a mount of type {kind} needs a target", position)
    if target:
        target = posixpath.normpath(posixpath.join(cwd or "/", target))
        if target == "/" and kind != "ssh":
            raise DockerfileError('invalid mount target "/"', position)
    sharing = fields.get("sharing", "shared").lower()
    if sharing not in ("shared", "private", "locked"):
        raise DockerfileError(
            f'unsupported sharing value "{sharing}"; shared, private and locked are known', position
        )
    default_mode = {"secret": 0o400, "ssh": 0o600, "cache": 0o755}.get(kind, -1)
    readonly = _true(fields, "ro") or (kind == "bind" and not _true(fields, "rw"))
    return Asked(
        type=kind,
        target=target,
        source=fields.get("source", ""),
        from_=fields.get("from", ""),
        readonly=readonly,
        id=identity or (target if kind == "cache" else ""),
        sharing=sharing,
        required=_true(fields, "required"),
        mode=_number(fields, "mode", position, 8) if "mode" in fields else default_mode,
        uid=_number(fields, "uid", position, 10),
        gid=_number(fields, "gid", position, 10),
        size=_size(fields.get("size", ""), position),
        env=fields.get("env", ""),
    )


def _hint(word: str, known: Collection[str]) -> str:
    near = nearest(word, tuple(known))
    return f" (did you mean {near}?)" if near else ""


def _true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "false").lower() in ("true", "1", "")


def _number(fields: dict[str, str], key: str, position: Position, base: int) -> int:
    text = fields.get(key, "0")
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 31:
        raise DockerfileError(f"invalid value '{text}' for {key}", position)
    return number


def _size(text: str, position: Position) -> int:
    if not text:
        return 0
    number, unit = text.rstrip("bBkKmMgG"), text[len(text.rstrip("bBkKmMgG")) :].lower()
    factor = _UNITS.get(unit.removesuffix("b") if len(unit) > 1 else unit)
    if not number.isdecimal() or factor is None:
        raise DockerfileError(f"invalid size '{text}'; write for example 64m", position)
    return int(number) * factor
