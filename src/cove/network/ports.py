"""Published ports: who has which port of the host, from the wish to the nft element.

    reserve(owner, wishes)      picks host ports and holds each with a bound socket, so that no other program
                                can take it; Conflict when one is taken already
    publish(owner, …)           the container has addresses now: one nft transaction leads the ports there, and
                                a relay serves what the kernel cannot translate ([::1], link-local addresses, and
                                IPv6 to a container that has none)
    unpublish(owner)            takes both away and frees the ports

The held sockets die with the daemon; `restore` takes them again. Published ports themselves are the kernel's
and outlive it.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import random
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import msgspec

from cove.errors import Conflict, Internal, InvalidArgument, describe
from cove.kernel import conntrack, sockets, sysctl
from cove.network.driver import Endpoint, PortBinding
from cove.network.firewall import Firewall
from cove.network.pools import own_subnets
from cove.network.relay import Relays
from cove.network.ruleset import PRIVATE, Publication

_log = logging.getLogger(__name__)
_EVERYWHERE = ("0.0.0.0", "::")
_TRIES = 64
_SCTP = 132


def _latitude(port: int, last: int) -> int:
    """Fixed ports are held first, then those of a range, and at last those that may be any."""
    return 0 if port and not last else 1 if port else 2


class _Hold(NamedTuple):
    """A reserved port; the socket is None where the kernel cannot bind the protocol."""

    binding: PortBinding
    socket: socket.socket | None


class Ports:
    """All ports of one daemon. Safe to share between threads."""

    def __init__(self, firewall: Firewall, relays: Relays | None = None) -> None:
        """Without `relays` only what the kernel translates is reachable."""
        self._firewall = firewall
        self._relays = relays
        self._lock = threading.RLock()
        self._held: dict[str, list[_Hold]] = {}
        self._next = 0
        self.called: Callable[[str], str] = lambda owner: f"the container {owner[:12]}"
        """How an owner is called in a complaint."""

    def reserve(
        self, owner: str, wishes: Iterable[PortBinding], *, routed: Sequence[int] = ()
    ) -> tuple[PortBinding, ...]:
        """Hold a host port for each wish; the result names one address family and one port each.

        Conflict "Bind for ADDRESS:PORT failed: port is already allocated" when another container, or any other
        program, has it; then nothing is held. `routed`: families (4, 6) of which nothing of the host's is taken.
        """
        with self._lock, ExitStack() as undo:
            holds: list[_Hold] = []
            mine: set[tuple[str, int]] = set()
            everywhere = _EVERYWHERE if _has_ipv6() else _EVERYWHERE[:1]
            for wish in sorted(wishes, key=lambda each: _latitude(each.host_port, each.host_port_end)):
                for hold in self._hold(wish, _addresses(wish.host_ip) or everywhere, mine, routed):
                    if hold.socket is not None:
                        undo.callback(hold.socket.close)
                    holds.append(hold)
                    mine.add((hold.binding.proto, hold.binding.host_port))
            undo.pop_all()
            self._held.setdefault(owner, []).extend(holds)
            return tuple(hold.binding for hold in holds)

    def publish(self, owner: str, bindings: Iterable[PortBinding], endpoint: Endpoint, scope: str = "public") -> None:
        """Lead reserved ports to the endpoint's addresses, in one transaction; `scope` says who may come."""
        publications = [each for binding in bindings if (each := publication(binding, endpoint, scope))]
        if scope == "lan":
            self._firewall.near(str(each) for each in own_subnets())
        if publications:
            self._firewall.publish(owner, publications)
            _forget_flows(publications)
        self._serve(owner, endpoint, scope)

    def withdraw(
        self, owner: str, bindings: Collection[PortBinding], endpoint: Endpoint, scope: str = "public"
    ) -> None:
        """Take some of a container's ports away and free them. Idempotent."""
        with self._lock:
            holds = self._held.get(owner, [])
            gone = [each for each in holds if each.binding in bindings]
            self._held[owner] = [each for each in holds if each.binding not in bindings]
        self._firewall.withdraw(
            owner, [each for binding in bindings if (each := publication(binding, endpoint, scope))]
        )
        for hold in gone:
            self._let_go(hold)

    def _let_go(self, hold: _Hold) -> None:
        if hold.socket is not None:
            if self._relays is not None:
                self._relays.stop(hold.socket)
            hold.socket.close()

    def unpublish(self, owner: str) -> None:
        """Take all of a container's ports away and free them. Idempotent."""
        with self._lock:
            holds = self._held.pop(owner, [])
        self._firewall.unpublish(owner)
        for hold in holds:
            self._let_go(hold)

    def restore(
        self, owner: str, bindings: Sequence[PortBinding], endpoint: Endpoint, scope: str = "public"
    ) -> list[str]:
        """Take a running container's ports again after a daemon's start; sentences about those it could not hold.

        Best called inside `settle()`, with all containers' at once.
        """
        warnings: list[str] = []
        with self._lock:
            holds = self._held.setdefault(owner, [])
            for binding in bindings:
                try:
                    holds.append(_Hold(binding, _bind(binding) if binding.host_port else None))
                except OSError as error:
                    warnings.append(
                        f"The published port {_where(binding)} of container {owner[:12]} is served, but could not be "
                        f"held against other programs: {describe(error)}"
                    )
        self.publish(owner, bindings, endpoint, scope)
        return warnings

    def settle(self) -> AbstractContextManager[None]:
        """Around a daemon's recovery of bridges and ports: the rules are then replaced in one transaction."""
        return self._firewall.settle()

    def close(self) -> None:
        """Let go of every socket; what is published stays so in the kernel."""
        with self._lock:
            for hold in (each for holds in self._held.values() for each in holds):
                self._let_go(hold)
            self._held.clear()

    # ── choosing and holding ──────────────────────────────────────────────────────────────────────

    def _hold(
        self, wish: PortBinding, addresses: Sequence[str], mine: Collection[tuple[str, int]], routed: Sequence[int]
    ) -> list[_Hold]:
        """Hold one wish at some addresses: a fixed port, the first free one of its range, or any.

        `mine`: (protocol, port) of the same container's that are held already.
        """
        if any((6 if ":" in each else 4) in routed for each in addresses):
            holds: list[_Hold] = []
            for each in addresses:
                open_ = (6 if ":" in each else 4) in routed
                holds += [_Hold(_routed(wish, each), None)] if open_ else self._hold(wish, (each,), mine, ())
            return holds
        if wish.host_port and not wish.host_port_end:
            return self._hold_port(wish, wish.host_port, addresses)
        last: Conflict | None = None
        for port in self._choices(wish, mine):
            try:
                return self._hold_port(wish, port, addresses)
            except Conflict as error:
                last = error
        if wish.host_port_end:
            raise last or Conflict(f"No port of {wish.host_port}-{wish.host_port_end} is left on the host")
        raise Conflict("No free port is left on the host; name one, or stop a container that publishes some")

    def _choices(self, wish: PortBinding, mine: Collection[tuple[str, int]]) -> Iterable[int]:
        if wish.host_port_end:
            return [port for port in range(wish.host_port, wish.host_port_end + 1) if (wish.proto, port) not in mine]
        low, high = _local_range()
        if not low <= self._next <= high:
            self._next = random.randint(low, high)
        start = self._next
        self._next = start + 1
        span = high - low + 1
        ports = (low + (start - low + step) % span for step in range(_TRIES))
        return [port for port in ports if (wish.proto, port) not in mine]

    def _hold_port(self, wish: PortBinding, port: int, addresses: Sequence[str]) -> list[_Hold]:
        if not 0 < port < 65536:
            raise InvalidArgument(f"Invalid host port {port}: 1 to 65535 is possible")
        with ExitStack() as undo:
            holds: list[_Hold] = []
            for host_ip in addresses:
                binding = msgspec.structs.replace(wish, host_ip=host_ip, host_port=port, host_port_end=0)
                hold = _Hold(binding, self._claim(binding))
                if hold.socket is not None:
                    undo.callback(hold.socket.close)
                holds.append(hold)
            undo.pop_all()
            return holds

    def _claim(self, binding: PortBinding) -> socket.socket | None:
        try:
            return _bind(binding)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                holder = self._holder(binding)
                raise Conflict(f"Bind for {_where(binding)} failed: port is already allocated, by {holder}") from None
            if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV) or isinstance(error, socket.gaierror):
                raise InvalidArgument(
                    f"Bind for {_where(binding)} failed: cannot assign requested address; the host does not have it"
                ) from None
            raise Internal(f"Bind for {_where(binding)} failed: {describe(error)}") from error

    def _holder(self, binding: PortBinding) -> str:
        """Who has a port: a container of ours, or a program of the host's."""
        for owner, holds in self._held.items():
            for held in (each.binding for each in holds):
                same = (held.proto, held.host_port) == (binding.proto, binding.host_port)
                if same and _meet(held.host_ip, binding.host_ip):
                    return self.called(owner)
        program = sockets.holder(
            binding.proto, binding.host_port, "" if binding.host_ip in _EVERYWHERE else binding.host_ip
        )
        return f"the program {program[1]} (pid {program[0]})" if program else "another program"

    def _serve(self, owner: str, endpoint: Endpoint, scope: str) -> None:
        """Relay what comes to an IPv6 hold: only what no rule has translated gets that far."""
        target = endpoint.ipv4 or endpoint.ipv6
        if self._relays is None or target is None:
            return
        with self._lock:
            holds = list(self._held.get(owner, ()))
        for hold in holds:
            if hold.socket is not None and hold.binding.proto == "tcp" and ":" in hold.binding.host_ip:
                self._relays.serve(hold.socket, target.address, hold.binding.container_port, _welcome(scope))


def _welcome(scope: str) -> Callable[[str], bool]:
    """Whether a relay takes a client with an address: what the rules say of those that the kernel translates."""
    if scope == "public":
        return lambda _: True
    near = [*map(ipaddress.ip_network, PRIVATE), *own_subnets()] if scope == "lan" else []

    def welcome(text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        if address.is_loopback:
            return True
        return any(address in each for each in near)

    return welcome


def _routed(wish: PortBinding, host_ip: str) -> PortBinding:
    """A container's port that is reached under its own address."""
    return msgspec.structs.replace(wish, host_ip=host_ip, host_port=0, host_port_end=0)


def publication(binding: PortBinding, endpoint: Endpoint, scope: str = "public") -> Publication | None:
    """What the kernel can translate: an address to one of the same family, and no IPv6 loopback."""
    host = ipaddress.ip_address(binding.host_ip)
    target = endpoint.ipv4 if host.version == 4 else endpoint.ipv6
    if target is None or (host.version == 6 and host.is_loopback):
        return None
    return Publication(
        proto=binding.proto,
        host_ip=binding.host_ip,
        host_port=binding.host_port,
        target_ip=target.address,
        target_port=binding.container_port,
        scope=scope,
    )


def _forget_flows(publications: Iterable[Publication]) -> None:
    """UDP clients of whoever had the port before shall meet the new container, not the old translation."""
    ports = {each.host_port for each in publications if each.proto == "udp" and each.host_port}
    if not ports:
        return
    try:
        conntrack.forget_udp(ports)
    except OSError as error:
        _log.warning("Old UDP flows to the ports %s could not be forgotten: %s", sorted(ports), describe(error))


def _addresses(host_ip: str) -> tuple[str, ...]:
    """The host address a wish names; none for every address."""
    if not host_ip:
        return ()
    try:
        return (str(ipaddress.ip_address(host_ip.strip("[]"))),)
    except ValueError:
        raise InvalidArgument(f"Invalid host address {host_ip!r} for a published port") from None


def _bind(binding: PortBinding) -> socket.socket | None:
    """A bound socket that nobody can bind beside. EADDRINUSE when somebody has the port.

    TCP is bound with SO_REUSEADDR, so that connections in TIME_WAIT are no obstacle; afterwards it is cleared,
    so that no other program can share the port and listen on it.
    """
    family = socket.AF_INET6 if ":" in binding.host_ip else socket.AF_INET
    kind = socket.SOCK_DGRAM if binding.proto == "udp" else socket.SOCK_STREAM
    try:
        holder = socket.socket(family, kind | socket.SOCK_CLOEXEC, _SCTP if binding.proto == "sctp" else 0)
    except OSError as error:
        if binding.proto == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None
        raise
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if binding.proto == "tcp":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((binding.host_ip, binding.host_port))
        if binding.proto == "tcp":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        holder.close()
        raise
    return holder


def _meet(one: str, other: str) -> bool:
    """Whether two addresses to bind are the same, or one of them stands for all of their family."""
    return (":" in one) == (":" in other) and (one == other or not {one, other}.isdisjoint(_EVERYWHERE))


def _where(binding: PortBinding) -> str:
    host = f"[{binding.host_ip}]" if ":" in binding.host_ip else binding.host_ip
    return f"{host}:{binding.host_port}"


def _has_ipv6() -> bool:
    return sysctl.read("ipv6/conf/all/disable_ipv6") == "0"


def _local_range() -> tuple[int, int]:
    """The kernel's range for ports nobody asked for, at its usual values if it cannot be read."""
    low, _, high = (sysctl.read("ipv4/ip_local_port_range") or "32768\t60999").partition("\t")
    return int(low), int(high)
