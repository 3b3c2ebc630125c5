"""A container's network: its interfaces, and the way of each published port from the host to the process.

host's port ─▶ nftables map (or the daemon's relay) ─▶ bridge ─▶ veth ═ eth0 ─▶ process that listens
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from cove.engine.containers.records import Record
from cove.engine.containers.stats import interfaces as counters
from cove.engine.explain.listeners import holders
from cove.engine.explain.units import size
from cove.engine.networks.ports import parse_port
from cove.kernel.sockets import Listener, listening
from cove.network import rates
from cove.network.driver import Endpoint, PortBinding
from cove.network.driver import Network as Net
from cove.network.ports import publication
from cove.wire.explain import Hop, Interface, Network, Port, Process


class Place(msgspec.Struct, frozen=True):
    """A container's place on a network; `endpoint` None while it is on none."""

    network: Net
    endpoint: Endpoint | None = None


class Surroundings(msgspec.Struct, frozen=True):
    """What the explanation of a network needs besides the record.

    `bindings`: the published ports, wanted or held. `pid` 0 for a container that does not run; `pids`: all its
    processes. `table`: the firewall's.
    """

    places: Sequence[Place]
    bindings: Sequence[PortBinding]
    pid: int
    pids: Sequence[int]
    table: str
    resolv_conf: Path | None = None


def explain(record: Record, around: Surroundings, shared_with: str) -> Network:
    """The whole of it; `shared_with`: the container whose network it has."""
    mode = record.host.network_mode
    sockets = listening(around.pid) if around.pid else []
    held_by = holders(around.pids) if around.pid and around.pids else {}
    own = mode != "host" and not shared_with
    return Network(
        mode=mode,
        text=_text(mode, shared_with),
        interfaces=tuple(_interface(place, around.pid) for place in around.places) if own else (),
        ports=tuple(_ports(record, around, sockets, held_by)) if own else (),
        name_servers=_name_servers(around.resolv_conf),
    )


def _text(mode: str, shared_with: str) -> str:
    if shared_with:
        return f"it has the network of {shared_with}: published ports and limits are those of that container"
    if mode == "host":
        return "it has the host's network: what it listens on is reachable as if it were no container"
    if mode == "none":
        return "loopback and nothing else"
    return "a veth pair for each network: what comes in and goes out passes the host's firewall"


def _interface(place: Place, pid: int) -> Interface:
    network, endpoint = place.network, place.endpoint
    if endpoint is None:
        return Interface(
            name="",
            network=network.name,
            driver=network.driver,
            bridge=network.link,
            addresses=tuple(f"one of {each.ip_range or each.subnet}" for each in network.subnets),
            network_rate_in=network.rate.inward,
            network_rate_out=network.rate.outward,
        )
    try:
        passed = counters(Path(f"/proc/{pid}/net/dev").read_text()).get(endpoint.ifname) if pid else None
    except OSError:
        passed = None
    return Interface(
        name=endpoint.ifname,
        network=network.name,
        driver=network.driver,
        addresses=tuple(f"{each.address}/{each.prefix}" for each in endpoint.addresses),
        mac=endpoint.mac,
        gateways=endpoint.gateways,
        host_interface=endpoint.host_ifname,
        bridge=network.link,
        rate_in=endpoint.rate.inward,
        rate_out=endpoint.rate.outward,
        network_rate_in=network.rate.inward,
        network_rate_out=network.rate.outward,
        received=passed.rx_bytes if passed else None,
        sent=passed.tx_bytes if passed else None,
    )


# ── ports ─────────────────────────────────────────────────────────────────────────────────────────


def _ports(
    record: Record, around: Surroundings, sockets: Sequence[Listener], held_by: Mapping[int, Process]
) -> Iterable[Port]:
    """Those published, in order; then those that the image exposes only."""
    place = next((place for place in around.places if place.endpoint and place.endpoint.addresses), None)
    first = next(iter(around.places), None)
    for binding in sorted(around.bindings, key=lambda each: (each.container_port, each.proto, each.host_ip)):
        yield _published(binding, place or first, around, sockets, held_by)
    published = {(each.container_port, each.proto) for each in around.bindings}
    for key in sorted(record.config.exposed_ports):
        port, protocol = parse_port(key.partition("-")[0] if "-" in key else key)
        if (port, protocol) not in published:
            listener, hop = _process(port, protocol, around, sockets, held_by)
            reach = Hop(
                place="networks", text="not published: other containers on its networks reach it, nobody else"
            )
            yield Port(container_port=port, protocol=protocol, path=(reach, hop), listener=listener)


def _published(
    binding: PortBinding,
    place: Place | None,
    around: Surroundings,
    sockets: Sequence[Listener],
    held_by: Mapping[int, Process],
) -> Port:
    listener, last = _process(binding.container_port, binding.proto, around, sockets, held_by)
    return Port(
        container_port=binding.container_port,
        protocol=binding.proto,
        host_ip=binding.host_ip,
        host_port=binding.host_port,
        path=(Hop(place="host", text=_where(binding)), *_between(binding, place, around.table), last),
        listener=listener,
    )


def _where(binding: PortBinding) -> str:
    addresses = {
        "": "every address",
        "0.0.0.0": "every IPv4 address",
        "::": "every IPv6 address",
        "127.0.0.1": "127.0.0.1, which this host alone reaches",
    }
    address = addresses.get(binding.host_ip, binding.host_ip)
    if binding.host_port_end:
        return f"the first free {binding.proto} port from {binding.host_port} to {binding.host_port_end} of {address}"
    if not binding.host_port:
        return f"any free {binding.proto} port of {address}"
    return f"{binding.proto} port {binding.host_port} of {address}"


def _between(binding: PortBinding, place: Place | None, table: str) -> Iterable[Hop]:
    endpoint = place.endpoint if place else None
    if place is None or endpoint is None:
        name = place.network.name if place else "none"
        yield Hop(place="firewall", text=f"table inet {table} will lead it to the container on the network {name}")
        return
    led = publication(binding, endpoint)
    if led is None:
        target = endpoint.addresses[0].address
        yield Hop(place="relay", text=f"the daemon carries each connection to {target}, which has no IPv6")
    else:
        text = f"map {led.map} of table inet {table} translates it to {led.target_ip} port {led.target_port}"
        yield Hop(place="firewall", text=text)
    yield Hop(place="bridge", text=f"{place.network.link}, of the network {place.network.name}")
    limits = _rate(endpoint.rate) or _rate(place.network.rate)
    if limits:
        yield Hop(place="rate", text=limits)
    yield Hop(place="veth", text=f"{endpoint.host_ifname} on the host is {endpoint.ifname} in the container")


def _rate(rate: rates.Rate) -> str:
    parts = [f"{size(rate.inward)}/s in"] if rate.inward else []
    parts += [f"{size(rate.outward)}/s out"] if rate.outward else []
    return f"at most {' and '.join(parts)}" if parts else ""


def _process(
    port: int, protocol: str, around: Surroundings, sockets: Sequence[Listener], held_by: Mapping[int, Process]
) -> tuple[Process | None, Hop]:
    """Who listens on a port inside."""
    if not around.pid:
        return None, Hop(place="process", text=f"whoever listens on port {port} in the container")
    on_port = [each for each in sockets if each.port == port and each.protocol == protocol]
    if not on_port:
        return None, Hop(place="process", text=f"nobody listens on {protocol} port {port} in the container")
    best = next((each for each in on_port if not each.address.startswith("127.") and each.address != "::1"), None)
    chosen = best or on_port[0]
    found = held_by.get(chosen.inode)
    who = f"{found.command}, pid {found.pid} ({found.inner_pid} in the container)," if found else "a process"
    deaf = "" if best else ", which nothing from outside reaches"
    return found, Hop(place="process", text=f"{who} listens on {chosen.address} port {port}{deaf}")


def _name_servers(path: Path | None) -> tuple[str, ...]:
    try:
        text = path.read_text(errors="replace")[:4096] if path else ""
    except OSError:
        return ()
    lines = (line.split() for line in text.splitlines())
    return tuple(words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")
