"""The default network, "bridge", as the administrator wants it: `[network]` of daemon.toml, with dockerd's words.

Pure. The network is made by these wishes when a data root has none, and again when they change.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

import msgspec

from cove.errors import InvalidArgument
from cove.network.driver import Network, Subnet

_BRIDGE = "com.docker.network.bridge."
_MTU = "com.docker.network.driver.mtu"


class DefaultNetwork(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`bridge`: "none" for no default network at all. `bip`: the bridge's address with its prefix.

    `fixed_cidr`: the part of its subnet that containers get. `fixed_cidr_v6`: its IPv6 subnet.
    """

    bridge: Literal["", "none"] = ""
    bip: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    ipv6: bool = True
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True

    @property
    def there(self) -> bool:
        return not self.bridge

    @property
    def text(self) -> str:
        """What tells these wishes from others; "" for the usual ones."""
        return "" if self == USUAL else msgspec.json.encode(self).decode()

    def network(self, identity: str) -> Network:
        """What to ask the driver for. Raises InvalidArgument."""
        options = {}
        if not self.icc:
            options[f"{_BRIDGE}enable_icc"] = "false"
        if not self.masquerade:
            options[f"{_BRIDGE}enable_ip_masquerade"] = "false"
        if self.mtu:
            options[_MTU] = str(self.mtu)
        return Network(
            id=identity, name="bridge", driver="bridge", subnets=self._subnets(), ipv6=self.ipv6, options=options
        )

    def _subnets(self) -> tuple[Subnet, ...]:
        found = []
        if self.bip:
            address = _interface(self.bip, "bip")
            found.append(
                Subnet(subnet=str(address.network), gateway=str(address.ip), ip_range=_part(self.fixed_cidr, address))
            )
        elif self.fixed_cidr:
            found.append(Subnet(subnet=str(_interface(self.fixed_cidr, "fixed_cidr").network)))
        if self.fixed_cidr_v6:
            wide = _interface(self.fixed_cidr_v6, "fixed_cidr_v6").network
            if wide.version != 6 or not self.ipv6:
                raise InvalidArgument(
                    f"network.fixed_cidr_v6 {self.fixed_cidr_v6}: a subnet of IPv6 is needed, and ipv6"
                )
            found.append(Subnet(subnet=str(wide)))
        return tuple(found)


def _interface(text: str, key: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        if "/" not in text:
            raise ValueError("it has no prefix length")
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidArgument(f"network.{key} {text!r}: {error}; write 192.168.5.1/24") from None


def _part(text: str, bridge: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    if not text:
        return ""
    part = _interface(text, "fixed_cidr").network
    if part.version != bridge.version or not part.subnet_of(bridge.network):  # type: ignore[arg-type]
        raise InvalidArgument(f"network.fixed_cidr {text} is not in the subnet of network.bip, {bridge.network}")
    return str(part)


USUAL = DefaultNetwork()
