"""Networks on a Linux bridge: one bridge per network, one veth per container, the host as router.

    container's eth0 ═══ veth ═══ bridge (the gateway's address) ─── host's routing ─── outside

The bridge is made when the first container comes and stays until the network (or the daemon's `close`)
removes it. A container's veth dies with its network namespace; nothing is kept for it on the host. A bridge
has at most 1,023 ports in Linux; a network refuses its 1,024th running container with that reason.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack

import msgspec

from cove.errors import Conflict, Internal, InvalidArgument, NotFound, Unsupported, describe
from cove.kernel import netlink, sysctl
from cove.kernel.nlwire import Request
from cove.network import forwarding, ipam
from cove.network.driver import Address, Endpoint, EndpointRequest, Interface, Network
from cove.network.firewall import Firewall
from cove.network.ruleset import Ruled
from cove.network.shaping import Shaper
from cove.paths import Instance

DEFAULT_NETWORK = "bridge"
_OPTION = "com.docker.network.bridge."
_OPTION_MTU = "com.docker.network.driver.mtu"
_NAME_LIMIT = 15
_LINGER = 2.0
"""Seconds after which a dead container's veth should be gone with its namespace."""


class BridgeDriver:
    """All bridge networks of one daemon. Safe to share between threads."""

    name = "bridge"

    def __init__(self, instance: Instance, firewall: Firewall) -> None:
        self._instance = instance
        self._firewall = firewall
        self._lock = threading.RLock()
        self._networks: dict[str, Network] = {}
        self._pools: dict[str, list[ipam.Pool]] = {}
        self._shaper = Shaper()
        self._leaving: deque[tuple[float, str]] = deque()

    def create(self, network: Network) -> Network:
        """See Driver.create. The network called "bridge" is the default one and has the instance's bridge."""
        default = network.name == DEFAULT_NETWORK
        with self._lock:
            link = network.link or self._link_name(network, default)
            if any(other.link == link and other.id != network.id for other in self._networks.values()):
                raise Conflict(f"The bridge {link} belongs to another network already")
            taken = [*self._subnets(but=network.id), *_host_subnets(ignore=link)]
            wanted = msgspec.structs.replace(network, ipv6=network.ipv6 and _host_has_ipv6())
            complete = msgspec.structs.replace(
                network,
                driver=self.name,
                subnets=ipam.complete(wanted, instance=self._instance.id, default=default, taken=taken),
                link=link,
                ipv6=wanted.ipv6,
                mtu=network.mtu or _mtu_option(network) or _uplink_mtu(),
            )
            self._learn(complete)
            return complete

    def remove(self, network: Network) -> None:
        with self._lock:
            if any(pool.in_use for pool in self._pools.get(network.id, ())):
                raise Conflict(f"The network {network.name} has active endpoints; stop or disconnect its containers")
            self._networks.pop(network.id, None)
            self._pools.pop(network.id, None)
            self._firewall.remove_bridge(network.link)
            self._shaper.drop(network)
            self._delete_link(network.link)

    def plan(self, network: Network, container_id: str, request: EndpointRequest) -> Endpoint:
        chosen: dict[int, Address] = {}
        self._sweep()
        with self._lock, ExitStack() as undo:
            for pool in self._pools_of(network):
                version = pool.network.version
                wanted = request.ipv4 if version == 4 else request.ipv6
                if version in chosen or (wanted and ipam.parse_address(wanted) not in pool.network):
                    continue
                address = pool.allocate(wanted)
                undo.callback(pool.release, address)
                chosen[version] = Address(address=address, prefix=pool.network.prefixlen)
            _require_wanted(network, request, chosen)
            undo.pop_all()
        return Endpoint(
            network_id=network.id,
            container_id=container_id,
            ipv4=chosen.get(4),
            ipv6=chosen.get(6),
            gateways=() if network.internal else _gateways(network, chosen),
            mac=request.mac.lower() or ipam.mac_for((chosen.get(4) or chosen[6]).address),
            ifname=request.ifname,
            host_ifname=f"veth{secrets.token_hex(4)}",
            mtu=network.mtu,
            rate=request.rate,
        )

    def attach(self, network: Network, endpoint: Endpoint, pid: int) -> Interface:
        try:
            with self._lock, netlink.Route() as route:
                master = self._bridge(network, route)
                name = endpoint.host_ifname
                pair = netlink.veth(
                    name, peer=endpoint.ifname, pid=pid, master=master, mac=endpoint.mac, mtu=endpoint.mtu
                )
                route.commit([*pair, *_port(network, name)])
                self._shaper.limit(network, (endpoint,))
        except Unsupported:
            self._delete_link(endpoint.host_ifname)
            raise
        except OSError as error:
            self._delete_link(endpoint.host_ifname)
            if error.errno == errno.EXFULL:
                raise Conflict(
                    f"The network {network.name} has 1,023 running containers, as many as a Linux bridge has ports; "
                    "put further ones on another network"
                ) from error
            raise Internal(f"The network {network.name} could not be attached: {_reason(error)}") from error
        return Interface(
            name=endpoint.ifname, addresses=endpoint.addresses, gateways=endpoint.default_routes, mtu=endpoint.mtu
        )

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        with self._lock:
            self._shaper.forget(network, endpoint.container_id)
        self._delete_link(endpoint.host_ifname)

    def limit(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        with self._lock:
            self._networks[network.id] = network
            self._shaper.limit(network, endpoints)

    def release(self, network: Network, endpoint: Endpoint) -> None:
        """The veth dies with its namespace; deleting it here would wait for the kernel tens of milliseconds."""
        with self._lock:
            self._shaper.forget(network, endpoint.container_id)
            if endpoint.host_ifname:
                self._leaving.append((time.monotonic() + _LINGER, endpoint.host_ifname))
            for pool in self._pools.get(network.id, ()):
                for each in endpoint.addresses:
                    if ipam.parse_address(each.address) in pool.network:
                        pool.release(each.address)

    def restore(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        with self._lock:
            if network.id not in self._pools:
                self._learn(network)
            found = list(endpoints)
            for pool in self._pools[network.id]:
                for address in (each.address for endpoint in found for each in endpoint.addresses):
                    if ipam.parse_address(address) in pool.network:
                        pool.learn(address)
            if found:
                self._restore_ports(network, found)
            self._shaper.restore(network, found)

    def close(self) -> None:
        """At a clean shutdown: remove the bridges that no container uses."""
        with self._lock:
            for network in self._networks.values():
                if not any(pool.in_use for pool in self._pools[network.id]):
                    self._firewall.remove_bridge(network.link)
                    self._shaper.drop(network)
                    self._delete_link(network.link)

    # ── the bridge itself ─────────────────────────────────────────────────────────────────────────

    def _bridge(self, network: Network, route: netlink.Route) -> int:
        """The index of the network's bridge, which is made if it is not there."""
        try:
            index = socket.if_nametoindex(network.link)
        except OSError:
            index = self._make_bridge(network, route)
        self._firewall.add_bridge(_ruled(network))
        return index

    def _make_bridge(self, network: Network, route: netlink.Route) -> int:
        link = network.link
        mac = (b"\x02\x42" + hashlib.sha256(link.encode()).digest()[:4]).hex(":")
        with ExitStack() as undo:
            route.commit([netlink.bridge(link, mac=mac, mtu=network.mtu)])
            undo.callback(self._delete_link, link)
            index = socket.if_nametoindex(link)
            sysctl.write(f"ipv6/conf/{link}/accept_ra", 0)
            sysctl.write(f"ipv6/conf/{link}/accept_dad", 0)  # its link-local address asks for neighbours at once
            if not any(subnet.version == 6 for subnet in network.subnets):
                sysctl.write(f"ipv6/conf/{link}/disable_ipv6", 1)
            sysctl.write(f"ipv4/conf/{link}/route_localnet", 1)
            requests = [
                netlink.add_address(index, subnet.gateway, subnet.prefix, name=link) for subnet in network.subnets
            ]
            route.commit([*requests, netlink.up(link)])
            if not network.internal:
                forwarding.enable(ipv6=any(subnet.version == 6 for subnet in network.subnets))
            undo.pop_all()
        return index

    def _restore_ports(self, network: Network, endpoints: list[Endpoint]) -> None:
        """The bridge may have been deleted under running containers: make it, and give it their veths again."""
        try:
            with netlink.Route() as route:
                master = self._bridge(network, route)
                masters = {link.name: link.master for link in route.links()}
                lost = [each.host_ifname for each in endpoints if masters.get(each.host_ifname, master) != master]
                for name in lost:
                    route.commit([netlink.enslave(name, master), *_port(network, name)])
        except OSError as error:
            raise Internal(f"The network {network.name} could not be restored: {_reason(error)}") from error

    def _sweep(self) -> None:
        """Delete veths that outlived their container, because another process still holds its namespace."""
        with self._lock:
            while self._leaving and self._leaving[0][0] < time.monotonic():
                name = self._leaving.popleft()[1]
                if _exists(name):
                    self._delete_link(name)

    def _delete_link(self, name: str) -> None:
        try:
            with netlink.Route() as route:
                route.commit([netlink.delete(name)])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise Internal(f"The interface {name} could not be removed: {describe(error)}") from error

    # ── bookkeeping ───────────────────────────────────────────────────────────────────────────────

    def _learn(self, network: Network) -> None:
        self._networks[network.id] = network
        self._pools[network.id] = [
            ipam.Pool(subnet, reserved=network.reserved.values()) for subnet in network.subnets
        ]

    def _pools_of(self, network: Network) -> list[ipam.Pool]:
        if network.id not in self._pools:
            raise NotFound(f"No such network: {network.name}")
        return self._pools[network.id]

    def _subnets(self, *, but: str) -> list[ipam.IPNetwork]:
        others = (network for network in self._networks.values() if network.id != but)
        return [ipam.parse_network(each.subnet) for network in others for each in network.subnets]

    def _link_name(self, network: Network, default: bool) -> str:
        name = network.options.get(f"{_OPTION}name", "")
        if not name:
            return self._instance.bridge if default else f"cove-{network.id[:10]}"
        if len(name.encode()) > _NAME_LIMIT or "/" in name or name in (".", "..") or any(c.isspace() for c in name):
            raise InvalidArgument(
                f"{name!r} cannot be an interface's name: it has at most 15 characters, no space or /"
            )
        return name


def _exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def _ruled(network: Network) -> Ruled:
    return Ruled(
        link=network.link,
        subnets=tuple(subnet.subnet for subnet in network.subnets),
        internal=network.internal,
        together=network.options.get(f"{_OPTION}enable_icc", "true") != "false",
        masquerade=network.options.get(f"{_OPTION}enable_ip_masquerade", "true") != "false",
    )


def _port(network: Network, name: str) -> list[Request]:
    """What a bridge port needs beyond the usual.

    With br_netfilter a container's packet to its own published port is translated inside the bridge and has to
    leave through the port it came in by; otherwise it is routed, and hairpin would only echo broadcasts.
    """
    hairpin = sysctl.read("bridge/bridge-nf-call-iptables") == "1"
    isolated = not _ruled(network).together
    return [netlink.bridge_port(name, hairpin=hairpin, isolated=isolated)] if hairpin or isolated else []


def _gateways(network: Network, chosen: dict[int, Address]) -> tuple[str, ...]:
    return tuple(subnet.gateway for subnet in network.subnets if subnet.version in chosen)


def _require_wanted(network: Network, request: EndpointRequest, chosen: dict[int, Address]) -> None:
    for version, wanted in ((4, request.ipv4), (6, request.ipv6)):
        if wanted and version not in chosen:
            raise InvalidArgument(f"The address {wanted} is in no subnet of the network {network.name}")


def _mtu_option(network: Network) -> int:
    text = network.options.get(_OPTION_MTU, "0")
    if not text.isdecimal() or int(text) > 65535:
        raise InvalidArgument(f"Invalid MTU {text!r} for the network {network.name}: a number up to 65535 is needed")
    return int(text)


def _host_has_ipv6() -> bool:
    return sysctl.read("ipv6/conf/all/disable_ipv6") == "0"


def _uplink_mtu() -> int:
    """The MTU of the link that has the default route, else Ethernet's."""
    with netlink.Route() as route:
        uplinks = {each.ifindex for each in route.routes() if each.prefix == 0}
        return min((link.mtu for link in route.links() if link.ifindex in uplinks), default=1500)


def _host_subnets(*, ignore: str) -> list[ipam.IPNetwork]:
    """What the host routes or has addresses in, default routes and the own bridge apart."""
    with netlink.Route() as route:
        own = route.link(ignore)
        skip = own.ifindex if own else -1
        routes = [
            ipam.parse_network(f"{each.destination}/{each.prefix}")
            for each in route.routes()
            if each.prefix and each.ifindex != skip
        ]
        return routes + [
            ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False)
            for each in route.addresses()
            if each.ifindex != skip
        ]


def _reason(error: OSError) -> str:
    return (
        f"{error.filename}: {error.strerror}"
        if error.filename
        else str(error.strerror or os.strerror(error.errno or 0))
    )
