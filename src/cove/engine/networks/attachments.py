"""A container's share of its networks: addresses, interfaces and published ports, from start to exit.

    plan ──▶ attach ──▶ publish ─────────▶ release           (naming tells the resolver meanwhile)
    values   veth born   nft elements,      everything given back; the veths have died
    only     in the pid  one transaction    with the container's namespace

`plan` either returns all or holds nothing. `release` may be called for any part that was reached.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from cove.engine.containers.records import DEFAULT, Attached, Facts, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.isolation import security
from cove.engine.networks.confining import confined
from cove.engine.networks.naming import Naming
from cove.engine.networks.ports import default_address, requested, scope_of
from cove.errors import Conflict, Internal, InvalidArgument
from cove.network import options, rates
from cove.network.driver import Endpoint, EndpointRequest, Network, PortBinding
from cove.network.driver import Interface as MadeInterface
from cove.runtime.messages import Address, Interface
from cove.wire.networks import EndpointSettings

if TYPE_CHECKING:
    from cove.engine.networks.service import NetworkStore

_log = logging.getLogger("cove.engine")
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
IFNAME_OPTION = "com.docker.network.endpoint.ifname"
SYSCTLS_OPTION = "com.docker.network.endpoint.sysctls"
_SYSCTL = re.compile(r"net\.([a-z0-9]+)\.([a-z0-9_-]+)\.[^./\s]+\.([a-z0-9_]+)=([^\n]*)")


class Attachments:
    """The only one who speaks with network drivers about containers."""

    def __init__(self, context: Context, networks: NetworkStore, registry: Registry) -> None:
        self._context = context
        self._networks = networks
        self._registry = registry
        self.naming = Naming(context, networks)

    def plan(self, record: Record) -> Attached:
        """Reserve addresses on every network, and the ports; raises Conflict and holds nothing then."""
        with ExitStack() as undo:
            endpoints: dict[str, Endpoint] = {}
            networks = {name: self._networks.find(name).network for name in record.endpoints}
            called = interface_names(networks, record.endpoints)
            for position, (name, settings) in enumerate(record.endpoints.items()):
                network = networks[name]
                driver = self._networks.driver(network)
                request = endpoint_request(settings, record, called[name], first=not position)
                endpoint = endpoints[network.id] = driver.plan(network, record.id, request)
                undo.callback(driver.release, network, endpoint)
            endpoints = self.routed(record, endpoints)
            ports: tuple[PortBinding, ...] = ()
            if (carrier := published(endpoints)) is not None:
                ports = self._reserve(record, carrier)
            undo.pop_all()
        return Attached(endpoints=endpoints, ports=tuple(ports))

    def routed(self, record: Record, endpoints: dict[str, Endpoint]) -> dict[str, Endpoint]:
        """The same endpoints, with the default routes chosen."""
        names = {identity: network.name for identity in endpoints if (network := self._networks.get(identity))}
        return routed(record, endpoints, names)

    def attach(self, record: Record, attached: Attached, pid: int) -> tuple[Interface, ...]:
        """Make the interfaces in the namespace of `pid` and publish the ports."""
        interfaces = []
        for identity, endpoint in attached.endpoints.items():
            network = self._network(identity)
            made = self._networks.driver(network).attach(network, endpoint, pid)
            if made is not None:
                interfaces.append(interface(made, record.endpoints.get(network.name)))
        self.confine(record, attached)
        self.publish(record, attached)
        return tuple(interfaces)

    def confine(self, record: Record, attached: Attached) -> None:
        """Hold a container to its egress rules, if it has any."""
        rules = confined(record, attached, self._networks)
        if rules is not None:
            self._context.firewall.confine(rules)
        else:
            self._context.firewall.free(record.id)

    def tell(self, container_id: str, attached: Attached, action: str) -> None:
        """An event of each network that a container came to or left."""
        for identity in attached.endpoints:
            network = self._networks.get(identity)
            if network is not None:
                kind = "null" if network.driver == "none" else network.driver
                attributes = {"container": container_id, "name": network.name, "type": kind}
                self._context.events.emit("network", action, identity, attributes)

    def publish(self, record: Record, attached: Attached) -> None:
        """Let the published ports lead to the container."""
        scope = scope_of(record, self._context.settings)
        endpoint = published(attached.endpoints)
        if attached.ports and endpoint is not None:
            self._context.ports.publish(record.id, attached.ports, endpoint, scope)

    def withdraw(self, container: Container, bindings: tuple[PortBinding, ...]) -> None:
        """Publish some of a running container's ports no longer."""
        attached = container.facts.attached
        endpoint = published(attached.endpoints)
        if bindings and endpoint is not None:
            scope = scope_of(container.record, self._context.settings)
            self._context.ports.withdraw(container.id, bindings, endpoint, scope)
            kept = tuple(each for each in attached.ports if each not in bindings)
            self._registry.note(container, attached=msgspec.structs.replace(attached, ports=kept))

    def extend(self, container: Container, wishes: tuple[PortBinding, ...]) -> None:
        """Publish further ports of a running container; Conflict when one is taken, and then none is."""
        attached = container.facts.attached
        endpoint = published(attached.endpoints)
        if wishes and endpoint is not None:
            new = self._context.ports.reserve(container.id, wishes, routed=endpoint.routed)
            scope = scope_of(container.record, self._context.settings)
            self._context.ports.publish(container.id, new, endpoint, scope)
            self._registry.note(container, attached=msgspec.structs.replace(attached, ports=(*attached.ports, *new)))

    def default_address(self, record: Record, carrier: Endpoint) -> str:
        """Where ports are published that name no address of the host's."""
        return default_address(record, self._context.settings, self._host_binding(carrier))

    def publish_again(self, container: Container, before: Endpoint | None) -> None:
        """A running container's networks are others: its ports follow, or are published now that one can carry them.

        `before`: what they led to.
        """
        record, carrier = container.record, published(container.facts.attached.endpoints)
        if before is not None and (carrier is None or carrier.network_id != before.network_id):
            self._context.ports.unpublish(container.id)
            self._registry.note(container, attached=msgspec.structs.replace(container.facts.attached, ports=()))
        attached = container.facts.attached
        if attached.ports or carrier is None:
            return
        if ports := self._reserve(record, carrier):
            attached = msgspec.structs.replace(attached, ports=ports)
            self.publish(record, attached)
            self._registry.note(container, attached=attached)

    def _reserve(self, record: Record, carrier: Endpoint) -> tuple[PortBinding, ...]:
        """The ports that a container asks for, held; `carrier`: its endpoint that they will lead to."""
        wanted = requested(record, self._context.settings, self._host_binding(carrier))
        return self._context.ports.reserve(record.id, wanted, routed=carrier.routed) if wanted else ()

    def _host_binding(self, carrier: Endpoint) -> str:
        network = self._networks.get(carrier.network_id)
        return network.options.get(HOST_BINDING, "") if network is not None else ""

    def release(self, container_id: str, attached: Attached) -> None:
        """Give everything back; the container's namespace is gone or never came to life."""
        if attached.ports:
            self._context.ports.unpublish(container_id)
        self._context.firewall.free(container_id)
        self.naming.end(container_id, attached)
        for identity, endpoint in attached.endpoints.items():
            network = self._networks.get(identity)
            if network is None:
                continue
            self._networks.driver(network).release(network, endpoint)

    def limit(self, container: Container, rate: rates.Rate) -> None:
        """Another rate for a running container, at once; raises Unsupported."""
        attached = container.facts.attached
        endpoints = {
            identity: msgspec.structs.replace(endpoint, rate=rate)
            for identity, endpoint in attached.endpoints.items()
        }
        for identity, endpoint in endpoints.items():
            network = self._network(identity)
            self._networks.driver(network).limit(network, (endpoint,))
        self._registry.note(container, attached=msgspec.structs.replace(attached, endpoints=endpoints))

    def restore(self, containers: list[Container], unknown: Mapping[str, Facts]) -> None:
        """After a daemon's start: let drivers learn what running containers hold, and publish again at once.

        `unknown`: of containers of which no more can be read.
        """
        everything = [*(each.facts for each in containers), *unknown.values()]
        with self._context.ports.settle():
            for record in self._networks.all():
                if record.network.name != DEFAULT:
                    self._retake(record.network, everything)
            self._networks.settle({each for facts in everything for each in facts.attached.endpoints})
            if (default := self._networks.get(self._networks.identity(DEFAULT))) is not None:
                self._retake(default, everything)
            for container in containers:
                attached = container.facts.attached
                self.confine(container.record, attached)
                endpoint = published(attached.endpoints)
                if attached.ports and endpoint is not None:
                    scope = scope_of(container.record, self._context.settings)
                    for warning in self._context.ports.restore(container.id, attached.ports, endpoint, scope):
                        _log.warning("%s", warning)
        self.naming.restore(containers)

    def _retake(self, network: Network, everything: list[Facts]) -> None:
        endpoints = [facts.attached.endpoints.get(network.id) for facts in everything]
        self._networks.driver(network).restore(network, [each for each in endpoints if each is not None])

    def _network(self, identity: str) -> Network:
        network = self._networks.get(identity)
        if network is None:
            raise Internal(f"The network {identity} was removed while a container was starting on it; start it again")
        return network


def interface(made: MadeInterface, settings: EndpointSettings | None) -> Interface:
    """What a driver made, in the runtime's words, with what the user asked of it besides."""
    ready = msgspec.convert(made, Interface, from_attributes=True)
    text = ((settings.driver_opts or {}) if settings is not None else {}).get(SYSCTLS_OPTION, "")
    if text:
        ready = msgspec.structs.replace(ready, sysctls=interface_sysctls(text, ready.name))
    ipam = settings.ipam_config if settings is not None else None
    local = [
        Address(address=each, prefix=64 if ":" in each else 16) for each in (ipam.link_local_ips if ipam else ())
    ]
    return msgspec.structs.replace(ready, addresses=(*ready.addresses, *local)) if local else ready


def interface_sysctls(text: str, name: str) -> dict[str, str]:
    """ "net.ipv4.conf.IFNAME.log_martians=1,…" for the interface `name`. Raises InvalidArgument."""
    found = {}
    for each in text.split(","):
        match = _SYSCTL.fullmatch(each)
        if match is None:
            raise InvalidArgument(f"invalid sysctl {each!r} of an interface: net.X.Y.IFNAME.Z=VALUE is needed")
        found[f"{match[1]}/{match[2]}/{name}/{match[3]}"] = match[4]
    return found


def interface_names(
    networks: Mapping[str, Network], settings: Mapping[str, EndpointSettings], taken: Iterable[str] = ()
) -> dict[str, str]:
    """What a container's interfaces are called, by network: as was asked for, others by the first free number.

    `taken`: those that it has already. Conflict when two are to have one name.
    """
    used, names = set(taken), {}
    for name, asked in sorted(settings.items(), key=lambda each: IFNAME_OPTION not in (each[1].driver_opts or {})):
        wanted = (asked.driver_opts or {}).get(IFNAME_OPTION, "")
        if wanted in used:
            raise Conflict(
                f"The network {name} could not be attached: error renaming interface: file exists: the container has "
                f"another one that is called {wanted}"
            )
        prefix = options.prefix(networks[name].options)
        names[name] = wanted or next(free for n in range(len(used) + 1) if (free := f"{prefix}{n}") not in used)
        used.add(names[name])
    return names


def endpoint_request(settings: EndpointSettings, record: Record, ifname: str, *, first: bool) -> EndpointRequest:
    """What a container wants of a network, in the drivers' words."""
    ipam = settings.ipam_config
    return EndpointRequest(
        ipv4=ipam.ipv4_address if ipam else "",
        ipv6=ipam.ipv6_address if ipam else "",
        mac=settings.mac_address or (record.config.mac_address if first else ""),
        ifname=ifname,
        rate=rates.parse(record.host.net_rate),
        without_ipv6=security.without_ipv6(record.host.sysctls),
    )


def routed(record: Record, endpoints: dict[str, Endpoint], names: dict[str, str]) -> dict[str, Endpoint]:
    """The same endpoints, with the default routes chosen: for each family by the network with the highest
    priority that has a gateway, among equals the one that was named first. `names`: of the networks."""
    order = list(record.endpoints)

    def rank(identity: str) -> tuple[int, int]:
        name = names.get(identity, "")
        settings = record.endpoints.get(name)
        return -(settings.gw_priority if settings else 0), order.index(name) if name in order else len(order)

    chosen: dict[str, list[str]] = {identity: [] for identity in endpoints}
    for version in (4, 6):
        for identity in sorted(endpoints, key=rank):
            gateway = next((each for each in endpoints[identity].gateways if (":" in each) == (version == 6)), "")
            if gateway:
                chosen[identity].append(gateway)
                break
    return {
        identity: msgspec.structs.replace(endpoint, default_routes=tuple(chosen[identity]))
        for identity, endpoint in endpoints.items()
    }


def published(endpoints: dict[str, Endpoint]) -> Endpoint | None:
    """The endpoint that published ports lead to, on a bridge of ours that is not internal; of several, the one that
    answers leave by."""
    able = [each for each in endpoints.values() if each.addresses and each.driver == "bridge" and each.gateways]
    return next((each for each in able if each.default_routes), able[0] if able else None)
