"""A network as the API shows it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from msgspec import UNSET

from cove.engine.containers.records import DEFAULT, NetworkRecord
from cove.engine.containers.registry import Container
from cove.engine.networks.status import status
from cove.network import options
from cove.network.driver import Network
from cove.wire import networks as wire
from cove.wire.times import stamp

_DRIVERS = {"none": "null"}
"""What the API calls those that it does not call by their names."""


def name_of_driver(driver: str) -> str:
    """What the API calls it."""
    return _DRIVERS.get(driver, driver)


def names_of_drivers(drivers: Iterable[str]) -> list[str]:
    """What the API calls them."""
    return [name_of_driver(name) for name in drivers]


def endpoint_id(container: str, network: str) -> str:
    """The identity of a container's place on a network: as long as both last, always the same."""
    return f"{int(container, 16) ^ int(network, 16):064x}"


def network(record: NetworkRecord, users: Sequence[Container] | None) -> wire.Network:
    """The whole of a network; for None without its containers and how full it is."""
    found = record.network
    return wire.Network(
        name=found.name,
        id=found.id,
        created=stamp(record.created_ns),
        driver=name_of_driver(found.driver),
        enable_ipv4=found.ipv4,
        enable_ipv6=found.ipv6,
        ipam=wire.IPAM(config=_pools(found)),
        internal=found.internal,
        attachable=found.attachable,
        config_only=found.config_only,
        config_from=wire.ConfigReference(network=found.config_from),
        options={**(_usual(found) if found.name == DEFAULT else {}), **found.options},
        labels=found.labels,
        containers=UNSET if users is None else {user.id: _place(user, found) for user in users},
        status=UNSET if users is None else status(found, [user.facts.attached.endpoints[found.id] for user in users]),
    )


def _pools(network: Network) -> tuple[wire.IPAMConfig, ...]:
    return tuple(
        wire.IPAMConfig(
            subnet=pool.subnet,
            gateway=pool.gateway,
            ip_range=pool.ip_range,
            auxiliary_addresses=_reserved(network, pool.subnet),
        )
        for pool in network.subnets
    )


def _reserved(network: Network, subnet: str) -> dict[str, str]:
    within = ipaddress.ip_network(subnet)
    return {name: at for name, at in network.reserved.items() if ipaddress.ip_address(at) in within}


def _place(user: Container, network: Network) -> wire.EndpointResource:
    endpoint = user.facts.attached.endpoints[network.id]
    return wire.EndpointResource(
        name=user.name,
        endpoint_id=endpoint_id(user.id, network.id),
        mac_address=endpoint.mac,
        ipv4_address=f"{endpoint.ipv4.address}/{endpoint.ipv4.prefix}" if endpoint.ipv4 else "",
        ipv6_address=f"{endpoint.ipv6.address}/{endpoint.ipv6.prefix}" if endpoint.ipv6 else "",
    )


def _usual(network: Network) -> dict[str, str]:
    """How the default network is, which nobody made with options; others show those that they were made with."""
    read = options.bridge(network.options, internal=network.internal)
    bridge = "com.docker.network.bridge."
    return {
        f"{bridge}default_bridge": "true",
        f"{bridge}enable_icc": str(read.together).lower(),
        f"{bridge}enable_ip_masquerade": str(read.masquerade).lower(),
        f"{bridge}host_binding_ipv4": read.host_binding or "0.0.0.0",
        f"{bridge}name": network.link,
        "com.docker.network.driver.mtu": str(network.mtu),
    }
