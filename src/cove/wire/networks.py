"""Networks: what is asked for, what is told, and a container's place in one of them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.wire.base import Value


class EndpointIPAMConfig(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Addresses that the user wants."""

    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_ips: tuple[str, ...] = msgspec.field(name="LinkLocalIPs", default=())


class EndpointSettings(Value, frozen=True, kw_only=True):
    """A container's place in a network: the first seven fields are asked for, the others told."""

    ipam_config: EndpointIPAMConfig | None = msgspec.field(name="IPAMConfig", default=None)
    links: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: tuple[str, ...] | None = msgspec.field(name="DNSNames", default=None)


class IPAMConfig(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A pool of addresses; "10.1.0.0/16"."""

    subnet: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class IPAM(Value, frozen=True, kw_only=True):
    driver: str = "default"
    options: dict[str, str] | None = None
    config: tuple[IPAMConfig, ...] = ()


class ConfigReference(Value, frozen=True, kw_only=True):
    network: str = ""


class NetworkCreateRequest(Value, frozen=True, kw_only=True):
    """The body of POST /networks/create. `enable_ipv4` None means yes, `enable_ipv6` None no."""

    name: str = ""
    driver: str = "bridge"
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    ipam: IPAM | None = msgspec.field(name="IPAM", default=None)
    enable_ipv4: bool | None = msgspec.field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = msgspec.field(name="EnableIPv6", default=None)
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class NetworkCreateResponse(Value, frozen=True, kw_only=True):
    id: str
    warning: str = ""


class NetworkUpdateRequest(Value, frozen=True, kw_only=True):
    """The body of POST /networks/{id}/update, which is Cove's own: "in=1048576,out=0" (`cove.network.rates`)."""

    net_rate: str = ""


class NetworkConnectRequest(Value, frozen=True, kw_only=True):
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnectRequest(Value, frozen=True, kw_only=True):
    container: str = ""
    force: bool = False


class EndpointResource(Value, frozen=True, kw_only=True):
    """A container in a network; addresses carry their prefix length."""

    name: str
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    mac_address: str = ""
    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")


class SubnetStatus(Value, frozen=True, kw_only=True):
    """How many of a subnet's addresses are used or reserved, and how many containers can still be given."""

    ips_in_use: int = msgspec.field(name="IPsInUse")
    dynamic_ips_available: int = msgspec.field(name="DynamicIPsAvailable")


class IPAMStatus(Value, frozen=True, kw_only=True):
    subnets: dict[str, SubnetStatus] = {}


class NetworkStatus(Value, frozen=True, kw_only=True):
    ipam: IPAMStatus = msgspec.field(name="IPAM")


class Network(Value, frozen=True, kw_only=True):
    """Both the inspection of a network and, without `containers` and `status`, its summary."""

    name: str
    id: str
    created: str
    scope: str = "local"
    driver: str
    enable_ipv4: bool = msgspec.field(name="EnableIPv4", default=True)
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: IPAM = msgspec.field(name="IPAM", default=IPAM())
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigReference = ConfigReference()
    config_only: bool = False
    containers: dict[str, EndpointResource] | UnsetType = UNSET
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    status: NetworkStatus | UnsetType = UNSET


class NetworkPruneResponse(Value, frozen=True, kw_only=True):
    networks_deleted: tuple[str, ...] | None = None
