"""Directories and files of the host, shown in a container: `-v /host:/there:ro` and `--mount type=bind`.

Owns the syntax of a bind and the checks of its source. The source is the administrator's word, so it is
followed as the host sees it; the destination is resolved by the runtime inside the container's root.
"""

from __future__ import annotations

import os
import posixpath
import re

import msgspec

from cove.errors import Internal, InvalidArgument, describe
from cove.oci.spec import Mount

PROPAGATIONS = frozenset({"shared", "rshared", "slave", "rslave", "private", "rprivate"})


class BindText(msgspec.Struct, frozen=True):
    """One `-v`: `source` "" for an anonymous volume, a name, or an absolute path of the host."""

    source: str
    destination: str
    mode: str
    rw: bool = True
    propagation: str = ""
    copy: bool = True
    idmap: bool = False

    @property
    def is_path(self) -> bool:
        return self.source.startswith("/")


def parse(text: str) -> BindText:
    """Read "[source:]destination[:mode,…]"; raises InvalidArgument."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"invalid volume specification: '{text}'; write [source:]destination[:mode]")
    source, destination, mode = ("", parts[0], "") if len(parts) == 1 else (*parts[:2], parts[2] if parts[2:] else "")
    if source.startswith((".", "~")) or ("/" in source and not source.startswith("/")):
        raise InvalidArgument(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    words = [word for word in mode.split(",") if word]
    _check_words(text, words)
    if "nocopy" in words and source.startswith("/"):
        raise InvalidArgument(f"invalid mode: nocopy in volume specification '{text}': only volumes are filled")
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    if propagation and not source.startswith("/"):
        raise InvalidArgument(f"invalid volume specification: '{text}': propagation is for directories of the host")
    return BindText(
        source=clean(source) if source.startswith("/") else source,
        destination=check_destination(destination, text),
        mode=mode,
        rw="ro" not in words,
        propagation=propagation,
        copy="nocopy" not in words,
        idmap="idmap" in words,
    )


def _check_words(text: str, words: list[str]) -> None:
    known = PROPAGATIONS | {"ro", "rw", "z", "Z", "nocopy", "idmap", "cached", "delegated", "consistent"}
    for word in words:
        if word not in known:
            raise InvalidArgument(f"invalid mode: {word} in volume specification '{text}'")
    if {"ro", "rw"} <= set(words) or sum(word in PROPAGATIONS for word in words) > 1:
        raise InvalidArgument(f"invalid mode: {','.join(words)}: it contradicts itself")


def clean(path: str) -> str:
    """A path without ".", ".." and doubled slashes; it stays absolute."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def check_destination(destination: str, text: str) -> str:
    """A cleaned absolute path inside the container; raises InvalidArgument."""
    if not destination.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid mount path: '{destination}' mount path must be absolute"
        )
    cleaned = clean(destination)
    if cleaned == "/":
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid specification: destination can't be '/'"
        )
    return cleaned


def check_source(source: str, *, make: bool) -> None:
    """See that a bind's source is there, or make it a directory as `-v` does; raises CoveError."""
    if os.path.exists(source):
        return
    if not make:
        raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {source}')
    try:
        os.makedirs(source, mode=0o755, exist_ok=True)
    except OSError as error:
        raise Internal(f"error while creating mount source path '{source}': {describe(error)}") from error


def propagation(told: str, source: str, data: str) -> str:
    """What a bind's propagation is: as told, or private. Raises InvalidArgument.

    Docker's rule, which clients know: a bind that holds the data root `data`, or lies in it, passes mounts on.
    """
    if not _related(source, data):
        return told or "rprivate"
    if told not in ("", "rslave", "rshared"):
        raise InvalidArgument(
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is '
            f'within the daemon root, daemon root: "{data}", bind mount source: "{source}", propagation: "{told}"'
        )
    return told or "rslave"


def _related(source: str, data: str) -> bool:
    """Whether one of two directories is the other or lies in it."""
    short, long = sorted((f"{source.rstrip('/')}/", f"{data}/"), key=len)
    return long.startswith(short)


def check_propagation(source: str, propagation: str, data: str) -> None:
    """See that what lies below a bind's source can pass to or fro; raises InvalidArgument.

    A mount that is private itself shares nothing (mount_namespaces(7)), whatever its copy in the container were.
    """
    kind = propagation.removeprefix("r")
    if kind not in ("shared", "slave") or (kind == "slave" and _related(source, data)):
        return
    point, peers = _mount_of(os.path.realpath(source))
    if not any(peer.startswith("shared:") or (kind == "slave" and peer.startswith("master:")) for peer in peers):
        needed = "a shared" if kind == "shared" else "a shared or slave"
        raise InvalidArgument(f"path {source} is mounted on {point} but it is not {needed} mount")


def _mount_of(path: str) -> tuple[str, list[str]]:
    """The mount point that `path` lies below, and the mount's optional fields (proc_pid_mountinfo(5))."""
    best, peers = "", list[str]()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            if len(point) >= len(best) and f"{path}/".startswith(f"{point.rstrip('/')}/"):
                best, peers = point, fields[6 : fields.index("-")]
    return best, peers


def mount(source: str, destination: str, *, access: str, propagation: str, recursive: bool = True) -> Mount:
    """The bind mount of a host's path; `access` is "rw", "ro", or "rro" for all mounts below it too."""
    kind = "rbind" if recursive else "bind"
    return Mount(
        destination=destination,
        source=source,
        type="bind",
        options=(kind, access, propagation or "rprivate"),
    )
