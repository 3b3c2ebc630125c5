"""A container's share of its networks: addresses, interfaces and published ports, from start to exit.

    plan ──▶ attach ──▶ publish ─────────▶ release
    values   veth born   nft elements,      everything given back; the veths have died
    only     in the pid  one transaction    with the container's namespace

`plan` either returns all or holds nothing. `release` may be called for any part that was reached.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from cove.engine.context import Context
from cove.engine.ports import requested
from cove.engine.records import Attached, Record
from cove.engine.registry import Container, Registry
from cove.errors import Internal, describe
from cove.kernel import netlink
from cove.kernel.syscalls import setns
from cove.network import rates
from cove.network.driver import Endpoint, EndpointRequest, Network, PortBinding
from cove.runtime.messages import Interface
from cove.wire.networks import EndpointSettings

if TYPE_CHECKING:
    from cove.engine.networks import NetworkStore

_log = logging.getLogger("cove.engine")
_CLONE_NEWNET = 0x40000000


class Attachments:
    """The only one who speaks with network drivers about containers."""

    def __init__(self, context: Context, networks: NetworkStore, registry: Registry) -> None:
        self._context = context
        self._networks = networks
        self._registry = registry

    def plan(self, record: Record) -> Attached:
        """Reserve addresses on every network, and the ports; raises Conflict and holds nothing then."""
        with ExitStack() as undo:
            endpoints: dict[str, Endpoint] = {}
            for position, (name, settings) in enumerate(record.endpoints.items()):
                network = self._networks.find(name).network
                driver = self._networks.driver(network)
                request = _request(settings, record, position)
                endpoint = endpoints[network.id] = driver.plan(network, record.id, request)
                undo.callback(driver.release, network, endpoint)
            ports: tuple[PortBinding, ...] = ()
            if _bridged(endpoints) is not None and (wanted := requested(record, self._context.settings)):
                ports = self._context.ports.reserve(record.id, wanted)
            undo.pop_all()
        return Attached(endpoints=endpoints, ports=tuple(ports))

    def attach(self, record: Record, attached: Attached, pid: int) -> tuple[Interface, ...]:
        """Make the interfaces in the namespace of `pid` and publish the ports."""
        interfaces = []
        for identity, endpoint in attached.endpoints.items():
            network = self._network(identity)
            made = self._networks.driver(network).attach(network, endpoint, pid)
            if made is not None:
                interfaces.append(msgspec.convert(made, Interface, from_attributes=True))
        self.publish(record.id, attached)
        return tuple(interfaces)

    def tell(self, container_id: str, attached: Attached, action: str) -> None:
        """An event of each network that a container came to or left."""
        for identity in attached.endpoints:
            network = self._networks.get(identity)
            if network is not None:
                kind = "null" if network.driver == "none" else network.driver
                attributes = {"container": container_id, "name": network.name, "type": kind}
                self._context.events.emit("network", action, identity, attributes)

    def publish(self, container_id: str, attached: Attached) -> None:
        """Let the published ports lead to the container."""
        endpoint = _bridged(attached.endpoints)
        if attached.ports and endpoint is not None:
            self._context.ports.publish(container_id, attached.ports, endpoint)

    def release(self, container_id: str, attached: Attached) -> None:
        """Give everything back; the container's namespace is gone or never came to life."""
        if attached.ports:
            self._context.ports.unpublish(container_id)
        for identity, endpoint in attached.endpoints.items():
            network = self._networks.get(identity)
            if network is None:
                continue
            self._networks.driver(network).release(network, endpoint)

    # ── networks of a running container ───────────────────────────────────────────────────────────

    async def join(self, container: Container, network: Network, settings: EndpointSettings) -> None:
        """Give a running container an interface on a further network."""
        assert container.process is not None
        attached, driver = container.facts.attached, self._networks.driver(network)
        taken = {endpoint.ifname for endpoint in attached.endpoints.values()}
        free = next(name for number in range(1024) if (name := f"eth{number}") not in taken)
        request = msgspec.structs.replace(
            _request(settings, container.record, len(attached.endpoints)), ifname=free, default_route=not taken
        )
        endpoint = driver.plan(network, container.id, request)
        with ExitStack() as undo:
            undo.callback(driver.release, network, endpoint)
            made = driver.attach(network, endpoint, container.process.pid)
            undo.callback(driver.detach, network, endpoint)
            if made is not None:
                interface = msgspec.convert(made, Interface, from_attributes=True)
                await asyncio.to_thread(
                    in_network_of, container.process.pidfd, lambda: netlink.configure((interface,))
                )
            endpoints = {**attached.endpoints, network.id: endpoint}
            self._registry.note(container, attached=msgspec.structs.replace(attached, endpoints=endpoints))
            undo.pop_all()

    async def leave(self, container: Container, network: Network) -> None:
        """Take a running container's interface away; ports that led through it end."""
        attached, driver = container.facts.attached, self._networks.driver(network)
        endpoint = attached.endpoints.get(network.id)
        if endpoint is None:
            return
        driver.detach(network, endpoint)
        driver.release(network, endpoint)
        rest = {identity: each for identity, each in attached.endpoints.items() if identity != network.id}
        ports = attached.ports
        if ports and _bridged(rest) is None:
            self._context.ports.unpublish(container.id)
            ports = ()
        self._registry.note(container, attached=Attached(endpoints=rest, ports=ports))

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

    def restore(self, containers: list[Container]) -> None:
        """After a daemon's start: let drivers learn what running containers hold, and publish again at once."""
        with self._context.ports.settle():
            for record in self._networks.all():
                network = record.network
                held = [
                    endpoint
                    for container in containers
                    if (endpoint := container.facts.attached.endpoints.get(network.id)) is not None
                ]
                self._networks.driver(network).restore(network, held)
            for container in containers:
                attached = container.facts.attached
                endpoint = _bridged(attached.endpoints)
                if attached.ports and endpoint is not None:
                    for warning in self._context.ports.restore(container.id, attached.ports, endpoint):
                        _log.warning("%s", warning)

    def _network(self, identity: str) -> Network:
        network = self._networks.get(identity)
        if network is None:
            raise Internal(f"The network {identity} was removed while a container was starting on it; start it again")
        return network


def _request(settings: EndpointSettings, record: Record, position: int) -> EndpointRequest:
    ipam = settings.ipam_config
    return EndpointRequest(
        ipv4=ipam.ipv4_address if ipam else "",
        ipv6=ipam.ipv6_address if ipam else "",
        mac=settings.mac_address or (record.config.mac_address if position == 0 else ""),
        ifname=f"eth{position}",
        default_route=position == 0,
        rate=rates.parse(record.host.net_rate),
    )


def _bridged(endpoints: dict[str, Endpoint]) -> Endpoint | None:
    """The endpoint that published ports lead to: the first with an address."""
    return next((endpoint for endpoint in endpoints.values() if endpoint.addresses), None)


def in_network_of(pidfd: int, action: Callable[[], None]) -> None:
    """Do something in the network namespace of a process, in a thread that ends with it.

    A thread may change its own network namespace (setns(2)); it never comes back, so nothing else runs in it.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            setns(pidfd, _CLONE_NEWNET)
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="in-network")
    thread.start()
    thread.join()
    if failures:
        error = failures[0]
        if isinstance(error, OSError):
            raise Internal(f"The container's network could not be changed: {describe(error)}") from error
        raise error
