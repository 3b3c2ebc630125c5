"""RUN --device: which of the host's devices (CDI) a program asks for, and whether it may have them.

    NAME[,required]    NAME: vendor.com/class=device · vendor.com/class=* · vendor.com/class, the first · a group

A device may be had with the entitlement `device`, or `device=NAME` for those that a name means; and without any when
an annotation in its file says so. Source: BuildKit's docs/cdi.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cove.build.dockerfile.syntax import DockerfileError, Position

_GROUP, _FREE = "org.mobyproject.buildkit.device.class", "org.mobyproject.buildkit.device.autoallow"
"""Annotations of a device: what it may be asked for by besides its name, and that every build may have it."""

_ENTITLEMENT = "device"


@dataclass(frozen=True, slots=True)
class Device:
    """One of the host's: its full name, the group that it is asked for by, and whether every build may have it."""

    name: str
    group: str = ""
    free: bool = False

    @classmethod
    def of(cls, name: str, annotations: Mapping[str, str]) -> Device:
        """A device as its file's annotations have it."""
        return cls(name, annotations.get(_GROUP, ""), annotations.get(_FREE, "").lower() in ("true", "1", "t"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What one --device asks for."""

    name: str
    required: bool = False


def granted(
    texts: Iterable[str], known: tuple[Device, ...], entitlements: frozenset[str], position: Position
) -> tuple[str, ...]:
    """The full names of what is asked for; DockerfileError for what has to be there and is not, or is not allowed."""
    found: dict[str, Device] = {}
    for asked in (parse(text, position) for text in texts):
        meant = _meant(asked.name, known)
        if not meant and asked.required:
            raise DockerfileError(
                f'required device "{asked.name}" is not registered: no CDI file of this host describes it', position
            )
        found |= {device.name: device for device in meant}
    if _ENTITLEMENT in entitlements:
        return tuple(found)
    allowed = {
        device.name
        for each in entitlements
        if each.startswith(f"{_ENTITLEMENT}=")
        for device in _meant(each.partition("=")[2], known)
    }
    forbidden = [name for name, device in found.items() if not device.free and name not in allowed]
    if forbidden:
        raise DockerfileError(
            f"device {', '.join(forbidden)} is requested by the build but not allowed; grant it with "
            f"--allow device={forbidden[0]}, or all with --allow device",
            position,
        )
    return tuple(found)


def parse(text: str, position: Position) -> Asked:
    """The words of a --device; raises DockerfileError."""
    name, required = "", False
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if key.lower() == "required":
            if equals and value.lower() not in ("true", "false", "1", "0", "t", "f"):
                raise DockerfileError(f"invalid value for required: {value}", position)
            required = not equals or value.lower() in ("true", "1", "t")
        elif key.lower() == "name" and equals:
            if name:
                raise DockerfileError(f"device name already set to {name}", position)
            name = value
        elif not name:
            name = field
        elif equals:
            raise DockerfileError(f"unexpected key '{key}' in '{field}': name and required are known", position)
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair", position)
    return Asked(name, required)


def _meant(name: str, known: tuple[Device, ...]) -> list[Device]:
    """The devices of a name, else those of a group."""
    kind, _, device = name.partition("=")
    found: list[Device] = []
    if "/" in kind:
        of_kind = [each for each in known if each.name.partition("=")[0] == kind]
        if device in ("", "*"):
            found = of_kind if device else of_kind[:1]
        else:
            found = [each for each in of_kind if each.name == name]
    return found or [each for each in known if each.group == name]
