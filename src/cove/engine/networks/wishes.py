"""What a user asks of a new network, checked and read. Pure.

A network may hold nothing but configuration (`config_only`), for others to be made with (`config_from`): it has no
driver, nothing of it is in the kernel, and no container joins it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cove import ids
from cove.engine.containers.records import PREDEFINED
from cove.errors import Forbidden, InvalidArgument, NotFound, Unsupported
from cove.network import ipam, options, rates
from cove.network.driver import Network, Subnet
from cove.wire import networks as wire

HOLDER = "none"
"""The driver that a network which only holds configuration counts as one of."""


def check(body: wire.NetworkCreateRequest) -> None:
    """Refuse what no network can be."""
    if not body.name.strip() or body.name != body.name.strip() or "/" in body.name or not body.name.isprintable():
        raise InvalidArgument(f"invalid network name: {body.name!r}: it is empty, or has a / or space around it")
    if body.name in (*PREDEFINED, "default"):
        raise Forbidden(f"operation is not permitted on predefined {body.name} network")
    if body.config_only and (body.ingress or body.internal or body.attachable or body.scope):
        raise Forbidden(
            f"network {body.name} holds only configuration, so it is not ingress, internal or attachable and has no "
            "scope: say that of the networks made with it"
        )
    if body.scope not in ("", "local"):
        raise Unsupported(f"networks of the scope {body.scope} need a cluster, which this daemon is not part of")
    if body.ingress:
        raise Unsupported("ingress networks need a cluster, which this daemon is not part of")
    if source(body):
        _check_derived(body)
    if body.ipam is not None and body.ipam.driver not in ("", "default"):
        raise NotFound(f'could not find an IPAM driver: plugin "{body.ipam.driver}" not found')
    if body.ipam is not None and body.ipam.options:
        raise InvalidArgument(f"The driver of addresses has no option {next(iter(body.ipam.options))!r}")
    for pool in body.ipam.config if body.ipam is not None else ():
        if not pool.subnet and (pool.gateway or pool.ip_range or pool.auxiliary_addresses):
            raise InvalidArgument("a gateway, a range or an auxiliary address belongs to no subnet; name it too")


def source(body: wire.NetworkCreateRequest) -> str:
    """The network whose configuration the new one shall have; "" for its own."""
    return body.config_from.network if body.config_from is not None else ""


def _check_derived(body: wire.NetworkCreateRequest) -> None:
    if body.config_only:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    own = bool(body.labels or body.options or body.enable_ipv6 or body.enable_ipv4 is False)
    if own or (body.ipam is not None and (body.ipam.config or body.ipam.options)):
        raise Forbidden(
            "user-specified configurations are not supported if the network depends on a configuration network: "
            f"subnets, options and labels of {body.name} are those of {source(body)}"
        )


def holder(body: wire.NetworkCreateRequest) -> Network:
    """A network that holds nothing but the configuration of others. Raises InvalidArgument."""
    held = read(body, HOLDER, {})
    for subnet in held.subnets:
        for network in filter(None, (subnet.subnet, subnet.ip_range)):
            ipam.parse_network(network)
    for address in (*held.reserved.values(), *(subnet.gateway for subnet in held.subnets if subnet.gateway)):
        ipam.parse_address(address)
    return msgspec.structs.replace(held, config_only=True)


def derived(body: wire.NetworkCreateRequest, driver: str, held: Network, usual: Mapping[str, str]) -> Network:
    """A new network with the configuration that another one holds."""
    return msgspec.structs.replace(
        read(body, driver, usual),
        subnets=held.subnets,
        ipv4=held.ipv4,
        ipv6=held.ipv6,
        options={**usual, **held.options},
        labels=held.labels,
        reserved=held.reserved,
        config_from=held.name,
    )


def read(body: wire.NetworkCreateRequest, driver: str, usual: Mapping[str, str]) -> Network:
    """A new network as a request wants it; `usual`: options of those that say nothing. Raises InvalidArgument."""
    pools = body.ipam.config if body.ipam is not None else ()
    families = {4: body.enable_ipv4, 6: body.enable_ipv6}
    decided = [version for version, wish in families.items() if wish is not None]
    chosen = options.merged(body.options, usual, decided)
    network = Network(
        id=ids.new_id(),
        name=body.name,
        driver=driver,
        subnets=tuple(
            Subnet(subnet=pool.subnet, gateway=pool.gateway, ip_range=pool.ip_range) for pool in pools if pool.subnet
        ),
        ipv4=options.family(chosen, 4, families[4] is not False),
        ipv6=options.family(chosen, 6, bool(families[6])),
        internal=body.internal,
        attachable=body.attachable,
        options=chosen,
        labels=body.labels,
        reserved={name: at for pool in pools for name, at in pool.auxiliary_addresses.items()},
    )
    if not (network.ipv4 or network.ipv6):
        raise InvalidArgument("a network needs IPv4 or IPv6")
    return with_rate(network, chosen.get(rates.OPTION, ""))


def with_rate(network: Network, text: str) -> Network:
    """The network with its rate as `text` changes it, written the one way that it is stored."""
    rate = str(rates.parse(text, network.rate))
    kept = {key: value for key, value in network.options.items() if key != rates.OPTION}
    return msgspec.structs.replace(network, options=kept | ({rates.OPTION: rate} if rate else {}))
