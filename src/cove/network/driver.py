"""What a network is to the engine: frozen values, and the Protocol that every driver obeys.

A network's life:       create ── plan ── attach ── detach ── release ── … ── remove
A container's share:    `plan` reserves addresses and a MAC and returns them as an Endpoint (nothing in the
                        kernel changes); `attach` makes the interface in the namespace of a process and says
                        what init shall set up in it; `detach` takes it away from a container that lives on
                        (a dead one's is gone with its namespace); `release` gives the addresses back.
After a daemon's start: `restore` learns the endpoints that are in use and makes the kernel agree with them.

Drivers keep no file: what must outlive the daemon is in the values, which the engine stores.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

from cove.network import rates
from cove.network.rates import Rate

Protocols = Literal["tcp", "udp", "sctp"]


class Subnet(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A network's addresses: "10.88.0.0/16", its gateway, and the part that containers get (all, if empty)."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.subnet).version

    @property
    def prefix(self) -> int:
        return ipaddress.ip_network(self.subnet).prefixlen


class Network(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A network as asked for, completed by `Driver.create`. `link` is the host's interface of it, if any.

    `reserved`: addresses no container may get, by the name given to them (AuxiliaryAddresses). `config_only`: it is
    nothing but configuration, for networks that are made with it and name it as their `config_from`.
    """

    id: str
    name: str
    driver: str = "bridge"
    subnets: tuple[Subnet, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    reserved: dict[str, str] = {}
    link: str = ""
    mtu: int = 0
    config_only: bool = False
    config_from: str = ""

    @property
    def rate(self) -> Rate:
        """What all its members together may receive and send."""
        return rates.parse(self.options.get(rates.OPTION, ""))


class EndpointRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a container wants of a network; empty means the driver chooses. `without_ipv6`: it switches IPv6 off."""

    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    ifname: str = "eth0"
    rate: Rate = Rate()
    without_ipv6: bool = False


class Address(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An address with its prefix length, e.g. "10.88.0.2", 16."""

    address: str
    prefix: int


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A container's place on a network.

    `gateways`: the routers that lead out of the network; `default_routes`: those of them that are this container's,
    which the engine chooses among all its networks. `host`: the host's own addresses on the network;
    `host_ifname`: the host's end of its veth, while it is attached. `routed`: the families (4, 6) whose addresses
    the outside reaches as they are. `rate`: what it may receive and send there.
    """

    network_id: str
    container_id: str
    driver: str = "bridge"
    ipv4: Address | None = None
    ipv6: Address | None = None
    gateways: tuple[str, ...] = ()
    default_routes: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    routed: tuple[int, ...] = ()
    mac: str = ""
    ifname: str = ""
    host_ifname: str = ""
    mtu: int = 0
    rate: Rate = Rate()

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What a rate holds back in one direction: bytes that wait now, packets that found the queue full so far."""

    waiting: int = 0
    dropped: int = 0


class Interface(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An interface that is in the container's namespace already, for its init to set up.

    `sysctls`: parameters below net, "ipv4/conf/eth0/log_martians" for one.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    gateways: tuple[str, ...] = ()
    mtu: int = 0
    sysctls: dict[str, str] = {}


class PortBinding(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A container's port and where on the host it is published.

    As a request: `host_ip` "" is every address (IPv4 and IPv6), `host_port` 0 any free port, and with
    `host_port_end` any free port of that range. As `Ports.reserve` returns it: one address family, one port, or
    port 0 where the container is reached under its own address.
    """

    container_port: int
    proto: Protocols = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


class Driver(Protocol):
    """One kind of network. Methods are quick and synchronous; errors are those of `cove.errors`."""

    name: str

    def create(self, network: Network) -> Network:
        """Complete a network (subnets, gateways, link name) and reserve its subnets.

        Forbidden when a subnet overlaps another network's or a route of the host; nothing in the kernel changes
        before the first `attach`.
        """

    def remove(self, network: Network) -> None:
        """Take away what the kernel has of it. Conflict while an endpoint holds an address. Idempotent."""

    def plan(self, network: Network, container_id: str, request: EndpointRequest) -> Endpoint:
        """Reserve addresses for a container. Conflict when a wanted one is taken or the pool is empty."""

    def attach(self, network: Network, endpoint: Endpoint, pid: int) -> Interface | None:
        """Make the interface in the network namespace of `pid`; None when there is nothing to set up."""

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Take the interface from a container that lives on. Idempotent."""

    def limit(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        """Make the kernel agree with the rates of the network and of these attached endpoints, new or changed.

        Unsupported when the driver, or the kernel, cannot limit rates.
        """

    def queues(self, network: Network, endpoint: Endpoint) -> tuple[Queue | None, Queue | None]:
        """What the rates hold back of an attached endpoint, towards it and from it; None where there is no rate."""

    def release(self, network: Network, endpoint: Endpoint) -> None:
        """Give the addresses back. Idempotent."""

    def restore(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        """Learn a stored network and its endpoints in use, and make the kernel agree. Idempotent."""

    def close(self) -> None:
        """At a clean shutdown: take away what the kernel has of networks that no container uses."""
