"""A network's options, as users write them, read into one frozen value. Pure.

Names are Docker's ("com.docker.network.bridge.enable_icc"); `mtu`, `icc` and `parent` alone do as well. What is
not known here is refused by name, for a misspelt option would otherwise silently do nothing; only options with
a prefix of somebody else's ("com.example.note") are let through, for they are notes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Literal, cast

import msgspec

from cove.errors import InvalidArgument
from cove.network import egress, rates

_DOCKER = "com.docker.network."
_BRIDGE = f"{_DOCKER}bridge."
_SHORT = {"mtu": f"{_DOCKER}driver.mtu", "icc": f"{_BRIDGE}enable_icc"}
_NAME_LIMIT = 15
SWITCH_PREFIX = "covex"
"""What the names of networks' further bridges begin with, and no other link's; the firewall's rules name it too."""

_FAMILIES = {4: f"{_DOCKER}enable_ipv4", 6: f"{_DOCKER}enable_ipv6"}

GatewayMode = Literal["nat", "nat-unprotected", "routed", "isolated"]
_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_OURS = (
    f"{_DOCKER}driver.mtu",
    f"{_DOCKER}container_iface_prefix",
    f"{_DOCKER}host_ipv4",
    f"{_DOCKER}host_ipv6",
    *_FAMILIES.values(),
    rates.OPTION,
    egress.OPTION,
)
_BRIDGE_ONLY = tuple(
    f"{_BRIDGE}{name}"
    for name in (
        "name",
        "enable_icc",
        "enable_ip_masquerade",
        "host_binding_ipv4",
        "gateway_mode_ipv4",
        "gateway_mode_ipv6",
        "inhibit_ipv4",
        "default_bridge",
    )
)
_PARENTED = ("parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the options of a bridge network say.

    `together`: whether its containers reach each other. `modes`: for 4 and 6, how the outside and they meet:
    "nat" through the host's address and published ports, "nat-unprotected" as that and unpublished ports are open
    too, "routed" by the containers' own addresses and published ports alone, "isolated" without any address of
    the host's on the bridge. `source`: for 4 and 6, the host's address that they go out under, "" for the usual.
    """

    link: str = ""
    mtu: int = 0
    together: bool = True
    masquerade: bool = True
    inhibit_ipv4: bool = False
    host_binding: str = ""
    mode4: GatewayMode = "nat"
    mode6: GatewayMode = "nat"
    source4: str = ""
    source6: str = ""

    def mode(self, version: int) -> GatewayMode:
        return self.mode4 if version == 4 else self.mode6

    def has_address(self, version: int) -> bool:
        """Whether the bridge has an address of a family (4 or 6)."""
        return self.mode(version) != "isolated" and not (version == 4 and self.inhibit_ipv4)


def bridge(options: Mapping[str, str], *, internal: bool) -> Options:
    """The options of a bridge network. Raises InvalidArgument with the option's name."""
    check(options, (*_OURS, *_BRIDGE_ONLY), "bridge")
    egress.parse((options.get(egress.OPTION, ""),))
    prefix(options)
    given = {_SHORT.get(name, name): value for name, value in options.items()}
    read = Options(
        link=_link(given.get(f"{_BRIDGE}name", "")),
        mtu=mtu(given),
        together=_truth(given, f"{_BRIDGE}enable_icc", True),
        masquerade=_truth(given, f"{_BRIDGE}enable_ip_masquerade", True),
        inhibit_ipv4=_truth(given, f"{_BRIDGE}inhibit_ipv4", False),
        host_binding=_address(given, f"{_BRIDGE}host_binding_ipv4", 4),
        mode4=_mode(given, 4),
        mode6=_mode(given, 6),
        source4=_address(given, f"{_DOCKER}host_ipv4", 4),
        source6=_address(given, f"{_DOCKER}host_ipv6", 6),
    )
    if "isolated" in (read.mode4, read.mode6) and not internal:
        raise InvalidArgument("The gateway mode isolated is for internal networks only; add --internal")
    return read


def parented(options: Mapping[str, str], driver: str) -> None:
    """Refuse what a macvlan or ipvlan network cannot mean."""
    own = [each for each in _PARENTED if not each.endswith(("_mode", "_flag")) or each.startswith(driver)]
    check(options, (*_OURS[:2], rates.OPTION, *own), driver)
    prefix(options)


def check(options: Mapping[str, str], known: Iterable[str], driver: str) -> None:
    for name in options:
        full = _SHORT.get(name, name)
        if full not in known and ("." not in name or name.startswith((_DOCKER, "cove."))):
            raise InvalidArgument(f"Unknown option {name!r} for a network of the driver {driver}")


def family(options: Mapping[str, str], version: int, asked: bool) -> bool:
    """Whether a network has addresses of a family (4 or 6): as an option says, else as asked for otherwise."""
    return _truth(options, _FAMILIES[version], asked)


def merged(options: Mapping[str, str], usual: Mapping[str, str], decided: Iterable[int]) -> dict[str, str]:
    """A new network's options over the usual ones, without those of families (4, 6) that are decided otherwise."""
    ours = {_FAMILIES[version] for version in decided}
    return {**{name: value for name, value in usual.items() if name not in ours}, **options}


def mtu(options: Mapping[str, str]) -> int:
    text = options.get(f"{_DOCKER}driver.mtu") or options.get("mtu") or "0"
    if not text.isdecimal() or not (text == "0" or 68 <= int(text) <= 65535):
        raise InvalidArgument(f"Invalid MTU {text!r} for a network: a number from 68 to 65535 is needed")
    return int(text)


def prefix(options: Mapping[str, str]) -> str:
    """What the names of a network's interfaces in containers begin with."""
    text = options.get(f"{_DOCKER}container_iface_prefix", "eth")
    if not text or len(text.encode()) > _NAME_LIMIT - 4 or "/" in text or any(each.isspace() for each in text):
        raise InvalidArgument(f"{text!r} cannot begin an interface's name")
    return text


def _link(name: str) -> str:
    if len(name.encode()) > _NAME_LIMIT or "/" in name or name in (".", "..") or any(c.isspace() for c in name):
        raise InvalidArgument(f"{name!r} cannot be an interface's name: it has at most 15 characters, no space or /")
    if name.startswith(SWITCH_PREFIX):
        raise InvalidArgument(f"{name!r} cannot be a bridge's name: Cove's own begin with {SWITCH_PREFIX}")
    return name


def _truth(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name, "").lower()
    if text in ("", "true", "false", "1", "0", "t", "f"):
        return text in ("true", "1", "t") if text else default
    raise InvalidArgument(f"Invalid value {text!r} of the network option {name}: true or false is needed")


def _mode(options: Mapping[str, str], version: int) -> GatewayMode:
    text = options.get(f"{_BRIDGE}gateway_mode_ipv{version}", "") or "nat"
    if text not in _MODES:
        raise InvalidArgument(f"Unknown gateway mode {text!r}: there are {', '.join(_MODES)}")
    return cast(GatewayMode, text)


def _address(options: Mapping[str, str], name: str, version: int) -> str:
    text = options.get(name, "")
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version:
        raise InvalidArgument(
            f"Invalid value {text!r} of the network option {name}: an IPv{version} address is needed"
        )
    return str(address)
