"""Published ports in the API's words ("80/tcp", "8080-8090") and in the network's.

Pure: reads what was asked for, renders what came of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

from cove.engine.containers.records import Record
from cove.engine.context import Settings
from cove.engine.isolation.security import is_hardened
from cove.errors import InvalidArgument
from cove.network.driver import PortBinding, Protocols
from cove.wire import ports as wire

_LOOPBACK = "127.0.0.1"
_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> tuple[int, Protocols]:
    """Read "80/tcp" or "80"; raises InvalidArgument."""
    number, _, proto = text.partition("/")
    proto = (proto or "tcp").lower()
    if proto not in _PROTOCOLS:
        raise InvalidArgument(f"invalid protocol in port specification: {text}")
    if not number.isdecimal() or not 1 <= int(number) <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return int(number), cast(Protocols, proto)


def _host_port(text: str) -> tuple[int, int]:
    """First and last port of "", "8080" or "8080-8090"; 0 asks for any free one."""
    first, dash, last = text.partition("-")
    if not text:
        return 0, 0
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise InvalidArgument(f'invalid port specification: "{text}"')
    low, high = int(first), int(last) if dash else 0
    if low > 65535 or high > 65535 or (dash and high < low):
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return low, high


def requested(record: Record, settings: Settings, binding: str = "") -> tuple[PortBinding, ...]:
    """Every binding that a container asks for; those of -P are any free ports for what it exposes.

    `binding`: the host's address that its network publishes on, where the container names none.
    """
    default = default_address(record, settings, binding)
    found = list(bindings_of(record.host.port_bindings, default))
    if record.host.publish_all_ports:
        bound = {(binding.container_port, binding.proto) for binding in found}
        for key in record.config.exposed_ports:
            port, proto = parse_port(key)
            if (port, proto) not in bound:
                found.append(PortBinding(container_port=port, proto=proto, host_ip=default))
    return tuple(found)


def default_address(record: Record, settings: Settings, binding: str = "") -> str:
    """The host's address on which ports are published that name none; "" for every one."""
    default = _LOOPBACK if is_hardened(record.host) else binding or settings.publish_address
    return "" if default == "0.0.0.0" else default


def bindings_of(ports: wire.PortMap, default: str) -> tuple[PortBinding, ...]:
    """The bindings that a PortMap asks for; `default`: the address where one names none."""
    found: list[PortBinding] = []
    for key, bindings in ports.items():
        port, proto = parse_port(key)
        for asked in bindings or (wire.PortBinding(),):
            low, high = _host_port(asked.host_port)
            host_ip = asked.host_ip or default
            found.append(
                PortBinding(container_port=port, proto=proto, host_ip=host_ip, host_port=low, host_port_end=high)
            )
    return tuple(found)


def scope_of(record: Record, settings: Settings) -> str:
    """Who may come to a container's published ports: "public", "lan" or "local"."""
    return record.host.expose_to or settings.expose_to


def port_map(exposed: Iterable[str], published: Iterable[PortBinding]) -> wire.PortMap:
    """As inspect shows it: exposed ports without a binding are null."""
    bindings: dict[str, list[wire.PortBinding]] = defaultdict(list)
    for each in published:
        key = f"{each.container_port}/{each.proto}"
        port = str(each.host_port) if each.host_port else ""
        bindings[key].append(wire.PortBinding(host_ip=each.host_ip, host_port=port))
    shown: wire.PortMap = dict.fromkeys(exposed)
    shown.update({key: tuple(each) for key, each in bindings.items()})
    return shown


def summary(exposed: Iterable[str], published: Iterable[PortBinding]) -> tuple[wire.PortSummary, ...]:
    """As `docker ps` shows it."""
    shown = [
        wire.PortSummary(
            ip=each.host_ip, private_port=each.container_port, public_port=each.host_port, type=each.proto
        )
        for each in published
    ]
    bound = {(each.private_port, each.type) for each in shown}
    for key in exposed:
        port, proto = parse_port(key)
        if (port, proto) not in bound:
            shown.append(wire.PortSummary(private_port=port, type=proto))
    return tuple(shown)
