"""Networks that put containers beside the host on one of its links: macvlan, and ipvlan where the kernel has it.

    LAN ─── parent (eth0, or its VLAN eth0.50) ─┬─ the host
                                                ├─ container's eth0, with a MAC of its own (macvlan)
                                                └─ container's eth0, with the parent's MAC (ipvlan)

Nothing of ours is between the wire and the container: no bridge, no address translation, no rule, no published
port. Host and containers do not reach each other over the parent; that is the kernel's design. A VLAN parent
that is not there is made, and goes with its last network.

An internal network, and one that names no parent, which is internal thereby, has a link of its own with nothing at
its other end: one end of a veth pair, for a link of that kind has a carrier, and every kernel with bridges has it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

import msgspec

from cove.errors import Conflict, Internal, InvalidArgument, NotFound, Unsupported
from cove.kernel import netlink
from cove.network import ipam, options
from cove.network.driver import Address, Endpoint, EndpointRequest, Interface, Network, Queue
from cove.network.links import delete_link, reason
from cove.network.pools import Pools
from cove.paths import Instance

_VLAN = re.compile(r"(.+)\.(\d{1,4})")
_MODES = {"macvlan": netlink.MACVLAN_MODES, "ipvlan": netlink.IPVLAN_MODES}


class ParentedDriver:
    """All networks of one kind, "macvlan" or "ipvlan", of one daemon. Safe to share between threads."""

    def __init__(self, name: str, instance: Instance, pools: Pools) -> None:
        """`pools`: the addresses of all the daemon's networks."""
        self.name = name
        self._instance = instance
        self._pools = pools
        self._lock = pools.lock

    def create(self, network: Network) -> Network:
        """See Driver.create. Unsupported where the kernel has no such links, NotFound for a parent there is not."""
        options.parented(network.options, self.name)
        mode, parent = self._mode(network), network.options.get("parent", "")
        flags = _flags(network)
        _require_kind(self.name)
        if parent and network.internal:
            raise InvalidArgument(
                f"An internal {self.name} network has a link of its own, for whoever is on one of the host's reaches "
                f"its LAN: leave out the parent {parent}, or --internal"
            )
        if not parent.isprintable() or len(parent.encode()) > 15:
            raise InvalidArgument(f"{parent!r} cannot be an interface's name")
        with self._lock:
            if parent:
                self._require_free(parent, mode, flags, network.id)
                _require_parent(parent)
            wanted = msgspec.structs.replace(network, driver=self.name, internal=not parent)
            complete = msgspec.structs.replace(self._pools.complete(wanted), mtu=options.mtu(network.options))
            self._pools.learn(complete)
            return complete

    def _require_free(self, parent: str, mode: str, flags: int, but: str) -> None:
        beside = [other for other in self._pools.of(self.name) if _parent(other) == parent and other.id != but]
        if beside and "passthru" in (mode, *map(self._mode, beside)):
            raise Conflict(f"The parent {parent} belongs to the network {beside[0].name} alone (mode passthru)")
        for other in beside if self.name == "ipvlan" else ():
            if (self._mode(other), _flags(other)) != (mode, flags):
                raise Conflict(
                    f"The parent {parent} has one ipvlan mode and flag for all networks on it, those of {other.name}"
                )

    def remove(self, network: Network) -> None:
        with self._lock:
            self._pools.forget(network)
            parent = _parent(network)
            if not any(_parent(other) == parent for other in self._pools.of(self.name)):
                self._dismantle(parent)

    def plan(self, network: Network, container_id: str, request: EndpointRequest) -> Endpoint:
        self.limit(network, ())
        if request.rate:
            raise _no_rate(network)
        with self._lock:
            if self._mode(network) == "passthru" and self._pools.in_use(network):
                raise Conflict(
                    f"The network {network.name} is in the mode passthru and has its one container already"
                )
            chosen = self._pools.reserve(network, request)
        own_mac = self.name == "macvlan" and self._mode(network) != "passthru"
        if request.mac and not own_mac:
            self.release(network, _endpoint(network, container_id, request, chosen, ""))
            raise InvalidArgument(f"A container on the network {network.name} has its parent's MAC address, no other")
        mac = request.mac.lower() or ipam.mac_for((chosen.get(4) or chosen[6]).address)
        return _endpoint(network, container_id, request, chosen, mac if own_mac else "")

    def attach(self, network: Network, endpoint: Endpoint, pid: int) -> Interface:
        parent = _parent(network)
        mode = _MODES[self.name][self._mode(network)]
        try:
            with self._lock, netlink.Route() as route:
                index = self._parent_index(parent, route, alone=parent == _own(network))
                born = netlink.child_link(
                    self.name,
                    endpoint.ifname,
                    parent=index,
                    mode=mode,
                    flags=_flags(network),
                    pid=pid,
                    mac=endpoint.mac,
                    mtu=endpoint.mtu,
                )
                route.commit([born])
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Conflict(
                    f"The link {parent} is a port of a bridge or has children of another kind; choose another parent"
                ) from error
            raise Internal(f"The network {network.name} could not be attached: {reason(error)}") from error
        return Interface(
            name=endpoint.ifname, addresses=endpoint.addresses, gateways=endpoint.default_routes, mtu=endpoint.mtu
        )

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """The host has no end of it: the engine deletes it inside the container."""

    def limit(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        if network.rate or any(endpoint.rate for endpoint in endpoints):
            raise _no_rate(network)

    def queues(self, network: Network, endpoint: Endpoint) -> tuple[Queue | None, Queue | None]:
        return None, None

    def release(self, network: Network, endpoint: Endpoint) -> None:
        with self._lock:
            self._pools.give_back(endpoint)

    def restore(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        with self._lock:
            self._pools.learn(network)
            self._pools.retake(network, endpoints)

    def close(self) -> None:
        with self._lock:
            networks = self._pools.of(self.name)
            used = {_parent(each) for each in networks if self._pools.in_use(each)}
            for parent in {_parent(each) for each in networks} - used:
                self._dismantle(parent)

    def _dismantle(self, parent: str) -> None:
        """Delete a parent if it is one that we made."""
        with netlink.Route() as route:
            link = route.link(parent)
            ours = link is not None and route.alias(parent) == self._mark
        if ours:
            delete_link(parent)

    @property
    def _mark(self) -> str:
        """The alias of a parent that we made."""
        return f"cove {self._instance.id}".strip()

    def _mode(self, network: Network) -> str:
        modes = _MODES[self.name]
        mode = network.options.get(f"{self.name}_mode") or next(iter(modes))
        if mode not in modes:
            raise InvalidArgument(f"Unknown {self.name} mode {mode!r}: there are {', '.join(modes)}")
        return mode

    def _parent_index(self, parent: str, route: netlink.Route, *, alone: bool) -> int:
        """The index of the parent, up; if it is not there, a VLAN is made on its link, and one that is `alone`."""
        link = route.link(parent)
        if link is None and alone:
            other = parent.replace("-", "x", 1)
            route.commit(netlink.veth(parent, peer=other))
            route.commit([netlink.alias(parent, self._mark), netlink.no_ipv6_address(other), netlink.up(other)])
            link = route.link(parent)
            assert link is not None
        if link is None:
            below, number = _vlan(parent)
            base = route.link(below)
            if base is None:
                raise OSError(errno.ENODEV, "the link below the VLAN has gone", below)
            route.commit(
                [netlink.vlan(parent, parent=base.ifindex, number=number), netlink.alias(parent, self._mark)]
            )
            link = route.link(parent)
            assert link is not None
        if not link.up:
            route.commit([netlink.up(parent)])
        return link.ifindex


def _flags(network: Network) -> int:
    """How the containers of an ipvlan reach each other: at once (bridge), never (private), by a switch (vepa)."""
    flag = network.options.get("ipvlan_flag", "bridge")
    if flag not in netlink.IPVLAN_FLAGS:
        raise InvalidArgument(f"Unknown ipvlan flag {flag!r}: there are {', '.join(netlink.IPVLAN_FLAGS)}")
    return netlink.IPVLAN_FLAGS[flag]


def _endpoint(
    network: Network, container_id: str, request: EndpointRequest, chosen: dict[int, Address], mac: str
) -> Endpoint:
    gateways = [
        subnet.gateway
        for address in chosen.values()
        for subnet in network.subnets
        if ipam.parse_address(address.address) in ipam.parse_network(subnet.subnet)
    ]
    return Endpoint(
        network_id=network.id,
        container_id=container_id,
        driver=network.driver,
        ipv4=chosen.get(4),
        ipv6=chosen.get(6),
        gateways=() if network.internal else tuple(gateways),
        mac=mac,
        ifname=request.ifname,
        mtu=network.mtu,
    )


def _parent(network: Network) -> str:
    return network.options.get("parent", "") or _own(network)


def _own(network: Network) -> str:
    """What the link of a network without a parent is called."""
    return f"dm-{network.id[:12]}"


def _vlan(parent: str) -> tuple[str, int]:
    match = _VLAN.fullmatch(parent)
    if match is None:
        raise NotFound(f"The host has no link {parent} to be a network's parent")
    if not 1 <= int(match[2]) <= 4094:
        raise InvalidArgument(f"The parent {parent} names no VLAN: their numbers are 1 to 4094")
    return match[1], int(match[2])


def _require_kind(kind: str) -> None:
    with netlink.Route() as route:
        if not route.has_kind(kind):
            option = {"vlan": "VLAN_8021Q"}.get(kind, kind.upper())
            raise Unsupported(
                f"This kernel has no {kind} links (CONFIG_{option}); use a network of the driver bridge"
            )


def _require_parent(parent: str) -> None:
    with netlink.Route() as route:
        link = route.link(parent)
        if link is None and route.link(_vlan(parent)[0]) is None:
            raise NotFound(f"The host has no link {_vlan(parent)[0]} to be a network's parent")
        if parent == "lo":
            raise InvalidArgument("The loopback interface cannot be a network's parent")
    if link is None:
        _require_kind("vlan")


def _no_rate(network: Network) -> Unsupported:
    return Unsupported(
        f"The network {network.name} has no rate to limit: nothing of Cove's is between its containers and the wire"
    )
