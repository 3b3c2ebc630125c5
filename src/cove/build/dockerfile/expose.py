"""EXPOSE: the ports that a word means."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile.syntax import DockerfileError

if TYPE_CHECKING:
    from cove.build.dockerfile.plan import _Planner

_PORT = re.compile(
    r"(?:(?:(?P<ip>.*):)?(?P<host>[0-9-]*):)?(?P<port>[0-9]+(?:-[0-9]+)?)(?:/(?P<proto>\w*))?", re.ASCII
)


def exposed(planner: _Planner, at: ins.Expose, words: list[str]) -> list[str]:
    """Each port as NUMBER/PROTOCOL; an address or a host's port in front is told of and left out."""
    found: list[str] = []
    for word in words:
        match = _PORT.fullmatch(word)
        if match is None:
            raise DockerfileError(f"invalid containerPort: {word}", at.position)
        protocol = match["proto"] or "tcp"
        if protocol != protocol.lower():
            message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
            planner.warn(at, "ExposeProtoCasing", message)
        if match["ip"] or match["host"]:
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
            planner.warn(at, "ExposeInvalidFormat", message)
        first, last = _range(match["port"], word, at)
        if match["host"]:
            lowest, highest = _range(match["host"], word, at)
            if first != last and highest - lowest != last - first:
                raise DockerfileError(f"invalid ranges specified for container and host Ports: {word}", at.position)
        _check_address(match["ip"], at)
        if protocol.lower() not in ("tcp", "udp", "sctp"):
            raise DockerfileError(f"invalid port: {word!r}: invalid proto: {protocol}", at.position)
        found += [f"{port}/{protocol.lower()}" for port in range(first, last + 1)]
    return found


def _range(text: str, word: str, at: ins.Expose) -> tuple[int, int]:
    start, _, end = text.partition("-")
    if not start.isdecimal() or (end and not end.isdecimal()):
        raise DockerfileError(f"invalid containerPort: {word}", at.position)
    first, last = int(start), int(end or start)
    if not 0 <= first <= last <= 65535:
        raise DockerfileError(f"invalid containerPort: {word}", at.position)
    return first, last


def _check_address(text: str | None, at: ins.Expose) -> None:
    try:
        if text:
            ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise DockerfileError(f"invalid IP address: {text}", at.position) from None
