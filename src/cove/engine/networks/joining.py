"""Networks of a container that runs: another interface comes, one goes, and everything that depends on it follows.

join    plan ─▶ attach ─▶ set up inside ─▶ default routes ─▶ names, resolv.conf, hosts
leave   the same backwards; a container keeps its published ports while another of its networks can carry them
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from cove.engine.containers.launch import Launcher
from cove.engine.containers.records import Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.networks.attachments import Attachments, endpoint_request, interface, interface_names, published
from cove.errors import Internal, describe
from cove.kernel import interfaces, netlink
from cove.kernel.nlwire import Request
from cove.kernel.syscalls import setns
from cove.network.driver import Endpoint, Network
from cove.runtime.messages import Interface

if TYPE_CHECKING:
    from cove.engine.networks.service import NetworkStore

_CLONE_NEWNET = 0x40000000
Endpoints = dict[str, Endpoint]


class Joining:
    """Changes the networks of running containers; the caller holds the container's lock."""

    def __init__(
        self,
        context: Context,
        networks: NetworkStore,
        registry: Registry,
        attachments: Attachments,
        launcher: Launcher,
    ) -> None:
        self._context = context
        self._networks = networks
        self._registry = registry
        self._attachments = attachments
        self._launcher = launcher

    async def join(self, container: Container, network: Network, record: Record) -> None:
        """Give a running container an interface on a further network. `record`: what it is from now on."""
        assert container.process is not None
        attached, driver = container.facts.attached, self._networks.driver(network)
        taken = {endpoint.ifname for endpoint in attached.endpoints.values()}
        settings = record.endpoints[network.name]
        called = interface_names({network.name: network}, {network.name: settings}, taken)[network.name]
        request = endpoint_request(settings, record, called, first=not taken)
        endpoint = driver.plan(network, container.id, request)
        with ExitStack() as undo:
            undo.callback(driver.release, network, endpoint)
            endpoints = self._attachments.routed(record, {**attached.endpoints, network.id: endpoint})
            made = driver.attach(network, endpoints[network.id], container.process.pid)
            undo.callback(driver.detach, network, endpoint)
            if made is not None:
                ready = interface(made, settings)
                await _inside(container, lambda: _arrive(ready, attached.endpoints, endpoints))
            undo.callback(self._attachments.naming.left, container.id, network.id)
            await self._told(container, container.record, record, endpoints)
            self._attachments.publish_again(container, published(attached.endpoints))
            undo.pop_all()

    async def finish(self, container: Container) -> None:
        """After a daemon died in the middle of a join or a leave: a network that the record does not name goes."""
        for identity in list(container.facts.attached.endpoints):
            network = self._networks.get(identity)
            if network is not None and network.name not in container.record.endpoints:
                await self.leave(container, network, container.record)

    async def leave(self, container: Container, network: Network, before: Record) -> None:
        """Take a running container's interface away; ports that led through it go another way, or end.

        `before`: what the container was while it was on this network; its record knows that no more.
        """
        record = container.record
        attached, driver = container.facts.attached, self._networks.driver(network)
        endpoint = attached.endpoints.get(network.id)
        if endpoint is None or container.process is None:
            return
        rest = {identity: each for identity, each in attached.endpoints.items() if identity != network.id}
        rest = self._attachments.routed(record, rest)
        driver.detach(network, endpoint)
        await _inside(container, lambda: _depart(endpoint, attached.endpoints, rest))
        driver.release(network, endpoint)
        self._attachments.naming.left(container.id, network.id)
        await self._told(container, before, record, rest)
        self._attachments.publish_again(container, published(attached.endpoints))

    async def renamed(self, container: Container) -> None:
        """A running container has another name: its networks hear of it."""
        waiting = self._attachments.naming.begin(
            container.record, container.facts.attached, container.process.pidfd if container.process else -1
        )
        if waiting is not None:
            await waiting

    async def _told(self, container: Container, was: Record, record: Record, endpoints: Endpoints) -> None:
        """Names and name files follow the networks."""
        assert container.process is not None
        before = was, container.facts.attached
        attached = msgspec.structs.replace(container.facts.attached, endpoints=endpoints)
        waiting = self._attachments.naming.begin(record, attached, container.process.pidfd)
        if waiting is not None:
            await waiting
        self._registry.note(container, attached=attached)
        self._attachments.confine(record, attached)
        self._launcher.rewrite(before, (record, attached))


def _arrive(ready: Interface, before: Endpoints, after: Endpoints) -> None:
    interfaces.configure((ready,))
    _reroute(before, after)


def _depart(endpoint: Endpoint, before: Endpoints, after: Endpoints) -> None:
    """An interface without an end on the host has to be deleted here."""
    if endpoint.ifname and not endpoint.host_ifname:
        try:
            with netlink.Route() as route:
                route.commit([netlink.delete(endpoint.ifname)])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
    _reroute(before, after)


def _reroute(before: Endpoints, after: Endpoints) -> None:
    """Default routes that others have now, or nobody. A route replaces the one of its family that there was."""
    old = {gateway: each.ifname for each in before.values() for gateway in each.default_routes}
    new = {gateway: each.ifname for each in after.values() for gateway in each.default_routes}
    with netlink.Route() as route:
        links = {link.name: link.ifindex for link in route.links()}
        requests: list[Request] = []
        for gateway, ifname in old.items():
            if gateway not in new and ifname in links:
                requests.append(netlink.delete_route(links[ifname], gateway, name=ifname))
        for gateway, ifname in new.items():
            if ifname in links:
                requests.append(netlink.add_route(links[ifname], gateway, name=ifname))
        for request in requests:
            try:
                route.commit([request])
            except ProcessLookupError:
                continue  # the route had gone with its interface, or was replaced


async def _inside(container: Container, action: Callable[[], None]) -> None:
    assert container.process is not None
    await asyncio.to_thread(in_network_of, container.process.pidfd, action)


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
