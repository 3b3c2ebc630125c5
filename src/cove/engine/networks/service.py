"""Networks: what there is, what the user makes, and who is on them.

Owns the records of networks and the three that are always there. Addresses and interfaces are the
drivers'; a container's share of a network is `attachments`'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence

import msgspec

from cove import ids
from cove.engine.containers.records import DEFAULT, PREDEFINED, NetworkRecord
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.networks import view, wishes
from cove.engine.networks.joining import Joining
from cove.engine.networks.places import checked, refuse_holder
from cove.errors import Conflict, CoveError, Forbidden, InvalidArgument, NotFound
from cove.network.driver import Driver, Endpoint, Network
from cove.store.documents import Documents
from cove.wire import networks as wire
from cove.wire.filters import Filters
from cove.wire.networks import EndpointSettings

_log = logging.getLogger("cove.engine")


class NetworkStore:
    """Every network by identity, loaded once; the default ones are made on first use of a data root."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._documents = Documents(context.database, "networks", NetworkRecord, named=True)
        self._records: dict[str, NetworkRecord] = {}

    def load(self) -> None:
        """Read the records and see that the predefined networks are there, but for the default one (`settle`)."""
        self._records = self._documents.load()
        present = {record.network.name for record in self._records.values()}
        for name in PREDEFINED:
            if name not in present and name != DEFAULT:
                self.add(Network(id=ids.new_id(), name=name, driver=name))

    def settle(self, in_use: Collection[str]) -> None:
        """Have the default network as it is wanted now, unless it is one of those in use, by identity."""
        wanted = self._context.settings.default_network
        known = next((each for each in self._records.values() if each.network.name == DEFAULT), None)
        if known is None:
            if wanted.there:
                self.add(wanted.network(ids.new_id()), wanted.text)
            return
        if known.wishes == wanted.text:
            return
        identity = known.network.id
        if identity in in_use:
            _log.warning("containers run on the default network, so it stays as it is until the daemon's next start")
            return
        self.driver(known.network).remove(known.network)
        if wanted.there:
            self.add(wanted.network(identity), wanted.text)
        else:
            self.remove(known.network)

    def add(self, network: Network, wishes: str = "") -> NetworkRecord:
        """Complete a network by its driver and write it down."""
        complete = self.driver(network).create(network)
        record = NetworkRecord(network=complete, created_ns=time.time_ns(), wishes=wishes)
        self._documents.put(complete.id, record, name=complete.name)
        self._records[complete.id] = record
        return record

    def change(self, network: Network) -> None:
        """Write down that a network has other options."""
        record = msgspec.structs.replace(self._records[network.id], network=network)
        self._documents.put(network.id, record, name=network.name)
        self._records[network.id] = record

    def remove(self, network: Network) -> None:
        """Take it from the kernel, then from the records."""
        self.driver(network).remove(network)
        self._documents.delete(network.id)
        self._records.pop(network.id, None)

    def driver(self, network: Network) -> Driver:
        """Who makes it work."""
        return self._context.network_drivers[network.driver]

    def all(self) -> list[NetworkRecord]:
        return list(self._records.values())

    def get(self, identity: str) -> Network | None:
        record = self._records.get(identity)
        return record.network if record else None

    def identity(self, name: str) -> str:
        """Of the network with a name; "" when it has gone."""
        return next((identity for identity, record in self._records.items() if record.network.name == name), "")

    @property
    def host_gateways(self) -> tuple[str, ...]:
        """The host's addresses on the default network."""
        network = self.get(self.identity(DEFAULT))
        return tuple(subnet.gateway for subnet in network.subnets if subnet.gateway) if network is not None else ()

    def find(self, ref: str) -> NetworkRecord:
        """By identity, name or the unique beginning of an identity; raises NotFound."""
        if ref in self._records:
            return self._records[ref]
        named = [record for record in self._records.values() if record.network.name == ref]
        matches = named or [record for identity, record in self._records.items() if ref and identity.startswith(ref)]
        if len(matches) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(matches)} matches found on ID prefix)")
        if not matches:
            raise NotFound(f"network {ref} not found")
        return matches[0]


class NetworkService:
    """The use cases of networks."""

    def __init__(self, context: Context, store: NetworkStore, registry: Registry, joining: Joining) -> None:
        self._context = context
        self._store = store
        self._registry = registry
        self._joining = joining

    async def list(self, *, filters: Filters = Filters()) -> list[wire.Network]:  # noqa: B008 - frozen
        """Networks without their containers, the newest last."""
        found = sorted(self._store.all(), key=lambda record: record.created_ns)
        return [view.network(record, None) for record in found if self._wanted(record, filters)]

    @property
    def host_gateway(self) -> str:
        """The host as containers of the default network see it; "" where there is none."""
        return next(iter(self._store.host_gateways), "")

    async def inspect(self, ref: str, *, verbose: bool = False, scope: str = "") -> wire.Network:
        """One network with the containers that run on it."""
        if scope not in ("", "local"):
            raise NotFound(f"network {ref} not found")
        record = self._store.find(ref)
        return view.network(record, self.users(record.network))

    async def create(self, body: wire.NetworkCreateRequest) -> wire.NetworkCreateResponse:
        """A new network of the user's."""
        wishes.check(body)
        if any(record.network.name == body.name for record in self._store.all()):
            raise Conflict(f"network with name {body.name} already exists")
        network = wishes.holder(body) if body.config_only else self._wished(body)
        self._store.add(network)
        self._context.resolver.warm()
        self._emit(network, "create")
        return wire.NetworkCreateResponse(id=network.id)

    def _wished(self, body: wire.NetworkCreateRequest) -> Network:
        driver = body.driver or "bridge"
        if driver in ("host", "null", "none"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver not in self._context.network_drivers:
            raise NotFound(f'could not find plugin {driver} in v1 plugin registry: plugin "{driver}" not found')
        usual = self._context.settings.network_options.get(driver, {})
        if source := wishes.source(body):
            network = wishes.derived(body, driver, self._holder(source), usual)
        else:
            network = wishes.read(body, driver, usual)
        self._store.driver(network).limit(network, ())
        return network

    def _holder(self, name: str) -> Network:
        held = next((each.network for each in self._store.all() if each.network.name == name), None)
        if held is None or not held.config_only:
            raise NotFound(f'configuration network "{name}" does not exist: make it with --config-only')
        return held

    async def update(self, ref: str, body: wire.NetworkUpdateRequest) -> None:
        """Another rate for all members together, at once; what the text does not name stays."""
        network = self._store.find(ref).network
        driver = self._store.driver(network)
        changed = wishes.with_rate(network, body.net_rate)
        driver.limit(changed, self._held(network))
        self._store.change(changed)
        self._emit(changed, "update")

    async def remove(self, ref: str) -> None:
        """Remove a network that nobody is on."""
        network = self._store.find(ref).network
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        users = [f'name:"{user.name}" id:"{ids.short(user.id)}"' for user in self.users(network)]
        made = [each.network.name for each in self._store.all() if each.network.config_from == network.name]
        if network.config_only and made:
            raise Forbidden(f'configuration network "{network.name}" is in use by {", ".join(made)}')
        if users:
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints ({', '.join(users)})"
            )
        self._store.remove(network)
        self._context.resolver.unknow(network.id)
        self._emit(network, "destroy")

    async def connect(self, ref: str, body: wire.NetworkConnectRequest) -> None:
        """Put a container on a further network, at once if it runs."""
        network = self._store.find(ref).network
        container = self._registry.find(body.container)
        async with container.lock:
            _check_joinable(container, network)
            settings = checked(network, body.endpoint_config or EndpointSettings())
            endpoints = {**container.record.endpoints, network.name: settings}
            if container.facts.running:
                record = msgspec.structs.replace(container.record, endpoints=endpoints)
                await self._joining.join(container, network, record)
            self._registry.rewrite(container, endpoints=endpoints)
        self._emit(network, "connect", container)

    async def disconnect(self, ref: str, body: wire.NetworkDisconnectRequest) -> None:
        """Take a container off a network, at once if it runs."""
        network = self._store.find(ref).network
        container = self._registry.find(body.container)
        async with container.lock:
            if network.name not in container.record.endpoints:
                raise Forbidden(f"container {container.id} is not connected to network {network.name}")
            if network.driver == "host":
                raise Forbidden("container cannot be disconnected from host network or connected to host network")
            before = container.record
            endpoints = {name: at for name, at in before.endpoints.items() if name != network.name}
            self._registry.rewrite(container, endpoints=endpoints)  # first: who comes after a crash finishes it
            if container.facts.running:
                try:
                    await self._joining.leave(container, network, before)
                except CoveError:
                    self._registry.rewrite(container, endpoints=before.endpoints)
                    raise
        self._emit(network, "disconnect", container)

    def users(self, network: Network) -> Sequence[Container]:
        """The containers that run on a network."""
        return [
            container
            for container in self._registry
            if container.facts.running and network.id in container.facts.attached.endpoints
        ]

    def unused(self, filters: Filters, older_than: int) -> Sequence[Network]:
        """The user's networks that no container is or will be on."""
        named = {name for container in self._registry for name in container.record.endpoints}
        return [
            record.network
            for record in self._store.all()
            if record.network.name not in PREDEFINED
            and record.network.name not in named
            and not record.network.config_only
            and record.created_ns <= older_than
            and self._wanted(record, filters)
        ]

    # ── values ────────────────────────────────────────────────────────────────────────────────────

    def _wanted(self, record: NetworkRecord, filters: Filters) -> bool:
        network = record.network
        if filters.flag("dangling") is not None:
            used = network.name in PREDEFINED or bool(self.users(network))
            if filters.flag("dangling") == used:
                return False
        kind = "builtin" if network.name in PREDEFINED else "custom"
        for asked in filters.get("type"):
            if asked not in ("builtin", "custom"):
                raise InvalidArgument(f"invalid filter: 'type'='{asked}': say builtin or custom")
        return (
            (not filters.get("name") or any(part in network.name for part in filters.get("name")))
            and (not filters.get("id") or any(network.id.startswith(part) for part in filters.get("id")))
            and filters.exact("driver", view.name_of_driver(network.driver))
            and filters.exact("scope", "local")
            and filters.exact("type", kind)
            and filters.labels(network.labels)
            and not ("label!" in filters and filters.labels(network.labels, "label!"))
        )

    def _held(self, network: Network) -> Sequence[Endpoint]:
        return [user.facts.attached.endpoints[network.id] for user in self.users(network)]

    def _emit(self, network: Network, action: str, container: Container | None = None) -> None:
        attributes = {"name": network.name, "type": view.name_of_driver(network.driver)}
        if container is not None:
            attributes["container"] = container.id
        self._context.events.emit("network", action, network.id, attributes)


def _check_joinable(container: Container, network: Network) -> None:
    refuse_holder(network)
    if network.driver == "host" or container.record.host.network_mode == "host":
        raise Forbidden("container cannot be disconnected from host network or connected to host network")
    if container.record.host.network_mode.startswith("container:"):
        raise Forbidden(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if network.name in container.record.endpoints:
        raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
    if network.driver == "none" or "none" in container.record.endpoints:
        raise Forbidden(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
