"""Ports as the API writes them: "80/tcp" as a key, bindings and summaries as values."""

from __future__ import annotations

import msgspec

from cove.wire.base import Value

PortSet = dict[str, dict[str, object] | None]
"""Keys like "80/tcp"; the values are empty objects."""


class PortBinding(Value, frozen=True, kw_only=True):
    """Where on the host a container's port is published; an empty port asks for a free one."""

    host_ip: str = ""
    host_port: str = ""


PortMap = dict[str, tuple[PortBinding, ...] | None]


class PortSummary(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `docker ps`'s PORTS; unpublished ports have no public port and no address."""

    ip: str = msgspec.field(name="IP", default="")
    private_port: int
    public_port: int = 0
    type: str
