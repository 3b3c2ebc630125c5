"""Networks: what there is, what the user makes, and who is on them.

Owns the records of networks and the three that are always there. Addresses and interfaces are the
drivers'; a container's share of a network is `attachments`'.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec import UNSET

from cove import ids
from cove.engine.containers.records import DEFAULT, PREDEFINED, NetworkRecord
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.networks.joining import Joining
from cove.engine.networks.places import checked
from cove.engine.networks.status import status
from cove.errors import Conflict, CoveError, Forbidden, InvalidArgument, NotFound, Unsupported
from cove.network import options, rates
from cove.network.driver import Driver, Endpoint, Network, Subnet
from cove.store.documents import Documents
from cove.wire import networks as wire
from cove.wire.filters import Filters
from cove.wire.networks import EndpointSettings
from cove.wire.times import stamp

_log = logging.getLogger("cove.engine")
_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}
"""What the API calls the driver of each; a driver is found under either name."""


def names_of_drivers(drivers: Iterable[str]) -> list[str]:
    """What the API calls them."""
    return [_DRIVERS.get(name, name) for name in drivers]


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
        return [self._render(record, containers=False) for record in found if self._wanted(record, filters)]

    @property
    def host_gateway(self) -> str:
        """The host as containers of the default network see it; "" where there is none."""
        return next(iter(self._store.host_gateways), "")

    async def inspect(self, ref: str, *, verbose: bool = False, scope: str = "") -> wire.Network:
        """One network with the containers that run on it."""
        if scope not in ("", "local"):
            raise NotFound(f"network {ref} not found")
        return self._render(self._store.find(ref), containers=True)

    async def create(self, body: wire.NetworkCreateRequest) -> wire.NetworkCreateResponse:
        """A new network of the user's."""
        if not body.name.strip() or body.name != body.name.strip() or "/" in body.name or not body.name.isprintable():
            raise InvalidArgument(f"invalid network name: {body.name!r}: it is empty, or has a / or space around it")
        if body.name in (*PREDEFINED, "default"):
            raise Forbidden(f"operation is not permitted on predefined {body.name} network")
        if any(record.network.name == body.name for record in self._store.all()):
            raise Conflict(f"network with name {body.name} already exists")
        _check_request(body)
        driver = body.driver or "bridge"
        if driver in ("host", "null", "none"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver not in self._context.network_drivers:
            raise NotFound(f'could not find plugin {driver} in v1 plugin registry: plugin "{driver}" not found')
        network = _asked(body, driver, self._context.settings.network_options.get(driver, {}))
        network = _with_rate(network, body.options.get(rates.OPTION, ""))
        self._store.driver(network).limit(network, ())
        self._store.add(network)
        self._context.resolver.warm()
        self._emit(network, "create")
        return wire.NetworkCreateResponse(id=network.id)

    async def update(self, ref: str, body: wire.NetworkUpdateRequest) -> None:
        """Another rate for all members together, at once; what the text does not name stays."""
        network = self._store.find(ref).network
        driver = self._store.driver(network)
        changed = _with_rate(network, body.net_rate)
        driver.limit(changed, self._held(network))
        self._store.change(changed)
        self._emit(changed, "update")

    async def remove(self, ref: str) -> None:
        """Remove a network that nobody is on."""
        network = self._store.find(ref).network
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        users = [f'name:"{user.name}" id:"{ids.short(user.id)}"' for user in self.users(network)]
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
            and filters.exact("driver", _DRIVERS.get(network.driver, network.driver))
            and filters.exact("scope", "local")
            and filters.exact("type", kind)
            and filters.labels(network.labels)
            and not ("label!" in filters and filters.labels(network.labels, "label!"))
        )

    def _render(self, record: NetworkRecord, *, containers: bool) -> wire.Network:
        network = record.network
        pools = tuple(
            wire.IPAMConfig(
                subnet=pool.subnet,
                gateway=pool.gateway,
                ip_range=pool.ip_range,
                auxiliary_addresses=_reserved(network, pool.subnet),
            )
            for pool in network.subnets
        )
        shown: dict[str, wire.EndpointResource] = {}
        for user in self.users(network) if containers else ():
            endpoint = user.facts.attached.endpoints[network.id]
            shown[user.id] = wire.EndpointResource(
                name=user.name,
                endpoint_id=endpoint_id(user.id, network.id),
                mac_address=endpoint.mac,
                ipv4_address=f"{endpoint.ipv4.address}/{endpoint.ipv4.prefix}" if endpoint.ipv4 else "",
                ipv6_address=f"{endpoint.ipv6.address}/{endpoint.ipv6.prefix}" if endpoint.ipv6 else "",
            )
        return wire.Network(
            name=network.name,
            id=network.id,
            created=stamp(record.created_ns),
            driver=_DRIVERS.get(network.driver, network.driver),
            enable_ipv4=network.ipv4,
            enable_ipv6=network.ipv6,
            ipam=wire.IPAM(config=pools),
            internal=network.internal,
            attachable=network.attachable,
            options={**network.options, **_link_option(network)},
            labels=network.labels,
            containers=shown if containers else UNSET,
            status=status(network, self._held(network)) if containers else UNSET,
        )

    def _held(self, network: Network) -> Sequence[Endpoint]:
        return [user.facts.attached.endpoints[network.id] for user in self.users(network)]

    def _emit(self, network: Network, action: str, container: Container | None = None) -> None:
        attributes = {"name": network.name, "type": _DRIVERS.get(network.driver, network.driver)}
        if container is not None:
            attributes["container"] = container.id
        self._context.events.emit("network", action, network.id, attributes)


def _asked(body: wire.NetworkCreateRequest, driver: str, usual: Mapping[str, str]) -> Network:
    """A new network as a request wants it; `usual`: options of those that say nothing."""
    ipam = body.ipam or wire.IPAM()
    families = {4: body.enable_ipv4, 6: body.enable_ipv6}
    decided = [version for version, wish in families.items() if wish is not None]
    chosen = options.merged(body.options, usual, decided)
    network = Network(
        id=ids.new_id(),
        name=body.name,
        driver=driver,
        subnets=tuple(
            Subnet(subnet=pool.subnet, gateway=pool.gateway, ip_range=pool.ip_range)
            for pool in ipam.config
            if pool.subnet
        ),
        ipv4=options.family(chosen, 4, families[4] is not False),
        ipv6=options.family(chosen, 6, bool(families[6])),
        internal=body.internal,
        attachable=body.attachable,
        options=chosen,
        labels=body.labels,
        reserved={name: at for pool in ipam.config for name, at in pool.auxiliary_addresses.items()},
    )
    if not (network.ipv4 or network.ipv6):
        raise InvalidArgument("a network needs IPv4 or IPv6")
    return network


def endpoint_id(container: str, network: str) -> str:
    """The identity of a container's place on a network: as long as both last, always the same."""
    return f"{int(container, 16) ^ int(network, 16):064x}"


def _link_option(network: Network) -> dict[str, str]:
    """Only the default network's, which nobody named: others show what they were made with."""
    default = network.name == "bridge" and network.link
    return {"com.docker.network.bridge.name": network.link} if default else {}


def _reserved(network: Network, subnet: str) -> dict[str, str]:
    within = ipaddress.ip_network(subnet)
    return {name: at for name, at in network.reserved.items() if ipaddress.ip_address(at) in within}


def _with_rate(network: Network, text: str) -> Network:
    """The network with its rate as `text` changes it, written the one way that it is stored."""
    rate = str(rates.parse(text, network.rate))
    kept = {key: value for key, value in network.options.items() if key != rates.OPTION}
    return msgspec.structs.replace(network, options=kept | ({rates.OPTION: rate} if rate else {}))


def _check_request(body: wire.NetworkCreateRequest) -> None:
    if body.scope not in ("", "local"):
        raise Unsupported(f"networks of the scope {body.scope} need a cluster, which this daemon is not part of")
    if body.ingress:
        raise Unsupported("ingress networks need a cluster, which this daemon is not part of")
    if body.config_only or (body.config_from is not None and body.config_from.network):
        raise Unsupported(
            "there are no networks that only hold others' configuration; name it with each, or put options for all "
            "of a driver's into network.default_options of daemon.toml"
        )
    if body.ipam is not None and body.ipam.driver not in ("", "default"):
        raise NotFound(f'could not find an IPAM driver: plugin "{body.ipam.driver}" not found')
    if body.ipam is not None and body.ipam.options:
        raise InvalidArgument(f"The driver of addresses has no option {next(iter(body.ipam.options))!r}")
    for pool in body.ipam.config if body.ipam is not None else ():
        if not pool.subnet and (pool.gateway or pool.ip_range or pool.auxiliary_addresses):
            raise InvalidArgument("a gateway, a range or an auxiliary address belongs to no subnet; name it too")


def _check_joinable(container: Container, network: Network) -> None:
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
