"""What the resolver is told about containers on networks that users made: who is called what, and who asks whom.

Only such containers have names on their networks and a resolver of their own; on the default network a
container asks the host's servers, and nothing here costs it anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING

from cove import ids
from cove.engine.containers.records import PREDEFINED, Attached, Record
from cove.engine.containers.registry import Container
from cove.engine.context import Context
from cove.engine.networks.confining import followed, on, rules
from cove.network.dns.messages import Know, Member, Upstream, View
from cove.network.driver import Endpoint, Network
from cove.wire.networks import EndpointSettings

if TYPE_CHECKING:
    from cove.engine.networks.service import NetworkStore


def named(record: Record) -> bool:
    """Whether a container asks Cove's own resolver: it is on a network that a user made, or may reach only names."""
    return any(name not in PREDEFINED for name in record.endpoints) or bool(followed(rules(record, [])))


def dns_names(record: Record, settings: EndpointSettings) -> tuple[str, ...]:
    """What a container is called on a network, its name first."""
    names = (record.name, *(settings.aliases or ()), ids.short(record.id))
    own = () if record.config.hostname == ids.short(record.id) else (record.config.hostname,)
    return tuple(dict.fromkeys(each for each in (*names, *own) if each))


class Naming:
    """Tells the resolver; holds no state of its own."""

    def __init__(self, context: Context, networks: NetworkStore) -> None:
        self._context = context
        self._networks = networks

    def begin(self, record: Record, attached: Attached, pidfd: int) -> Awaitable[None] | None:
        """Before a container's program runs: its names, and its own resolver; to be waited for if not None."""
        if not self._announce(record, attached) and not named(record):
            return None
        return self._context.resolver.serve(self._view(record, attached), pidfd)

    def end(self, container_id: str, attached: Attached) -> None:
        """A container ended, or did not come to life."""
        for network_id in attached.endpoints:
            self._context.resolver.leave(network_id, container_id)
        self._context.resolver.forget(container_id)

    def left(self, container_id: str, network_id: str) -> None:
        """A container that runs on has left a network."""
        self._context.resolver.leave(network_id, container_id)

    def restore(self, containers: Iterable[Container]) -> None:
        """After a daemon's start: everybody who runs."""
        running = [each for each in containers if each.process is not None]
        served = []
        for container in running:
            record, attached = container.record, container.facts.attached
            if (self._announce(record, attached) or named(record)) and container.process is not None:
                served.append((self._view(record, attached), container.process.pidfd))
        self._context.resolver.restore(served)

    def _announce(self, record: Record, attached: Attached) -> bool:
        """Its names on each network that has names; whether there is such a network."""
        some = False
        for network, endpoint in self._named_endpoints(attached):
            subnets = tuple(subnet.subnet for subnet in network.subnets)
            self._context.resolver.know(Know(network=network.id, name=network.name, subnets=subnets))
            settings = record.endpoints.get(network.name, EndpointSettings())
            addresses = tuple(each.address for each in endpoint.addresses)
            member = Member(container=record.id, names=dns_names(record, settings), addresses=addresses)
            self._context.resolver.join(network.id, member)
            some = True
        return some

    def _named_endpoints(self, attached: Attached) -> list[tuple[Network, Endpoint]]:
        found = [(self._networks.get(identity), endpoint) for identity, endpoint in attached.endpoints.items()]
        return [(network, at) for network, at in found if network is not None and network.name not in PREDEFINED]

    def _view(self, record: Record, attached: Attached) -> View:
        asked, settings = record.host, self._context.settings
        inside = tuple(Upstream(address=each, inside=True) for each in asked.dns or ())
        names = followed(rules(record, on(self._networks, attached.endpoints)))
        return View(
            table=self._context.firewall.table if names else "",
            followed=names,
            container=record.id,
            networks=tuple(network.id for network, _ in self._named_endpoints(attached)),
            links={network.id: _links(record, network) for network, _ in self._named_endpoints(attached)},
            upstreams=inside or tuple(Upstream(address=each) for each in settings.dns),
            outside=any(endpoint.gateways for endpoint in attached.endpoints.values()),
            host=tuple(each for at in attached.endpoints.values() if at.gateways for each in at.host),
        )


def _links(record: Record, network: Network) -> dict[str, str]:
    """What a container alone calls others on a network; links without one are of the network that it was made for."""
    place = record.endpoints.get(network.name, EndpointSettings())
    first = record.host.network_mode in (network.name, network.id)
    wanted = (*(place.links or ()), *((record.host.links or ()) if first else ()))
    return {alias.lower(): target.lower() for alias, target in map(link, wanted)}


def link(text: str) -> tuple[str, str]:
    """(alias, target) of one --link, "TARGET[:ALIAS]"."""
    target, _, alias = text.partition(":")
    target = target.removeprefix("/")
    return (alias or target).rpartition("/")[2], target
