"""Which networks a container is to be on, and what it may ask of each: checked before anything is made.

Pure but for the look at what networks there are.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import msgspec

from cove.engine.containers import spec
from cove.engine.containers.records import DEFAULT, PREDEFINED, Record
from cove.engine.networks.attachments import IFNAME_OPTION, SYSCTLS_OPTION, interface_sysctls
from cove.engine.networks.naming import link
from cove.errors import Forbidden, InvalidArgument, NotFound
from cove.network.driver import Network
from cove.wire.containers import HostConfig, NetworkingConfig
from cove.wire.networks import EndpointSettings

if TYPE_CHECKING:
    from cove.engine.networks.service import NetworkStore

_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}", re.IGNORECASE)
_DOCKER = "com.docker.network."


def places(networks: NetworkStore, asked: HostConfig, wanted: NetworkingConfig) -> dict[str, EndpointSettings]:
    """A new container's networks by name, that of --network first: those that it names, or else its mode's.

    Raises InvalidArgument.
    """
    if spec.lender(asked.network_mode):
        return {}
    first = _name(networks, asked.network_mode)
    found = {
        first if key == "default" else _name(networks, key): settings or EndpointSettings()
        for key, settings in wanted.endpoints_config.items()
    } or {first: EndpointSettings()}
    if {first, *found} & {"host", "none"} and {*found} != {first}:
        raise InvalidArgument("conflicting options: a container on the host or none network is on no other one")
    for text in asked.links or ():
        _check_link(text)
    ordered = sorted(found.items(), key=lambda each: each[0] != first)
    return {name: checked(networks.find(name).network, settings) for name, settings in ordered}


def unpublished(networks: NetworkStore, record: Record) -> tuple[str, ...]:
    """A warning about ports that are published nowhere, for no network of the container's leads to them."""
    asked = record.host.port_bindings or (record.host.publish_all_ports and record.config.exposed_ports)
    found = [networks.find(name).network for name in record.endpoints]
    leading = (each for each in found if each.driver == "host" or (each.driver == "bridge" and not each.internal))
    if not asked or not found or any(leading):
        return ()
    names = " and ".join(each.name for each in found)
    return (f"The container's ports are not published: nothing from outside leads into the network {names}",)


def refuse_holder(network: Network) -> None:
    """No container is on a network that only holds configuration."""
    if network.config_only:
        raise Forbidden(
            f"no container can be on the configuration-only network {network.name}: make one with "
            f"--config-from {network.name}"
        )


def checked(network: Network, settings: EndpointSettings) -> EndpointSettings:
    """What a container asks of one network, told apart from what is shown of it. Raises InvalidArgument."""
    refuse_holder(network)
    settings = msgspec.structs.replace(
        EndpointSettings(),
        ipam_config=settings.ipam_config,
        links=settings.links,
        aliases=settings.aliases,
        mac_address=settings.mac_address,
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
    )
    ipam = settings.ipam_config
    for version, text in ((4, ipam.ipv4_address), (6, ipam.ipv6_address)) if ipam else ():
        if text:
            _check_address(network, version, text)
    for text in ipam.link_local_ips if ipam else ():
        if not _address(text).is_link_local:
            raise _invalid(network, f"{text} is not a link-local address")
    if settings.aliases and network.name in PREDEFINED:
        raise _invalid(network, "network-scoped aliases are only supported for user-defined networks")
    if settings.mac_address and (
        _MAC.fullmatch(settings.mac_address) is None or int(settings.mac_address[:2], 16) & 1
    ):
        raise _invalid(
            network, f"invalid MAC address {settings.mac_address!r}: six pairs of digits, no group address"
        )
    for text in settings.links or ():
        _check_link(text)
    for option, value in (settings.driver_opts or {}).items():
        if option == IFNAME_OPTION:
            if not 0 < len(value.encode()) < 16 or "/" in value or value in (".", "..") or not value.isprintable():
                raise _invalid(network, f"{value!r} cannot be an interface's name: it has at most 15 characters")
        elif option == SYSCTLS_OPTION:
            interface_sysctls(value, "eth0")
        elif option.startswith(_DOCKER) or "." not in option:
            raise _invalid(network, f"unknown driver option {option!r}")
    return settings


def _name(networks: NetworkStore, ref: str) -> str:
    """Of a network; where there is no default network, "none" stands for it."""
    if ref == DEFAULT and not networks.identity(DEFAULT):
        return "none"
    try:
        return networks.find(ref).network.name
    except NotFound as error:
        raise InvalidArgument(f"failed to set up container networking: {error.message}") from None


def _check_address(network: Network, version: int, text: str) -> None:
    if network.name in PREDEFINED:
        raise _invalid(network, "user specified IP address is supported on user defined networks only")
    address = _address(text)
    if address.version != version:
        raise _invalid(network, f"{text} is not an IPv{version} address")
    if not any(address in ipaddress.ip_network(subnet.subnet) for subnet in network.subnets):
        raise _invalid(network, f"no configured subnet contains IP address {text}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text!r}") from None


def _check_link(text: str) -> None:
    alias, target = link(text)
    if not alias or not target or text.count(":") > 1:
        raise InvalidArgument(f"bad format for links: {text!r}: CONTAINER[:ALIAS] is needed")


def _invalid(network: Network, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid config for network {network.name}: invalid endpoint settings: {why}")
