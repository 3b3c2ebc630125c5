"""Networks on a Linux bridge: one bridge per network, one veth per container, the host as router.

    container's eth0 ═══ veth ═══ bridge (the gateway's address) ─── host's routing ─── outside

The bridge is made when the first container comes, or at once if its user named it, and stays until the network
(or the daemon's `close`) removes it. A container's veth dies with its network namespace; nothing is kept for it on
the host. A network that outgrows its bridge's ports gets further ones (`switches`).
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import ExitStack

import msgspec

from cove.errors import Conflict, CoveError, Internal
from cove.kernel import netlink, sysctl
from cove.kernel.nlwire import Request
from cove.network import forwarding, ipam, options
from cove.network.driver import Address, Endpoint, EndpointRequest, Interface, Network, Queue
from cove.network.firewall import Firewall
from cove.network.links import delete_link, exists, host_has_ipv6, reason, uplink_mtu
from cove.network.pools import Pools
from cove.network.ruleset import Ruled
from cove.network.shaping import Shaper
from cove.network.switches import Switches
from cove.paths import Instance

_log = logging.getLogger(__name__)
DEFAULT_NETWORK = "bridge"
HOST_END = re.compile("veth[0-9a-f]{8}")
_LINGER = 2.0
"""Seconds after which a dead container's veth should be gone with its namespace."""


class BridgeDriver:
    """All bridge networks of one daemon. Safe to share between threads."""

    name = "bridge"

    def __init__(self, instance: Instance, firewall: Firewall, pools: Pools) -> None:
        """`pools`: the addresses of all the daemon's networks."""
        self._instance = instance
        self._firewall = firewall
        self._pools = pools
        self._lock = pools.lock
        self._switches = Switches()
        self._shaper = Shaper()
        self._leaving: deque[tuple[float, str]] = deque()
        self._indices: dict[str, int] = {}
        self._members: dict[str, dict[str, Endpoint]] = {}

    def create(self, network: Network) -> Network:
        """See Driver.create. The network called "bridge" is the default one and has the instance's bridge."""
        default = network.name == DEFAULT_NETWORK
        asked = options.bridge(network.options, internal=network.internal)
        with self._lock:
            link = network.link or asked.link or (self._instance.bridge if default else f"cove-{network.id[:10]}")
            if any(other.link == link and other.id != network.id for other in self._pools.of(self.name)):
                raise Conflict(f"The bridge {link} belongs to another network already")
            wanted = msgspec.structs.replace(network, driver=self.name, ipv6=network.ipv6 and host_has_ipv6())
            complete = msgspec.structs.replace(
                self._pools.complete(wanted, link=link, default=default),
                link=link,
                mtu=network.mtu or asked.mtu or uplink_mtu(),
            )
            if asked.link:
                self._make_named(complete)
            self._pools.learn(complete)
            return complete

    def remove(self, network: Network) -> None:
        with self._lock:
            self._pools.forget(network)
            self._dismantle(network)

    def plan(self, network: Network, container_id: str, request: EndpointRequest) -> Endpoint:
        self._sweep()
        with self._lock:
            chosen = self._pools.reserve(network, request)
        asked = options.bridge(network.options, internal=network.internal)
        gateways = _gateways(network, chosen)
        return Endpoint(
            network_id=network.id,
            container_id=container_id,
            ipv4=chosen.get(4),
            ipv6=chosen.get(6),
            gateways=() if network.internal else gateways,
            host=tuple(each for each in gateways if asked.has_address(6 if ":" in each else 4)),
            routed=tuple(version for version in chosen if asked.mode(version) == "routed"),
            mac=request.mac.lower() or ipam.mac_for((chosen.get(4) or chosen[6]).address),
            ifname=request.ifname,
            host_ifname=f"veth{secrets.token_hex(4)}",
            mtu=network.mtu,
            rate=request.rate,
        )

    def attach(self, network: Network, endpoint: Endpoint, pid: int) -> Interface:
        try:
            with self._lock, netlink.Route() as route, ExitStack() as undo:
                undo.callback(delete_link, endpoint.host_ifname)
                undo.callback(self._switches.leave, endpoint)
                ruled = _ruled(network)
                primary = self._bridge(network, ruled, route)
                master = self._switches.place(network, endpoint, primary, route, together=ruled.together)
                name = endpoint.host_ifname
                pair = netlink.veth(
                    name, peer=endpoint.ifname, pid=pid, master=master, mac=endpoint.mac, mtu=endpoint.mtu
                )
                route.commit([*pair, *_port(ruled, name)])
                self._shaper.limit(network, (endpoint,))
                self._members.setdefault(network.id, {})[name] = endpoint
                undo.pop_all()
        except OSError as error:
            raise Internal(f"The network {network.name} could not be attached: {reason(error)}") from error
        return Interface(
            name=endpoint.ifname, addresses=endpoint.addresses, gateways=endpoint.default_routes, mtu=endpoint.mtu
        )

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        with self._lock:
            self._leave(network, endpoint)
        delete_link(endpoint.host_ifname)

    def limit(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        with self._lock:
            self._pools.rewrite(network)
            self._shaper.limit(network, endpoints)

    def queues(self, network: Network, endpoint: Endpoint) -> tuple[Queue | None, Queue | None]:
        with self._lock:
            return self._shaper.queues(network, endpoint.container_id)

    def release(self, network: Network, endpoint: Endpoint) -> None:
        """The veth dies with its namespace; deleting it here would wait for the kernel tens of milliseconds."""
        with self._lock:
            self._leave(network, endpoint)
            if endpoint.host_ifname:
                self._leaving.append((time.monotonic() + _LINGER, endpoint.host_ifname))
            self._pools.give_back(endpoint)

    def restore(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        with self._lock:
            self._pools.learn(network)
            found = list(endpoints)
            self._pools.retake(network, found)
            if found:
                self._restore_ports(network, found)
            elif options.bridge(network.options, internal=network.internal).link:
                self._restore_named(network)
            self._shaper.restore(network, found)
            self._remove_strays(network, found)
            self._members[network.id] = {each.host_ifname: each for each in found}

    def mend(self, gone: Collection[int] | None = None) -> None:
        """Put back the bridges, and addresses of theirs, that somebody else took away under running containers.

        `gone`: the indices of links that lost something; without, every network is looked at.
        """
        with self._lock:
            for network in self._pools.of(self.name):
                index = self._indices.get(network.id)
                members = self._members.get(network.id)
                if members and index and (gone is None or index in gone):
                    self._mend(network, index, list(members.values()))

    def _mend(self, network: Network, index: int, members: list[Endpoint]) -> None:
        try:
            with netlink.Route() as route:
                link = route.link(network.link)
                if link is not None and link.ifindex == index:
                    route.commit(_addresses(network, index))
                    return
            _log.warning("the bridge %s was removed by someone else; it is being restored", network.link)
            self._restore_ports(network, members)
            self._shaper.restore(network, members)
        except (OSError, CoveError) as error:
            _log.warning("the bridge %s could not be restored: %s", network.link, error)

    def _leave(self, network: Network, endpoint: Endpoint) -> None:
        self._shaper.forget(network, endpoint.container_id)
        self._switches.leave(endpoint)
        self._members.get(network.id, {}).pop(endpoint.host_ifname, None)

    def close(self) -> None:
        with self._lock:
            for network in self._pools.of(self.name):
                if not self._pools.in_use(network):
                    self._dismantle(network)

    def _dismantle(self, network: Network) -> None:
        self._indices.pop(network.id, None)
        self._firewall.remove_bridge(network.link)
        self._shaper.drop(network)
        self._switches.remove(network)
        delete_link(network.link)

    # ── the bridge itself ─────────────────────────────────────────────────────────────────────────

    def _bridge(self, network: Network, ruled: Ruled, route: netlink.Route) -> int:
        """The index of the network's bridge, which is made if it is not there."""
        link = route.link(network.link)
        if link is not None and (link.kind, link.mac) != ("bridge", _mac(network.link)):
            raise Conflict(
                f"The host has a link {network.link} that is not Cove's; name another bridge for {network.name}"
            )
        index = self._make_bridge(network, route) if link is None else link.ifindex
        if link is not None and link.group != forwarding.GROUP:
            route.commit([netlink.set_group(link.name, forwarding.GROUP)])
        self._indices[network.id] = index
        self._firewall.add_bridge(ruled)
        return index

    def _make_named(self, network: Network) -> None:
        """A bridge that its user gave a name is there from the start, for whatever of the host's knows it by that."""
        try:
            with netlink.Route() as route:
                self._bridge(network, _ruled(network), route)
        except OSError as error:
            raise Internal(f"The bridge {network.link} could not be made: {reason(error)}") from error

    def _restore_named(self, network: Network) -> None:
        """Nobody is on it: what fails here fails again, with its reason, when somebody comes."""
        try:
            self._make_named(network)
        except CoveError as error:
            _log.warning("%s", error.message)

    def _make_bridge(self, network: Network, route: netlink.Route) -> int:
        link = network.link
        with ExitStack() as undo:
            route.commit([netlink.bridge(link, mac=_mac(link), mtu=network.mtu, group=forwarding.GROUP)])
            undo.callback(delete_link, link)
            index = socket.if_nametoindex(link)
            sysctl.write(f"ipv6/conf/{link}/accept_ra", 0)
            sysctl.write(f"ipv6/conf/{link}/accept_dad", 0)  # its link-local address asks for neighbours at once
            if not any(subnet.version == 6 for subnet in network.subnets):
                sysctl.write(f"ipv6/conf/{link}/disable_ipv6", 1)
            sysctl.write(f"ipv4/conf/{link}/route_localnet", 1)
            route.commit([*_addresses(network, index), netlink.up(link)])
            if not network.internal:
                forwarding.let_in(link)
            undo.pop_all()
        return index

    def _restore_ports(self, network: Network, endpoints: list[Endpoint]) -> None:
        """The bridge may have been deleted under running containers: make it, and give it their veths again."""
        try:
            with netlink.Route() as route:
                ruled = _ruled(network)
                primary = self._bridge(network, ruled, route)
                lost = self._switches.restore(network, endpoints, primary, route, together=ruled.together)
                for name, master in lost:
                    route.commit([netlink.enslave(name, master), *_port(ruled, name)])
        except OSError as error:
            raise Internal(f"The network {network.name} could not be restored: {reason(error)}") from error

    def _remove_strays(self, network: Network, endpoints: list[Endpoint]) -> None:
        """Veths on its bridges that belong to nobody: a daemon died while it joined a running container."""
        known = {each.host_ifname for each in endpoints}
        with netlink.Route() as route:
            links = route.links()
        names = self._switches.names(network)
        bridges = {each.ifindex for each in links if each.name in names and each.kind == "bridge"}
        for each in links:
            if each.master in bridges and each.name not in known and HOST_END.fullmatch(each.name):
                delete_link(each.name)

    def _sweep(self) -> None:
        """Delete veths that outlived their container, because another process still holds its namespace."""
        with self._lock:
            while self._leaving and self._leaving[0][0] < time.monotonic():
                name = self._leaving.popleft()[1]
                if exists(name):
                    delete_link(name)


def _addresses(network: Network, index: int) -> list[Request]:
    """The host's addresses on the network's bridge, which has that index."""
    asked = options.bridge(network.options, internal=network.internal)
    return [
        netlink.add_address(index, subnet.gateway, subnet.prefix, name=network.link)
        for subnet in network.subnets
        if asked.has_address(subnet.version)
    ]


def _mac(link: str) -> str:
    """The MAC address of a bridge of ours, which is how it is known."""
    return (b"\x02\x42" + hashlib.sha256(link.encode()).digest()[:4]).hex(":")


def _ruled(network: Network) -> Ruled:
    asked = options.bridge(network.options, internal=network.internal)
    return Ruled(
        link=network.link,
        subnets=tuple(subnet.subnet for subnet in network.subnets),
        internal=network.internal,
        together=asked.together,
        outward=tuple(
            version for version in (4, 6) if asked.masquerade and asked.mode(version) in ("nat", "nat-unprotected")
        ),
        open=tuple(version for version in (4, 6) if asked.mode(version) == "nat-unprotected"),
        sources=tuple(filter(None, (asked.source4, asked.source6))),
    )


def _port(ruled: Ruled, name: str) -> list[Request]:
    """What a bridge port needs beyond the usual.

    With br_netfilter a container's packet to its own published port is translated inside the bridge and has to
    leave through the port it came in by; otherwise it is routed, and hairpin would only echo broadcasts.
    """
    hairpin = sysctl.read("bridge/bridge-nf-call-iptables") == "1"
    isolated = not ruled.together
    return [netlink.bridge_port(name, hairpin=hairpin, isolated=isolated)] if hairpin or isolated else []


def _gateways(network: Network, chosen: dict[int, Address]) -> tuple[str, ...]:
    """The router of each family: that of the subnet its address is from."""
    found = []
    for address in chosen.values():
        at = ipam.parse_address(address.address)
        found += [each.gateway for each in network.subnets if at in ipam.parse_network(each.subnet)][:1]
    return tuple(found)
