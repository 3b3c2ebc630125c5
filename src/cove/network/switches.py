"""A network's bridge and the further ones it gets when it has more containers than one bridge has ports.

    primary bridge (the gateway's address) ══ trunk ══ switch 1 ── containers
                │                          ══ trunk ══ switch 2 ── containers
                └── containers

A Linux bridge has 1,023 ports. Beyond a thousand containers a network gets another bridge, tied to the primary
one by a veth pair. The host itself is on the primary alone: a switch has no address, answers for none of the
host's and routes nothing, so that routes, rules and the gateway are the primary's. Where containers must not
meet, a trunk is an isolated port of the primary: nothing passes from switch to switch.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from contextlib import ExitStack

from cove.errors import Conflict
from cove.kernel import netlink, sysctl
from cove.network.driver import Endpoint, Network
from cove.network.links import delete_link
from cove.network.options import SWITCH_PREFIX

CAPACITY = 1000
"""Containers on one bridge; what is left of its ports is for trunks."""
_MOST = 20
_NUMBERS = "0123456789abcdefghijklmnop"


class Switches:
    """Which container is on which bridge of its network. Its caller sees to it that one thread at a time is in it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._places: dict[str, dict[str, int]] = {}

    def place(
        self, network: Network, endpoint: Endpoint, primary: int, route: netlink.Route, *, together: bool
    ) -> int:
        """The index of the bridge for a container, made if it is not there."""
        places = self._places.setdefault(network.id, {})
        number = 0
        if len(places) >= self._capacity:
            counts = [0] * (_MOST + 1)
            for each in places.values():
                counts[each] += 1
            number = next((at for at, count in enumerate(counts) if count < self._capacity), -1)
            if number < 0:
                raise Conflict(
                    f"The network {network.name} has {len(places)} running containers, as many as it can have; "
                    "put further ones on another network"
                )
        places[endpoint.host_ifname] = number
        return self._index(network, number, primary, route, together) if number else primary

    def leave(self, endpoint: Endpoint) -> None:
        """Idempotent."""
        self._places.get(endpoint.network_id, {}).pop(endpoint.host_ifname, None)

    def restore(
        self, network: Network, endpoints: Iterable[Endpoint], primary: int, route: netlink.Route, *, together: bool
    ) -> list[tuple[str, int]]:
        """After a daemon's start: learn who is where; the veths that are on no bridge, each with the one it gets."""
        links = route.links()
        names = {_name(network, number): number for number in range(1, _MOST + 1)}
        numbers = {link.ifindex: names[link.name] for link in links if link.name in names} | {primary: 0}
        masters = {link.name: link.master for link in links}
        places = self._places.setdefault(network.id, {})
        lost: list[Endpoint] = []
        for endpoint in endpoints:
            master = masters.get(endpoint.host_ifname)
            if master in numbers:
                places[endpoint.host_ifname] = numbers[master]
            elif master is not None:
                lost.append(endpoint)
        return [(each.host_ifname, self.place(network, each, primary, route, together=together)) for each in lost]

    @staticmethod
    def names(network: Network) -> set[str]:
        """What its bridges are called, those that there are and those that there may be."""
        return {network.link, *(_name(network, number) for number in range(1, _MOST + 1))}

    def remove(self, network: Network) -> None:
        """Take the further bridges away. Idempotent."""
        self._places.pop(network.id, None)
        names = [_name(network, number) for number in range(1, _MOST + 1)]
        with netlink.Route() as route:
            there = {link.name for link in route.links()}
        for name in names:
            if name in there:
                delete_link(_trunk(name)[0])
                delete_link(name)

    def _index(self, network: Network, number: int, primary: int, route: netlink.Route, together: bool) -> int:
        name = _name(network, number)
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return _make(network, name, primary, route, together)


def _make(network: Network, name: str, primary: int, route: netlink.Route, together: bool) -> int:
    near, far = _trunk(name)
    with ExitStack() as undo:
        mac = (b"\x02\x42" + hashlib.sha256(name.encode()).digest()[:4]).hex(":")
        route.commit([netlink.bridge(name, mac=mac, mtu=network.mtu), netlink.no_ipv6_address(name)])
        undo.callback(delete_link, name)
        _keep_host_off(name)
        index = socket.if_nametoindex(name)
        route.commit(netlink.veth(near, peer=far, master=primary, mtu=network.mtu))
        undo.callback(delete_link, near)
        route.commit([netlink.enslave(far, index), netlink.no_ipv6_address(far), netlink.up(far), netlink.up(name)])
        if not together:
            route.commit([netlink.bridge_port(near, isolated=True)])
        undo.pop_all()
    return index


def _keep_host_off(name: str) -> None:
    """No answer to who asks for the host's addresses there, and no way through the host but by the primary."""
    sysctl.write(f"ipv4/conf/{name}/arp_ignore", 8)
    sysctl.write(f"ipv4/conf/{name}/forwarding", 0)
    sysctl.write(f"ipv6/conf/{name}/disable_ipv6", 1)


def _name(network: Network, number: int) -> str:
    return f"{SWITCH_PREFIX}{_NUMBERS[number]}{hashlib.sha256(network.id.encode()).hexdigest()[:8]}"


def _trunk(name: str) -> tuple[str, str]:
    return f"{name}p", f"{name}s"
