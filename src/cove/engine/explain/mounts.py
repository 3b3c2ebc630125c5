"""A container's mounts and where each comes from.

Of a running container the kernel lists them (/proc/PID/mountinfo, proc_pid_mountinfo(5)), so that what it
mounted itself shows too; of another one the specification does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cove.engine.containers.records import MountRecord, Record
from cove.oci import spec as oci
from cove.runtime.messages import LENT
from cove.wire.explain import Mount

_SYSTEM = {
    "/proc": "the kernel's view of its own pid namespace",
    "/dev": "made for it: a few devices and nothing of the host's /dev",
    "/dev/pts": "terminals of its own",
    "/dev/shm": "shared memory of its own",
    "/dev/mqueue": "message queues of its own",
    "/sys": "the kernel's view of its own network namespace",
    "/sys/fs/cgroup": "its own control group",
}
_NAMES = {
    "/etc/hosts": "written by Cove at each start: its own names",
    "/etc/hostname": "written by Cove at each start: its host name",
    "/etc/resolv.conf": "written by Cove at each start: its name servers",
}
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _Seen(NamedTuple):
    """A mount as the kernel lists it."""

    destination: str
    type: str
    options: str
    file: bool = False
    """Whether something below the root of its file system is shown: a bind of a part."""


def explain(spec: oci.Spec, record: Record, layers: int, upper: str, pid: int) -> tuple[Mount, ...]:
    """In the order of their destinations. `layers` of the image; `upper`: the writable layer's directory."""
    expected = {mount.destination: mount for mount in _expected(spec, record, layers, upper)}
    seen = read(pid) if pid else []
    if not seen:
        return tuple(expected[key] for key in sorted(expected))
    masks = {*spec.linux.masked_paths, *spec.linux.readonly_paths} if spec.linux else set[str]()
    mapped = bool(record.uid_map)
    found: dict[str, Mount] = {}
    for each in seen:
        known = expected.get(each.destination) or _node(each, mapped)
        if known is None and (each.destination in masks or each.destination.startswith("/sys/fs/cgroup/")):
            continue
        writable = "ro" not in each.options.split(",")
        if known is None:
            found[each.destination] = Mount(
                destination=each.destination,
                type=each.type,
                options=each.options,
                writable=writable,
                origin=_inner(each, record),
                made_inside=not _inherited(each, record),
            )
        else:
            found[each.destination] = Mount(
                destination=each.destination,
                type=known.type,
                source=known.source,
                options=each.options,
                writable=writable,
                origin=known.origin,
            )
    return tuple(found[key] for key in sorted(found))


def _expected(spec: oci.Spec, record: Record, layers: int, upper: str) -> Iterable[Mount]:
    readonly = record.host.readonly_rootfs
    below = f"{layers} read-only layer{'' if layers == 1 else 's'} of the image {record.image}"
    yield Mount(
        destination="/",
        type="overlay",
        source="" if readonly else upper,
        writable=not readonly,
        origin=below if readonly else f"{below}, and a writable layer of its own on top",
    )
    mine = {mount.destination: mount for mount in record.mounts}
    for each in spec.mounts:
        if each.destination not in mine:
            yield Mount(
                destination=each.destination,
                type=each.type,
                source=each.source if each.type == "bind" else "",
                options=",".join(each.options),
                writable="ro" not in each.options,
                origin=_NAMES.get(each.destination) or _system(each) or "a device's vendor describes it (CDI)",
            )
    for mount in record.mounts:
        yield Mount(
            destination=mount.destination,
            type=mount.type,
            source=mount.source,
            options=",".join(mount.options),
            writable=mount.rw,
            origin=_origin(mount),
        )


def _system(mount: oci.Mount) -> str:
    if mount.type == LENT:
        return "the shared memory of the container whose IPC it joins"
    if mount.destination == "/dev/shm" and mount.type == "bind":
        return "the host's shared memory"
    return _SYSTEM.get(mount.destination, "")


def _origin(mount: MountRecord) -> str:
    if mount.type == "tmpfs":
        return "memory of its own, gone when it stops"
    if mount.type == "bind":
        return f"the host's {mount.source}"
    if mount.type == "image":
        return f"the image {mount.name}{f', {mount.subpath} in it' if mount.subpath else ''}, read-only"
    part = f", its directory {mount.subpath}" if mount.subpath else ""
    if mount.anonymous or not mount.name:
        return f"a volume of its own without a name{part}"
    return f"the volume {mount.name}{part}"


def _node(seen: _Seen, mapped: bool) -> Mount | None:
    """The terminal, and devices: in a user namespace no node can be made, so each is the host's own, bound."""
    if seen.destination == "/dev/console":
        return Mount(destination=seen.destination, type="bind", origin="its own terminal")
    if mapped and seen.destination.startswith("/dev/") and seen.type in ("devtmpfs", "tmpfs") and seen.file:
        return Mount(destination=seen.destination, type="bind", origin="this one device of the host's")
    return None


def _inherited(seen: _Seen, record: Record) -> bool:
    """Whether it came along below a bind of the host's."""
    return any(
        mount.type == "bind" and seen.destination.startswith(f"{mount.destination.rstrip('/')}/")
        for mount in record.mounts
    )


def _inner(seen: _Seen, record: Record) -> str:
    if _inherited(seen, record):
        return "came along with the bind above it"
    return "mounted by the container itself"


def read(pid: int) -> list[_Seen]:
    """The mounts that a process sees; the uppermost of each place counts."""
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return []
    return parse(text)


def parse(text: str) -> list[_Seen]:
    """Lines like "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) > 5 and rest:
            place = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            found[place] = _Seen(place, rest[0], fields[5], fields[3] != "/")
    return list(found.values())


def binds(mounts: Iterable[MountRecord]) -> Mapping[str, str]:
    """Where each directory of the host's is mounted."""
    return {mount.source: mount.destination for mount in mounts if mount.type == "bind"}
