"""The way of a packet to a container, followed through what the kernel has now, to where it ends.

    host port ─▶ rule (or relay) ─▶ who may come ─▶ bridge ─▶ veth ═ interface in the namespace ─▶ process

Each step is looked up, none is believed: an element that is missing from the firewall, a link that is down, a
program that listens on loopback alone are what people look for. Nothing is sent.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cove.engine.containers import spec
from cove.engine.containers.launch import cgroup_of
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.explain.listeners import holders
from cove.engine.networks.attachments import published
from cove.engine.networks.joining import in_network_of
from cove.engine.networks.ports import parse_port, scope_of
from cove.engine.networks.service import NetworkStore
from cove.errors import Internal, InvalidArgument, NotFound
from cove.kernel import netlink, sockets
from cove.network import forwarding, strangers
from cove.network.driver import Endpoint, PortBinding
from cove.network.ports import publication
from cove.network.ruleset import USER
from cove.wire.explain import Process
from cove.wire.tracing import Step, Way

_EVERY = ("", "0.0.0.0", "::")
_MOST_NAMED = 4
_SCOPES = {
    "public": "everybody may come",
    "lan": "only private addresses and the host's own subnets may come (--expose-to lan)",
    "local": "only this host and its containers may come (--expose-to local)",
}


_LOOPBACK = "this host alone may come, for it is published on a loopback address"


class _Aim(NamedTuple):
    """An address of the host, a port and a protocol."""

    host: str
    port: int
    proto: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.proto}"


class Tracing:
    """One use case: `trace`."""

    def __init__(self, context: Context, registry: Registry, networks: NetworkStore) -> None:
        self._context = context
        self._registry = registry
        self._networks = networks

    async def trace(self, target: str) -> tuple[Way, ...]:
        """Looks at /proc and at the firewall, off the loop."""
        return await self._context.executors.disk(_Look(self._context, self._registry, self._networks).trace, target)


class _Look:
    """One look at everything; made on the loop, used in a thread."""

    def __init__(self, context: Context, registry: Registry, networks: NetworkStore) -> None:
        self._context = context
        self._everyone = tuple(registry)
        self._registry = registry
        self._networks = networks

    def trace(self, target: str) -> tuple[Way, ...]:
        """To HOST:PORT, to a container's port (CONTAINER:PORT), or to all ports of a CONTAINER."""
        name, port, proto = _parse(target)
        container = self._container(name)
        if container is None:
            if not port:
                raise NotFound(f"No such container: {target}; or name a port, as in 127.0.0.1:8080")
            return (self._from_host(_Aim(_address(name), port, proto)),)
        if port:
            return (_way(f"{container.name}:{port}/{proto}", self._inside(container, port, proto, None)),)
        bindings = container.facts.attached.ports if container.facts.running else ()
        if bindings:
            return tuple(self._from_host(_aim(each), container) for each in bindings)
        return (_way(container.name, self._unpublished(container)),)

    def _container(self, name: str) -> Container | None:
        try:
            return self._registry.find(name) if name else None
        except (NotFound, InvalidArgument):
            return None

    def _unpublished(self, container: Container) -> Iterator[Step]:
        if not container.facts.running:
            yield Step(place="container", text=f"{container.name} is {container.status}: nothing answers", ok=False)
        elif container.record.host.network_mode == "host":
            text = f"{container.name} has the host's network and publishes nothing: trace a port of the host's"
            yield Step(place="container", text=f"{text}, as in 127.0.0.1:80", ok=False)
        elif lender := spec.lender(container.record.host.network_mode):
            name = self._registry.find(lender).name
            text = f"{container.name} has the network of {name}, which publishes for both: trace {name}"
            yield Step(place="container", text=text, ok=False)
        elif container.record.host.port_bindings and published(container.facts.attached.endpoints) is None:
            text = f"{container.name} publishes no port: nothing from outside leads into any of its networks"
            yield Step(place="container", text=text, ok=False)
        else:
            text = (
                f"{container.name} publishes no port: only containers on its networks reach it; publish one with -p"
            )
            yield Step(place="container", text=text, ok=False)

    # ── from the host's port ──────────────────────────────────────────────────────────────────────

    def _from_host(self, aim: _Aim, owner: Container | None = None) -> Way:
        return _way(str(aim), self._host_steps(aim, owner))

    def _host_steps(self, aim: _Aim, owner: Container | None) -> Iterator[Step]:
        if not _is_ours(aim.host):
            text = f"{aim.host} is no address of this host: the packet leaves it"
            yield Step(place="host", text=text, ok=False)
            return
        found = self._binding(aim, owner)
        if found is None:
            yield from self._nobody(aim)
            return
        container, binding = found
        where = "every address" if binding.host_ip in _EVERY else binding.host_ip
        yield Step(place="host", text=f"{binding.proto} port {aim.port} of {where} is published by {container.name}")
        endpoint = published(container.facts.attached.endpoints)
        if endpoint is None:
            yield Step(place="network", text=f"{container.name} is on no network that could lead to it", ok=False)
            return
        yield from self._rule(aim, binding, endpoint, container)
        yield from self._inside(container, binding.container_port, binding.proto, endpoint)

    def _binding(self, aim: _Aim, owner: Container | None) -> tuple[Container, PortBinding] | None:
        for container, binding in self._published():
            same_family = (":" in binding.host_ip) == (":" in aim.host)
            fits = binding.host_ip == aim.host or (binding.host_ip in _EVERY and same_family)
            if owner in (None, container) and fits and (binding.host_port, binding.proto) == (aim.port, aim.proto):
                return container, binding
        return None

    def _nobody(self, aim: _Aim) -> Iterator[Step]:
        """Where a packet goes that no container's port takes."""
        elsewhere = [
            (container, each)
            for container, each in self._published()
            if (each.host_port, each.proto) == (aim.port, aim.proto) and (":" in each.host_ip) == (":" in aim.host)
        ]
        program = sockets.holder(aim.proto, aim.port, aim.host)
        if program is not None and (sharer := self._on_the_host(program[0])) is not None:
            text = f"{sharer.name} has the host's network: what comes to the host comes to it"
            yield Step(place="host", text=text)
            yield Step(place="process", text=f"{program[1]} (pid {program[0]}) listens there in {sharer.name}")
        elif program is not None and program[0] != os.getpid():
            text = f"no container publishes it: {program[1]} (pid {program[0]}), a program of the host's, takes it"
            yield Step(place="host", text=text, ok=False)
        elif elsewhere:
            container, binding = elsewhere[0]
            text = f"{container.name} publishes {aim.proto} port {aim.port} on {binding.host_ip} alone: come to that"
            yield Step(place="host", text=f"{text}, or publish it with -p {_flag(aim, binding)}", ok=False)
        else:
            yield Step(place="host", text=self._would_be(aim), ok=False)

    def _would_be(self, aim: _Aim) -> str:
        for container in self._everyone:
            for key, bindings in container.record.host.port_bindings.items():
                if not container.facts.running and any(each.host_port == str(aim.port) for each in bindings or ()):
                    return f"nobody has it: {container.name}, which would publish its {key}, is {container.status}"
        for container, each in self._published():
            if each.host_port == aim.port and each.proto != aim.proto:
                return f"nobody has its {aim.proto} port; {container.name} publishes {aim.port}/{each.proto}"
        return "no container publishes it and no program listens there: refused"

    def _published(self) -> Iterator[tuple[Container, PortBinding]]:
        for container in self._everyone:
            for binding in container.facts.attached.ports if container.facts.running else ():
                yield container, binding

    def _on_the_host(self, pid: int) -> Container | None:
        """Whose process it is, of the containers that have the host's network."""
        for container in self._everyone:
            shares = container.facts.running and container.record.host.network_mode == "host"
            if shares and pid in self._context.cgroups.procs(cgroup_of(container, self._context)):
                return container
        return None

    def _rule(self, aim: _Aim, binding: PortBinding, endpoint: Endpoint, container: Container) -> Iterator[Step]:
        scope = scope_of(container.record, self._context.settings)
        host = ipaddress.ip_address(aim.host)
        near = host.version == 6 and (host.is_loopback or host.is_link_local)
        led = None if near else publication(binding, endpoint, scope)
        firewall = self._context.firewall
        if led is None:
            yield _relayed(aim, binding, container, near=near)
        elif firewall.leads(led):
            text = f"map {led.map} of table inet {firewall.table} leads to {led.target_ip} port {led.target_port}"
            yield Step(place="rule", text=text)
        else:
            text = f"map {led.map} of table inet {firewall.table} has lost it; restart the daemon to write it anew"
            yield Step(place="rule", text=text, ok=False)
        loopback = binding.host_ip not in _EVERY and ipaddress.ip_address(binding.host_ip).is_loopback
        yield Step(place="scope", text=_LOOPBACK if loopback else _SCOPES[scope])
        if led is not None and not loopback and not forwarding.enabled(6 if ":" in binding.host_ip else 4):
            yield Step(
                place="forwarding", text="the host forwards nothing (its sysctl is 0): only its own programs come"
            )
        if led is not None:
            yield from self._filters(passed=not host.is_loopback)

    def _filters(self, *, passed: bool) -> Iterator[Step]:
        """What others have put in the way of what the kernel forwards; this host's own packets do not come by it."""
        firewall = self._context.firewall
        user = strangers.Chain(f"inet {firewall.table}, the administrator's", USER, drops=False)
        for chain, rules in ((user, firewall.users()), *firewall.strangers()):
            yield from _filter(chain, rules, passed=passed)
        for warning in firewall.warnings():
            yield Step(place="filter", text=warning)

    # ── into the container ────────────────────────────────────────────────────────────────────────

    def _inside(self, container: Container, port: int, proto: str, endpoint: Endpoint | None) -> Iterator[Step]:
        facts = container.facts
        if not facts.running or container.process is None:
            yield Step(place="container", text=f"{container.name} is {container.status}: nothing answers", ok=False)
            return
        for each in (endpoint,) if endpoint is not None else facts.attached.endpoints.values():
            yield from self._links(each, container)
        if facts.phase == "paused":
            text = f"{container.name} is paused: the kernel answers, the program does not until it is unpaused"
            yield Step(place="container", text=text, ok=False)
            return
        yield self._process(container, port, proto)

    def _links(self, endpoint: Endpoint, container: Container) -> Iterator[Step]:
        network = self._networks.get(endpoint.network_id)
        if network is None or not endpoint.addresses:
            return
        with netlink.Route() as route:
            links = {link.name: link for link in route.links()}
        if network.link:
            bridge, veth = links.get(network.link), links.get(endpoint.host_ifname)
            yield _state("bridge", f"{network.link}, of the network {network.name}", bridge)
            yield _state("veth", f"{endpoint.host_ifname}, the host's end of {endpoint.ifname}", veth)
            if veth is not None and not veth.master:
                yield Step(place="veth", text=f"{endpoint.host_ifname} is on no bridge", ok=False)
        assert container.process is not None
        present: set[str] = set()
        try:
            in_network_of(container.process.pidfd, lambda: present.update(_addresses()))
        except Internal as error:
            yield Step(place="namespace", text=error.message, ok=False)
            return
        wanted = [each.address for each in endpoint.addresses]
        missing = [each for each in wanted if each not in present]
        text = f"{endpoint.ifname} in {container.name} has {' and '.join(wanted)}"
        lost = f"{endpoint.ifname} in {container.name} has lost {' and '.join(missing)}"
        yield Step(place="namespace", text=lost if missing else text, ok=not missing)

    def _process(self, container: Container, port: int, proto: str) -> Step:
        there = sockets.listening(container.facts.pid)
        found = [each for each in there if (each.port, each.protocol) == (port, proto)]
        held = holders(self._context.cgroups.procs(cgroup_of(container, self._context)))
        if not found:
            text = f"nobody listens on {proto} port {port} in {container.name}{_instead(there, held)}"
            return Step(place="process", text=text, ok=False)
        open_ = [each for each in found if not ipaddress.ip_address(each.address).is_loopback]
        process = held.get((open_ or found)[0].inode)
        who = f"{process.command} (pid {process.pid})" if process else "a process"
        if not open_:
            text = f"{who} listens on {found[0].address} port {port} alone: let it listen on 0.0.0.0 to be reached"
            return Step(place="process", text=text, ok=False)
        return Step(place="process", text=f"{who} listens on {open_[0].address} port {port} in {container.name}")


def _way(aim: str, steps: Iterator[Step]) -> Way:
    """The steps up to the first that ends the way."""
    taken: list[Step] = []
    for step in steps:
        taken.append(step)
        if not step.ok:
            break
    return Way(aim=aim, arrives=taken[-1].ok, steps=tuple(taken))


def _filter(chain: strangers.Chain, rules: Sequence[str], *, passed: bool) -> Iterator[Step]:
    """A chain that may end it; nothing where it cannot. `passed`: whether the packet comes by it at all."""
    verdict = strangers.verdict(rules, drops=chain.drops)
    if verdict == "passes":
        return
    said = [*rules, *(["it drops by default"] if chain.drops else [])]
    where = f"the chain {chain.name} of table {chain.table}: {'; '.join(said)}"
    if not passed:
        yield Step(place="filter", text=f"what comes from elsewhere {verdict} in {where}")
    elif verdict == "may be refused":
        yield Step(place="filter", text=f"it {verdict} in {where}")
    else:
        text = f"it {verdict} in {where}; let that accept what has `ct status dnat`"
        yield Step(place="filter", text=text, ok=False)


def _relayed(aim: _Aim, binding: PortBinding, container: Container, *, near: bool) -> Step:
    """What the kernel does not translate; `near`: an address that leaves no link."""
    why = f"the kernel does not translate {aim.host}" if near else f"{container.name} has no IPv6 address"
    if binding.proto != "tcp":
        text = f"{why}, and the daemon carries tcp alone: come to an IPv4 address"
        return Step(place="relay", text=text, ok=False)
    return Step(place="relay", text=f"the daemon carries each connection, for {why}")


def _instead(there: list[sockets.Listener], held: dict[int, Process]) -> str:
    """What listens in a container whose port nobody has; nothing of other containers that share its network."""
    ours = {(each.port, each.protocol, held[each.inode].command) for each in there if each.inode in held}
    named = [f"{command} on {port}/{proto}" for port, proto, command in sorted(ours)[:_MOST_NAMED]]
    return f"; there is {', '.join(named)}" if named else ""


def _flag(aim: _Aim, binding: PortBinding) -> str:
    host = f"[{aim.host}]" if ":" in aim.host else aim.host
    return f"{host}:{aim.port}:{binding.container_port}" + ("" if aim.proto == "tcp" else f"/{aim.proto}")


def _state(place: str, what: str, link: netlink.Link | None) -> Step:
    if link is None:
        return Step(place=place, text=f"{what}, is not there", ok=False)
    return Step(place=place, text=what if link.up else f"{what}, is down", ok=link.up)


def _addresses() -> set[str]:
    with netlink.Route() as route:
        return {each.address for each in route.addresses()}


def _is_ours(text: str) -> bool:
    return ipaddress.ip_address(text).is_loopback or text in _addresses()


def _aim(binding: PortBinding) -> _Aim:
    loopback = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
    return _Aim(loopback.get(binding.host_ip, binding.host_ip), binding.host_port, binding.proto)


def _parse(target: str) -> tuple[str, int, str]:
    """(host or container, port or 0, protocol) of "HOST:PORT[/PROTOCOL]", "[::1]:80", "8080" or "CONTAINER"."""
    text, slash, proto = target.partition("/")
    host, colon, port = text.rpartition(":")
    if not colon and text.isdecimal():
        host, colon, port = "", ":", text
    if not colon:
        return text, 0, "tcp"
    number, protocol = parse_port(f"{port}/{proto}" if slash else port)
    return host.removeprefix("[").removesuffix("]"), number, protocol


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host or "127.0.0.1"))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0]) if host == "localhost" else _refuse(host)
    except OSError:
        return _refuse(host)


def _refuse(host: str) -> str:
    raise NotFound(f"{host} is neither a container nor an address: name the port as in 127.0.0.1:8080 or web:80")
