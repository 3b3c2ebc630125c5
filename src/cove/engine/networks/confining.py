"""Egress rules of a container: its own first, then those of its networks; kept by the firewall and the resolver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cove.engine.containers.records import Attached, Record
from cove.network import egress
from cove.network.driver import Endpoint, Network
from cove.network.egress import Confined, Rule

if TYPE_CHECKING:
    from cove.engine.networks.service import NetworkStore


def rules(record: Record, networks: list[Network]) -> tuple[Rule, ...]:
    """Every rule that holds for a container, in order."""
    texts = [*record.host.egress, *(network.options.get(egress.OPTION, "") for network in networks)]
    return egress.parse(texts)


def followed(found: tuple[Rule, ...]) -> tuple[str, ...]:
    """The names among them."""
    return tuple(dict.fromkeys(rule.name for rule in found if rule.name))


def confined(record: Record, attached: Attached, networks: NetworkStore) -> Confined | None:
    """A container's rules and addresses; None when it may reach everything."""
    found = rules(record, on(networks, attached.endpoints))
    bridged = [each for each in attached.endpoints.values() if each.driver == "bridge"]
    addresses = tuple(address.address for endpoint in bridged for address in endpoint.addresses)
    servers = tuple(record.host.dns or ())
    return Confined(owner=record.id, addresses=addresses, rules=found, servers=servers) if found else None


def on(networks: NetworkStore, endpoints: dict[str, Endpoint]) -> list[Network]:
    return [network for identity in endpoints if (network := networks.get(identity)) is not None]
