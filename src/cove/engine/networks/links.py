"""Links between containers of the default network, which has no names of its own: lines in /etc/hosts, variables.

They are made at start from the targets as they are then; the lines follow a target that starts again. On users'
networks a link is a name that the resolver knows (`naming`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from cove import ids
from cove.engine.containers.records import DEFAULT, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.networks.naming import link
from cove.engine.networks.ports import parse_port
from cove.errors import Conflict, CoveError, InvalidArgument, NotFound


class Linked(NamedTuple):
    """One container as another one sees it through a link."""

    alias: str
    container: Container
    address: str


def find(registry: Registry, ref: str) -> Container:
    """The container that `ref` means, which may be CONTAINER/ALIAS: whom one is linked to under that name."""
    owner, slash, alias = ref.strip("/").partition("/")
    if not slash:
        return registry.find(ref)
    for name, target in _wanted(registry.find(owner).record):
        if name == alias:
            return registry.find(target)
    raise NotFound(f"No such container: {ref}")


def check(registry: Registry, record: Record) -> None:
    """At creation: every target exists. Raises InvalidArgument."""
    for _, target in _wanted(record):
        try:
            found = registry.find(target)
        except NotFound:
            raise InvalidArgument(f"could not get container for {target}: No such container: {target}") from None
        if found.record.host.network_mode == "host":
            raise InvalidArgument(
                "conflicting options: host type networking can't be used with links. This would result in undefined "
                "behavior"
            )


def shown(registry: Registry, record: Record) -> tuple[str, ...] | None:
    """As an inspection tells them: "/TARGET:/NAME/ALIAS"."""
    found = []
    for alias, target in _wanted(record):
        try:
            target = registry.find(target).name
        except NotFound:
            pass  # it was removed since
        found.append(f"/{target}:/{record.name}/{alias}")
    return tuple(found) or record.host.links


def resolved(registry: Registry, record: Record) -> list[Linked]:
    """At start: every target and its address. Conflict when one does not run."""
    found = []
    for alias, target in _wanted(record):
        container = registry.find(target)
        if not container.facts.running:
            raise Conflict(f"Cannot link to a non running container: /{container.name} AS /{record.name}/{alias}")
        found.append(Linked(alias, container, _address(container)))
    return found


def present(registry: Registry, record: Record) -> list[Linked]:
    """Later: those of the targets that run."""
    found = []
    for alias, target in _wanted(record):
        with suppress(NotFound):
            container = registry.find(target)
            if container.facts.running:
                found.append(Linked(alias, container, _address(container)))
    return found


def to(registry: Registry, target: Container) -> Iterator[tuple[Container, Linked]]:
    """Who runs and is linked to a container that runs, and how."""
    for container in registry:
        if container.record.host.links and container.facts.running:
            for each in present(registry, container.record):
                if each.container is target:
                    yield container, each


def _address(container: Container) -> str:
    endpoints = container.facts.attached.endpoints.values()
    return next((each.ipv4.address for each in endpoints if each.ipv4 is not None), "")


def names(registry: Registry) -> dict[str, list[str]]:
    """What linked containers are called through their links, as "/who/alias", by their identity."""
    found: dict[str, list[str]] = {}
    for container in registry:
        for alias, target in _wanted(container.record):
            with suppress(CoveError):
                found.setdefault(registry.find(target).id, []).append(f"/{container.name}/{alias}")
    return found


def hosts(links: list[Linked]) -> tuple[str, ...]:
    """Lines of /etc/hosts, as "names:address"."""
    lines = []
    for alias, container, address in links:
        names = dict.fromkeys((alias, container.record.config.hostname or ids.short(container.id), container.name))
        lines += [f"{name}={address}" for name in names if address]
    return tuple(lines)


def variables(name: str, links: list[Linked]) -> tuple[str, ...]:
    """Environment variables that say where a linked container's ports are."""
    found: list[str] = []
    for alias, container, address in links:
        prefix = alias.upper().replace("-", "_").replace(".", "_")
        ports = sorted(parse_port(each) for each in container.record.config.exposed_ports)
        if ports:
            found.append(f"{prefix}_PORT={ports[0][1]}://{address}:{ports[0][0]}")
        for port, proto in ports:
            key = f"{prefix}_PORT_{port}_{proto.upper()}"
            found += [f"{key}={proto}://{address}:{port}", f"{key}_ADDR={address}"]
            found += [f"{key}_PORT={port}", f"{key}_PROTO={proto}"]
        found.append(f"{prefix}_NAME=/{name}/{alias}")
        found += [f"{prefix}_ENV_{each}" for each in container.record.config.env if not each.startswith("PATH=")]
    return tuple(found)


def _wanted(record: Record) -> list[tuple[str, str]]:
    """(alias, target) of a container that was made for the default network and is on it."""
    there = record.host.network_mode == DEFAULT and DEFAULT in record.endpoints
    return [link(each) for each in record.host.links or ()] if there else []
