"""Addresses: which subnet a network gets, and which of its addresses each container.

Pure bookkeeping in memory. What is taken elsewhere comes in as values (the host's routes, other networks);
what is taken here is learnt again from the stored endpoints when a daemon starts.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from cove.errors import Conflict, Forbidden, InvalidArgument
from cove.network.driver import Network, Subnet

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_POOL = ipaddress.IPv4Network("10.88.0.0/16")
_INSTANCE_POOLS = ipaddress.IPv4Network("10.128.0.0/9")
_NETWORK_POOLS = ipaddress.IPv4Network("10.96.0.0/11")
_FALLBACK_POOLS = ipaddress.IPv4Network("172.16.0.0/12")


class Pool:
    """One subnet's addresses. An address given back is given out again only after all others."""

    def __init__(self, subnet: Subnet, *, reserved: Iterable[str] = ()) -> None:
        self.network = parse_network(subnet.subnet)
        span = parse_network(subnet.ip_range) if subnet.ip_range else self.network
        self._first, self._last = int(span.network_address), int(span.broadcast_address)
        self._taken = {int(parse_address(subnet.gateway))} if subnet.gateway else set()
        self._taken.update(map(int, _ends(self.network)))
        self._taken.update(int(address) for address in map(parse_address, reserved) if address in self.network)
        self._in_use: set[int] = set()
        self._next = self._first

    @property
    def in_use(self) -> bool:
        return bool(self._in_use)

    def allocate(self, wanted: str = "") -> str:
        """Reserve `wanted`, or the next free address. Conflict when it is taken or none is left."""
        number = self._check(wanted) if wanted else self._search()
        self._in_use.add(number)
        return str(self._address(number))

    def learn(self, address: str) -> None:
        """Know that `address` is in use already."""
        self._in_use.add(int(parse_address(address)))

    def release(self, address: str) -> None:
        """Idempotent."""
        self._in_use.discard(int(parse_address(address)))

    def counts(self) -> tuple[int, int]:
        """How many addresses are in use or reserved, and how many are left to be given without being asked for."""
        gone = self._taken | self._in_use
        return len(gone), self._last - self._first + 1 - sum(self._first <= each <= self._last for each in gone)

    def _check(self, wanted: str) -> int:
        address = parse_address(wanted)
        if address not in self.network:
            raise InvalidArgument(f"The address {wanted} is not in the network's subnet {self.network}")
        number = int(address)
        if number in self._taken or number in self._in_use:
            raise Conflict(f"Address already in use: {wanted} belongs to another container or to the network itself")
        return number

    def _search(self) -> int:
        span = self._last - self._first + 1
        for step in range(min(span, len(self._taken) + len(self._in_use) + 1)):
            number = self._first + (self._next - self._first + step) % span
            if number not in self._taken and number not in self._in_use:
                self._next = number + 1
                return number
        return self._sweep(span)

    def _sweep(self, span: int) -> int:
        """The search from the start, for the case that the cursor stood in a full stretch."""
        for number in range(self._first, self._first + min(span, len(self._taken) + len(self._in_use) + 1)):
            if number not in self._taken and number not in self._in_use:
                return number
        raise Conflict(f"No free address is left in {self.network}; remove a container or use a larger subnet")

    def _address(self, number: int) -> IPAddress:
        return ipaddress.IPv4Address(number) if self.network.version == 4 else ipaddress.IPv6Address(number)


class AddressPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where subnets come from: those of the prefix length `size` that `base` has, one after the other."""

    base: str
    size: int

    def __post_init__(self) -> None:
        """Raises ValueError, with the reason."""
        network = ipaddress.ip_network(self.base)
        if not network.prefixlen <= self.size <= network.max_prefixlen - 1:
            raise ValueError(f"{network} has no subnets of the size {self.size}")


def complete(
    network: Network,
    *,
    instance: str,
    default: bool,
    taken: Iterable[IPNetwork],
    routed: Iterable[IPNetwork] = (),
    pools: Sequence[AddressPool] = (),
) -> tuple[Subnet, ...]:
    """The subnets of `network`, chosen where it names none, each with a gateway.

    `default`: it is the daemon's default network. `taken`: what they must not overlap; `routed`: what chosen ones
    must not overlap either. `pools`: the administrator's, which are chosen from instead of the usual ones.
    Forbidden when a subnet overlaps, Conflict when none is left, InvalidArgument when one makes no sense.
    """
    avoid = list(taken)
    subnets = [_with_gateway(subnet) for subnet in network.subnets]
    for subnet in subnets:
        _refuse_overlap(parse_network(subnet.subnet), avoid)
        avoid.append(parse_network(subnet.subnet))
    _check_reserved(network.reserved, subnets)
    avoid += routed
    if network.ipv4 and not any(subnet.version == 4 for subnet in subnets):
        chosen = _from_pools(pools, 4, avoid) or choose_ipv4(
            network.id, instance=instance, default=default, taken=avoid
        )
        subnets.insert(0, _with_gateway(Subnet(subnet=str(chosen))))
    if network.ipv6 and not any(subnet.version == 6 for subnet in subnets):
        chosen6 = _from_pools(pools, 6, avoid) or choose_ipv6(network.id, instance=instance, taken=avoid)
        subnets.append(_with_gateway(Subnet(subnet=str(chosen6))))
    return tuple(subnets)


def _from_pools(pools: Sequence[AddressPool], version: int, taken: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first free subnet of a family's pools, None when there is no such pool. Conflict when all are given."""
    own = [pool for pool in pools if parse_network(pool.base).version == version]
    avoid = sorted((each for each in taken if each.version == version), key=lambda each: int(each.network_address))
    for pool in own:
        base = parse_network(pool.base)
        size = 1 << (base.max_prefixlen - pool.size)
        place = int(base.network_address)
        while place <= int(base.broadcast_address):
            found = type(base)((place, pool.size))
            met = next((each for each in avoid if found.overlaps(each)), None)
            if met is None:
                return found
            place = max(place, int(met.broadcast_address)) // size * size + size
    if own:
        raise Conflict("all predefined address pools have been fully subnetted; name a subnet with --subnet")
    return None


def choose_ipv4(identity: str, *, instance: str, default: bool, taken: Iterable[IPNetwork]) -> ipaddress.IPv4Network:
    """A free subnet: 10.88.0.0/16 for the default network of the default daemon; a /20 for another daemon's
    (spread by its identity, so that daemons do not meet), and a /24 for a user's network."""
    avoid = [each for each in taken if each.version == 4]
    for candidate in _candidates(identity, instance, default):
        if not any(candidate.overlaps(each) for each in avoid):
            return candidate
    raise Conflict("No free IPv4 subnet is left for a network; name one with --subnet")


def choose_ipv6(identity: str, *, instance: str, taken: Iterable[IPNetwork]) -> ipaddress.IPv6Network:
    """A /64 of the instance's own unique local /48 (RFC 4193), spread by the network's identity."""
    machine = _machine_id()
    prefix = 0xFD << 40 | _number(f"{machine}/{instance}", 40)
    avoid = [each for each in taken if each.version == 6]
    start = _number(identity, 16)
    for step in range(1 << 16):
        base = (prefix << 16 | (start + step) % (1 << 16)) << 64
        candidate = ipaddress.IPv6Network((base, 64))
        if not any(candidate.overlaps(each) for each in avoid):
            return candidate
    raise Conflict("No free IPv6 subnet is left for a network; name one with --subnet")


def mac_for(address: str) -> str:
    """A locally administered MAC that follows from the address: a reused address needs no new neighbour entry."""
    packed = parse_address(address).packed
    tail = packed if len(packed) == 4 else hashlib.sha256(packed).digest()[:4]
    return (b"\x02\x42" + tail).hex(":")


def parse_network(text: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"Invalid subnet {text!r}: {error}") from None


def parse_address(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"Invalid IP address {text!r}") from None


def _candidates(identity: str, instance: str, default: bool) -> Iterator[ipaddress.IPv4Network]:
    if default and not instance:
        yield _DEFAULT_POOL
    if default:
        yield from _spread(_INSTANCE_POOLS, 20, _number(instance, 11))
    else:
        yield from _spread(_NETWORK_POOLS, 24, _number(identity, 13))
    yield from _spread(_FALLBACK_POOLS, 24, _number(identity, 12))


def _spread(pools: ipaddress.IPv4Network, prefix: int, start: int) -> Iterator[ipaddress.IPv4Network]:
    count, size = 1 << (prefix - pools.prefixlen), 1 << (32 - prefix)
    for step in range(count):
        yield ipaddress.IPv4Network((int(pools.network_address) + (start + step) % count * size, prefix))


def _number(text: str, bits: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()) >> (256 - bits)


def _machine_id() -> str:
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _with_gateway(subnet: Subnet) -> Subnet:
    network = parse_network(subnet.subnet)
    if subnet.gateway and parse_address(subnet.gateway) not in network:
        raise InvalidArgument(f"The gateway {subnet.gateway} is not in the subnet {network}")
    if subnet.gateway and parse_address(subnet.gateway) in _ends(network):
        raise InvalidArgument(f"The gateway {subnet.gateway} is the address of the subnet {network} as a whole")
    if subnet.ip_range:
        span = parse_network(subnet.ip_range)
        if span.version != network.version or not span.subnet_of(network):  # type: ignore[arg-type]
            raise InvalidArgument(f"The range {subnet.ip_range} is not in the subnet {network}")
    if network.is_multicast or network.is_loopback or network.is_unspecified or not network.prefixlen:
        raise InvalidArgument(f"The subnet {network} has no addresses for hosts: name a private one")
    if network.num_addresses < 2:
        raise InvalidArgument(f"The subnet {network} is too small: it has no address for a gateway and a container")
    gateway = subnet.gateway or str(network.network_address + (network.num_addresses > 2))
    return Subnet(subnet=str(network), gateway=gateway, ip_range=subnet.ip_range)


def _ends(network: IPNetwork) -> tuple[IPAddress, ...]:
    """The addresses that mean the subnet: RFC 3021 and RFC 6164 give both addresses of a pair to hosts."""
    if network.num_addresses <= 2:
        return ()
    return (network.network_address, network.broadcast_address)[: 2 if network.version == 4 else 1]


def _check_reserved(reserved: Mapping[str, str], subnets: Iterable[Subnet]) -> None:
    """An auxiliary address is of one of the subnets, and not its gateway's."""
    for name, text in reserved.items():
        address = parse_address(text)
        if not any(address in parse_network(each.subnet) for each in subnets):
            raise InvalidArgument(f"The auxiliary address {name}={text} is in no subnet of the network")
        if any(address == parse_address(each.gateway) for each in subnets):
            raise Conflict(f"Address already in use: the auxiliary address {name}={text} is the gateway's")


def _refuse_overlap(network: IPNetwork, taken: Iterable[IPNetwork]) -> None:
    for each in taken:
        if each.version == network.version and each.overlaps(network):
            raise Forbidden(
                f"Pool overlaps with other one on this address space: {network} meets {each}, which another "
                "network or a route of this host has; choose another subnet"
            )
