"""The files a container gets about names: hosts, resolv.conf, hostname. Pure functions from values to text."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from cove.errors import InvalidArgument

HOST_GATEWAY = "host-gateway"
_PUBLIC_NAMESERVERS = ("8.8.8.8", "8.8.4.4")
_STUB_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


def hosts(
    *,
    hostname: str,
    domainname: str = "",
    addresses: Iterable[str] = (),
    extra: Iterable[str] = (),
    gateways: Sequence[str] = (),
    aliases: Sequence[str] = (),
) -> str:
    """The text of /etc/hosts.

    `addresses` are the container's own. `extra` are --add-host's "name:address" or "name=address"; the address
    "host-gateway" stands for each of `gateways`, the host as the container sees it.
    """
    lines = [f"{address}\t{names}" for address, names in _STUB_HOSTS]
    lines += ["\t".join(pair) for each in extra for pair in parse_extra(each, gateways)]
    full = f"{hostname}.{domainname}" if domainname else hostname
    own = " ".join(dict.fromkeys(name for name in (full, hostname.partition(".")[0], *aliases) if name))
    lines += [f"{address}\t{own}" for address in addresses]
    return "\n".join(lines) + "\n"


def parse_extra(text: str, gateways: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(address, name) of one --add-host value, several for "host-gateway"."""
    name, mark, address = text.partition("=") if "=" in text else text.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not mark or not name or not address or any(character.isspace() for character in text):
        raise InvalidArgument(f"Invalid extra host {text!r}: NAME:ADDRESS is needed")
    if address == HOST_GATEWAY:
        if not gateways:
            raise InvalidArgument(f"Invalid extra host {text!r}: no network of Cove's leads to the host")
        return [(gateway, name) for gateway in gateways]
    try:
        return [(str(ipaddress.ip_address(address)), name)]
    except ValueError:
        raise InvalidArgument(f"Invalid extra host {text!r}: {address!r} is not an IP address") from None


def resolv_conf(
    host: str,
    *,
    nameservers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    own_namespace: bool = True,
    ipv6: bool = True,
    resolver: str = "",
) -> str:
    """The text of /etc/resolv.conf: the host's, with what the user named in the place of its lines.

    `own_namespace`: the container has a loopback of its own, so the host's nameservers on loopback are left out
    (and, where none remains, public ones stand in). Without `ipv6` those with an IPv6 address are left out too.
    A search of "." means none. `resolver`: the address of Cove's own, which asks all servers instead; it knows
    names without a dot, so these are to be asked first.
    """
    found = _parse(host)
    chosen = list(options) or found["options"]
    if resolver:
        nameservers, own_namespace = (resolver,), False
        chosen += [] if any(each.startswith("ndots:") for each in chosen) else ["ndots:0"]
    servers = list(nameservers) or found["nameserver"]
    if own_namespace and not nameservers:
        servers = [each for each in servers if _reachable(each, ipv6)] or list(_PUBLIC_NAMESERVERS)
    domains = [] if list(search) == ["."] else list(search) or found["search"]
    lines = [f"nameserver {_checked(each) if nameservers else each}" for each in servers]
    if domains:
        lines.append(f"search {' '.join(domains)}")
    if chosen:
        lines.append(f"options {' '.join(chosen)}")
    return "\n".join(lines) + "\n"


def moved(current: str, extra: Iterable[str]) -> str:
    """`current`, a text of /etc/hosts, with those lines that name one of `extra` alone leading to its address now."""
    now = {name: address for each in extra for address, name in parse_extra(each)}
    lines = []
    for line in current.splitlines():
        _, _, name = line.partition("\t")
        lines.append(f"{now[name]}\t{name}" if name in now else line)
    return "\n".join(lines) + "\n"


def updated(current: str, was: str, becomes: str) -> str:
    """`current`, with the lines that we wrote in it replaced by those we would write now; others stay."""
    gone = set(was.splitlines()) - set(becomes.splitlines())
    kept = [line for line in current.splitlines() if line not in gone]
    new = [line for line in becomes.splitlines() if line not in kept]
    return "\n".join([*kept, *new]) + "\n" if current != was else becomes


def resolved_stub(host: str) -> bool:
    """Whether the host's resolv.conf names only systemd-resolved's stub, so that the true one lies in
    /run/systemd/resolve/resolv.conf."""
    return _parse(host)["nameserver"] == ["127.0.0.53"]


def _parse(text: str) -> dict[str, list[str]]:
    """resolv.conf(5): the last `search` or `domain` wins, nameservers and options add up."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            found["nameserver"].append(words[1])
        elif words[0] in ("search", "domain"):
            found["search"] = words[1:]
        elif words[0] == "options":
            found["options"] += words[1:]
    return found


def _reachable(server: str, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    if address.version == 6 and (address.is_link_local or not ipv6):
        return False
    return not address.is_loopback


def _checked(server: str) -> str:
    try:
        return str(ipaddress.ip_address(server))
    except ValueError:
        raise InvalidArgument(f"Invalid DNS server {server!r}: an IP address is needed") from None
