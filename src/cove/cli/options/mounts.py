"""`-v`, `--mount` and `--tmpfs`.

-v SOURCE:TARGET[:OPTIONS] is handed to the daemon as a bind of HostConfig.Binds (a SOURCE
that begins with `.` or `~` is made absolute here, because only this side knows the directory);
-v TARGET is an anonymous volume. --mount becomes an entry of HostConfig.Mounts.
"""

from __future__ import annotations

import os

from cove.cli.flags import UsageError
from cove.cli.options.values import comma_fields, size, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_TYPES = {"bind", "volume", "tmpfs", "image", "npipe"}
_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "consistency": "consistency",
    "idmap": "idmap",
    "bind-propagation": "propagation",
    "bind-nonrecursive": "nonrecursive",
    "bind-recursive": "recursive",
    "bind-create-src": "create",
    "volume-nocopy": "nocopy",
    "volume-driver": "driver",
    "volume-subpath": "subpath",
    "image-subpath": "image-subpath",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}


def binds(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The `-v` flags as (binds, anonymous volumes)."""
    found: list[str] = []
    anonymous: list[str] = []
    for text in texts:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous.append(_target(text, text))
            continue
        target, _, options = rest.partition(":")
        if ":" in options or not source:
            raise UsageError(f"-v {text} is not of the form [SOURCE:]TARGET[:OPTIONS]")
        _target(target, text)
        if source.startswith((".", "~")):
            source = os.path.abspath(os.path.expanduser(source))
        found.append(":".join(part for part in (source, target, options) if part))
    return found, anonymous


def _target(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"in -v {text}, the path in the container {path!r} is not absolute")
    if os.path.normpath(path) == "/":
        raise UsageError(f"in -v {text}, a volume cannot take the place of the container's whole file system")
    return path


def tmpfs(texts: Iterable[str]) -> dict[str, str]:
    """`--tmpfs /run:size=64m` as {"/run": "size=64m"}."""
    found = {}
    for text in texts:
        path, _, options = text.partition(":")
        if not path.startswith("/"):
            raise UsageError(f"in --tmpfs {text}, the path {path!r} is not absolute")
        found[path] = options
    return found


def mount(text: str) -> dict[str, Any]:
    """One `--mount` as the API's Mount."""
    fields: dict[str, str] = {}
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    for key, value in comma_fields(text, "mount").items():
        if key in {"volume-opt", "volume-label"}:
            name, _, setting = value.partition("=")
            (options if key == "volume-opt" else labels)[name] = setting
        elif key in _KEYS:
            fields[_KEYS[key]] = value
        else:
            raise UsageError(f"--mount {text}: there is no field {key!r}; use type, source, target, readonly, …")
    kind = fields.get("type", "volume")
    source, target = fields.get("source", ""), fields.get("target", "")
    if kind not in _TYPES:
        raise UsageError(f"--mount {text}: the type {kind!r} is not bind, volume, tmpfs or image")
    if not target:
        raise UsageError(f"--mount {text}: target=PATH is missing")
    if kind == "bind" and source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))
    if kind == "tmpfs" and source:
        raise UsageError(f"--mount {text}: a tmpfs has no source")
    entry: dict[str, Any] = {"Type": kind, "Target": target}
    if source:
        entry["Source"] = source
    if "readonly" in fields and truth(fields["readonly"], "mount"):
        entry["ReadOnly"] = True
    if "idmap" in fields and truth(fields["idmap"], "mount"):
        entry["Idmap"] = True
    if fields.get("consistency"):
        entry["Consistency"] = fields["consistency"]
    details = _details(kind, fields, options, labels, text)
    if details:
        entry[_DETAILS[kind]] = details
    return entry


_DETAILS = {
    "bind": "BindOptions",
    "volume": "VolumeOptions",
    "tmpfs": "TmpfsOptions",
    "image": "ImageOptions",
    "npipe": "BindOptions",
}
_BELONGS = {
    "bind": {"propagation", "nonrecursive", "recursive", "create"},
    "volume": {"nocopy", "driver", "subpath"},
    "tmpfs": {"size", "mode"},
    "image": {"image-subpath"},
    "npipe": set[str](),
}


def _details(
    kind: str, fields: dict[str, str], options: dict[str, str], labels: dict[str, str], text: str
) -> dict[str, Any]:
    """The options of the mount's own type; a field of another type is refused."""
    special = set(fields) & set().union(*_BELONGS.values())
    foreign = special - _BELONGS[kind]
    if foreign or ((options or labels) and kind != "volume"):
        name = min(foreign) if foreign else "volume-opt"
        raise UsageError(f"--mount {text}: the field {name!r} does not belong to a mount of type {kind}")
    details: dict[str, Any] = {}
    if "propagation" in fields:
        details["Propagation"] = fields["propagation"]
    if "nonrecursive" in fields:
        details["NonRecursive"] = truth(fields["nonrecursive"], "mount")
    if "create" in fields:
        details["CreateMountpoint"] = truth(fields["create"], "mount")
    if "recursive" in fields:
        details |= _recursive(fields["recursive"], text)
    if "nocopy" in fields:
        details["NoCopy"] = truth(fields["nocopy"], "mount")
    if "subpath" in fields or "image-subpath" in fields:
        details["Subpath"] = fields.get("subpath") or fields["image-subpath"]
    if labels:
        details["Labels"] = labels
    if "driver" in fields or options:
        details["DriverConfig"] = {"Name": fields.get("driver", ""), "Options": options}
    if "size" in fields:
        details["SizeBytes"] = size(fields["size"], "mount")
    if "mode" in fields:
        try:
            details["Mode"] = int(fields["mode"], 8)
        except ValueError:
            raise UsageError(f"--mount {text}: {fields['mode']!r} is no mode in octal") from None
    return details


def _recursive(text: str, whole: str) -> dict[str, bool]:
    known = {
        "enabled": {},
        "disabled": {"NonRecursive": True},
        "writable": {"ReadOnlyNonRecursive": True},
        "readonly": {"ReadOnlyForceRecursive": True},
    }
    if text not in known:
        raise UsageError(f"--mount {whole}: bind-recursive is enabled, disabled, writable or readonly, not {text!r}")
    return known[text]
