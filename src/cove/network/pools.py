"""The addresses of all networks of a daemon: what each may give, and what it has given.

    complete(network) ──▶ learn ──▶ reserve(request) ──▶ … ──▶ give_back(endpoint) ──▶ forget(network)

The drivers that give addresses share it, so that no two networks have one subnet, whatever their kinds.
In memory only; after a daemon's start `retake` learns what running containers hold.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import msgspec

from cove.errors import Conflict, InvalidArgument, NotFound
from cove.kernel import netlink
from cove.network import ipam
from cove.network.driver import Address, Endpoint, EndpointRequest, Network


class Pools:
    """Its callers see to it that one thread at a time is in it, by its `lock`."""

    def __init__(self, instance: str, pools: Sequence[ipam.AddressPool] = ()) -> None:
        """`instance`: the daemon's. `pools`: where subnets of networks that name none come from."""
        self.lock = threading.RLock()
        self._instance = instance
        self._chosen_from = pools
        self._networks: dict[str, Network] = {}
        self._pools: dict[str, list[ipam.Pool]] = {}

    def of(self, driver: str) -> list[Network]:
        """The networks of a driver."""
        return [each for each in self._networks.values() if each.driver == driver]

    def complete(self, network: Network, *, link: str = "", default: bool = False) -> Network:
        """The network with its subnets, chosen where it names none: not of other networks, nor of the host's routes.

        `link`: its own, whose routes are in nobody's way. Where it is empty the network has a subnet of the host's
        if it names that, for its containers are beside the host.
        """
        others = [
            ipam.parse_network(each.subnet)
            for other in self._networks.values()
            if other.id != network.id
            for each in other.subnets
        ]
        routed = host_subnets(ignore=link)
        subnets = ipam.complete(
            network,
            instance=self._instance,
            default=default,
            taken=others + routed if link else others,
            routed=routed,
            pools=self._chosen_from,
        )
        return msgspec.structs.replace(network, subnets=subnets, ipv6=any(subnet.version == 6 for subnet in subnets))

    def learn(self, network: Network) -> None:
        """Idempotent: what is given of a known network stays given."""
        self._networks[network.id] = network
        if network.id not in self._pools:
            self._pools[network.id] = [
                ipam.Pool(subnet, reserved=network.reserved.values()) for subnet in network.subnets
            ]

    def rewrite(self, network: Network) -> None:
        """A known network's options are others."""
        if network.id in self._networks:
            self._networks[network.id] = network

    def forget(self, network: Network) -> None:
        """Conflict while an address is given."""
        if self.in_use(network):
            raise Conflict(f"The network {network.name} has active endpoints; stop or disconnect its containers")
        self._networks.pop(network.id, None)
        self._pools.pop(network.id, None)

    def in_use(self, network: Network) -> bool:
        return any(pool.in_use for pool in self._pools.get(network.id, ()))

    def reserve(self, network: Network, request: EndpointRequest) -> dict[int, Address]:
        """An address of each family, 4 and 6, that the network has. Conflict when none is left or it is taken."""
        if network.id not in self._pools:
            raise NotFound(f"No such network: {network.name}")
        chosen: dict[int, Address] = {}
        full: Conflict | None = None
        pools = [each for each in self._pools[network.id] if each.network.version == 4 or not request.without_ipv6]
        if not pools and self._pools[network.id]:
            raise InvalidArgument(
                f"The network {network.name} has IPv6 alone, which the container's sysctls switch off"
            )
        with ExitStack() as undo:
            for pool in pools:
                version = pool.network.version
                wanted = request.ipv4 if version == 4 else request.ipv6
                if version in chosen or (wanted and ipam.parse_address(wanted) not in pool.network):
                    continue
                try:
                    address = pool.allocate(wanted)
                except Conflict as error:
                    if wanted:
                        raise
                    full = error  # another subnet of this family may have room
                    continue
                undo.callback(pool.release, address)
                chosen[version] = Address(address=address, prefix=pool.network.prefixlen)
            _require(network, request, chosen, full)
            undo.pop_all()
        return chosen

    def give_back(self, endpoint: Endpoint) -> None:
        """Idempotent."""
        for pool in self._pools.get(endpoint.network_id, ()):
            for each in endpoint.addresses:
                if ipam.parse_address(each.address) in pool.network:
                    pool.release(each.address)

    def retake(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        """Know what endpoints hold already."""
        for each in (address for endpoint in endpoints for address in endpoint.addresses):
            for pool in self._pools[network.id]:
                if ipam.parse_address(each.address) in pool.network:
                    pool.learn(each.address)


def _require(network: Network, request: EndpointRequest, chosen: dict[int, Address], full: Conflict | None) -> None:
    versions = {subnet.version for subnet in network.subnets}
    for version, wanted in ((4, request.ipv4), (6, request.ipv6)):
        if version in chosen:
            continue
        if wanted:
            raise InvalidArgument(f"The address {wanted} is in no subnet of the network {network.name}")
        if version in versions and full is not None:
            raise full


def own_subnets() -> list[ipam.IPNetwork]:
    """Those that the host has an address in, whatever it routes elsewhere."""
    with netlink.Route() as route:
        return [ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False) for each in route.addresses()]


def host_subnets(*, ignore: str) -> list[ipam.IPNetwork]:
    """What the host routes or has addresses in, default routes and the link `ignore` apart.

    Every link has fe80::/64 of its own, which therefore collides with nothing.
    """
    with netlink.Route() as route:
        own = route.link(ignore)
        skip = own.ifindex if own else -1
        found = [
            ipam.parse_network(f"{each.destination}/{each.prefix}")
            for each in route.routes()
            if each.prefix and each.ifindex != skip
        ]
        found += [
            ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False)
            for each in route.addresses()
            if each.ifindex != skip
        ]
    return [each for each in found if not (each.version == 6 and each.is_link_local)]
