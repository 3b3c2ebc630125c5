"""Who is called what, on which network, and who may know: the resolver's memory. No sockets here.

A name is seen only by containers that share a network with its owner. "web" and "web.NETWORK" are the same;
several containers of one name share it, and their addresses come in another order each time.
"""

from __future__ import annotations

import ipaddress
import random
from typing import NamedTuple

from cove.network.dns import wire
from cove.network.dns.messages import Know, Member, View
from cove.network.dns.wire import Answer, Query

_HOST = ("host.docker.internal", "gateway.docker.internal", "host.cove.internal")


class Found(NamedTuple):
    """What memory says to a question; `forward` means that it is not ours to answer."""

    answers: tuple[Answer, ...] = ()
    rcode: int = wire.NOERROR
    forward: bool = False


_NOT_OURS = Found(forward=True)
_NO_SUCH_NAME = Found(rcode=wire.NXDOMAIN)


class _Network:
    """One network's names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.suffix = f".{name.lower()}"
        self.subnets: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self.members: dict[str, Member] = {}
        self.named: dict[str, dict[str, Member]] = {}
        self.at: dict[str, Member] = {}

    def add(self, member: Member) -> None:
        self.discard(member.container)
        self.members[member.container] = member
        for name in member.names:
            self.named.setdefault(name.lower(), {})[member.container] = member
        for address in member.addresses:
            self.at[address] = member

    def discard(self, container: str) -> None:
        member = self.members.pop(container, None)
        if member is None:
            return
        for name in member.names:
            owners = self.named.get(name.lower(), {})
            owners.pop(container, None)
            if not owners:
                self.named.pop(name.lower(), None)
        for address in member.addresses:
            if self.at.get(address) is member:
                del self.at[address]

    def find(self, name: str) -> list[str] | None:
        """The addresses of whoever has a name here; None when nobody does."""
        owners = self.named.get(name) or self.named.get(name.removesuffix(self.suffix))
        if not owners:
            return None
        return [address for member in owners.values() for address in member.addresses]


class Names:
    """Every network's names. Used by one thread."""

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}
        self.generation = 0
        """Another one with each change."""

    def know(self, network: Know) -> None:
        self.generation += 1
        known = self._networks.setdefault(network.network, _Network(network.name))
        known.subnets = [ipaddress.ip_network(each) for each in network.subnets]

    def join(self, network: str, member: Member) -> None:
        self.generation += 1
        if network in self._networks:
            self._networks[network].add(member)

    def leave(self, network: str, container: str) -> None:
        self.generation += 1
        if network in self._networks:
            self._networks[network].discard(container)

    def forget(self, container: str) -> None:
        """Take a container's names from every network."""
        self.generation += 1
        for network in self._networks.values():
            network.discard(container)

    def keep(self, networks: set[str], containers: set[str]) -> None:
        """Forget all others."""
        self.generation += 1
        for identity in [each for each in self._networks if each not in networks]:
            del self._networks[identity]
        for network in self._networks.values():
            for container in [each for each in network.members if each not in containers]:
                network.discard(container)

    def find(self, view: View, query: Query) -> Found:
        """Answer a question as far as the one who asks may know."""
        present = {each: self._networks[each] for each in view.networks if each in self._networks}
        networks = list(present.values())
        if query.type == wire.PTR and (address := wire.reverse_address(query.name)):
            return _reverse(networks, address)
        name = query.name
        if name == "localhost" or name.endswith(".localhost"):
            return _addresses(["127.0.0.1", "::1"], query.type)
        if name in _HOST:
            return _addresses(list(view.host), query.type) if view.host else _NO_SUCH_NAME
        found = None
        for identity, network in present.items():
            target = view.links.get(identity, {}).get(name)
            found = found or (network.find(target) if target else None)
        for network in networks:
            found = found or network.find(name)
        return _NOT_OURS if found is None else _addresses(found, query.type)


def _reverse(networks: list[_Network], address: str) -> Found:
    """A container's name; for an address of the networks' own, that there is none. Others are not ours."""
    for network in networks:
        if member := network.at.get(address):
            return Found((Answer(wire.PTR, f"{member.names[0]}.{network.name}"),))
    at = ipaddress.ip_address(address)
    if any(at in subnet for network in networks for subnet in network.subnets):
        return _NO_SUCH_NAME
    return _NOT_OURS


def _addresses(found: list[str], kind: int) -> Found:
    random.shuffle(found)
    return Found(tuple(wire.address_answers(found, kind)))
