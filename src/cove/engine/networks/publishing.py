"""Published ports of a container that exists, changed by `update`: at once if it runs, and for its next start.

What is removed goes first, so that a port can change its meaning in one step; if what is added cannot be had,
everything is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cove.engine.containers.records import Record
from cove.engine.containers.registry import Container
from cove.engine.networks.attachments import Attachments, published
from cove.engine.networks.ports import bindings_of, parse_port
from cove.errors import Conflict, InvalidArgument, NotFound
from cove.network.driver import PortBinding
from cove.wire.containers import UpdateRequest
from cove.wire.ports import PortBinding as Wanted
from cove.wire.ports import PortMap


def changed(record: Record, body: UpdateRequest) -> Record:
    """The record with other ports. NotFound for one that is not published, InvalidArgument for a wrong one."""
    ports: dict[str, tuple[Wanted, ...] | None] = dict(record.host.port_bindings)
    for key, unwanted in body.publish_rm.items():
        key = _key(key)
        if key not in ports:
            raise NotFound(f"the container {record.name} publishes no port {key}")
        kept = tuple(each for each in ports[key] or () if unwanted and not _any(each, unwanted))
        if unwanted and len(kept) == len(ports[key] or ()):
            raise NotFound(f"the container {record.name} does not publish its port {key} there")
        if kept:
            ports[key] = kept
        else:
            del ports[key]
    for key, wanted in body.publish_add.items():
        ports[_key(key)] = (*(ports.get(_key(key)) or ()), *(wanted or (Wanted(),)))
    host = msgspec.structs.replace(record.host, port_bindings=ports)
    return msgspec.structs.replace(record, host=host)


def change(attachments: Attachments, container: Container, body: UpdateRequest) -> Record:
    """Change the ports of a container, which the caller has locked; the record it shall have from now on."""
    record = changed(container.record, body)
    if record.host.network_mode == "host":
        raise InvalidArgument("a container on the host's network publishes no ports: it listens on the host itself")
    if not container.facts.running:
        return record
    attached = container.facts.attached
    endpoint = published(attached.endpoints)
    if endpoint is None:
        raise Conflict(f"the container {container.name} is on no network that could lead a published port to it")
    gone = _matching(attached.ports, body.publish_rm)
    attachments.withdraw(container, gone)
    try:
        attachments.extend(container, bindings_of(body.publish_add, attachments.default_address(record, endpoint)))
    except BaseException:
        attachments.extend(container, gone)
        raise
    return record


def _matching(bindings: Iterable[PortBinding], unwanted: PortMap) -> tuple[PortBinding, ...]:
    """The held bindings that `unwanted` names."""
    found = []
    for binding in bindings:
        asked = unwanted.get(f"{binding.container_port}/{binding.proto}", ())
        if f"{binding.container_port}/{binding.proto}" in unwanted and (not asked or _any(_shown(binding), asked)):
            found.append(binding)
    return tuple(found)


def _shown(binding: PortBinding) -> Wanted:
    host_ip = "" if binding.host_ip in ("0.0.0.0", "::") else binding.host_ip
    return Wanted(host_ip=host_ip, host_port=str(binding.host_port))


def _any(binding: Wanted, asked: Iterable[Wanted]) -> bool:
    """Whether one of `asked` means this binding; what it leaves out fits anything."""
    return any(
        (not each.host_port or each.host_port == binding.host_port)
        and (not each.host_ip or each.host_ip in (binding.host_ip, "0.0.0.0"))
        for each in asked
    )


def _key(text: str) -> str:
    port, proto = parse_port(text)
    return f"{port}/{proto}"
