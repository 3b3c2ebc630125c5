"""The text of Cove's one nftables table; pure functions from values to nft's language.

    raw prerouting    guard         nothing from a container reaches the host's 127.0.0.0/8; a packet on its way over
                                    a further bridge of its network, where br_netfilter shows it, is none yet
    dstnat            prerouting    a published port of a local address → the container's (never for 127/8:
                                    a neighbour who sends to it must not reach a port published on loopback; nor for
                                    an address of one link, which a container answers on its own: a relay serves it)
    output            output        the same for the host's own programs, loopback included
    srcnat            postrouting   out of a bridge: the host's address; from 127/8 and back into the same
                                    bridge: the bridge's address, or the answer would miss the host
    forward           forward       between bridges and from outside only what is published; what leaves passes
                                    its container's egress rules, what enters
                                    `entering`: its scope, and the administrator's own chain `user`
                    `transit`: between links that are no container's, what forwards only because of Cove is shut

"Back into the same bridge" is told by the addresses: where br_netfilter carries such a packet, no incoming
interface is known any more.

Published ports are elements of four maps: per address family, for one host address or for all. Everybody
else's source address stays what it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from cove.network.forwarding import GROUP, Opened


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A host's port and the container's port it leads to, both of one address family.

    `host_port` 0: the container's port is reached under its own address. `scope`: who may come, "public" for
    everybody, "lan" for private addresses and the host's own subnets, "local" for this host and its containers.
    """

    proto: str
    host_ip: str
    host_port: int
    target_ip: str
    target_port: int
    scope: str = "public"

    @property
    def map(self) -> str:
        """The map that holds it."""
        address = ipaddress.ip_address(self.host_ip)
        if not self.host_port:
            return f"routed{address.version}"
        return f"publish{address.version}" + ("_any" if address.is_unspecified else "")

    @property
    def key(self) -> str:
        if not self.host_port:
            return f"{self.target_ip} . {self.proto} . {self.target_port}"
        host = () if ipaddress.ip_address(self.host_ip).is_unspecified else (self.host_ip,)
        return " . ".join((self.proto, *host, str(self.host_port)))

    @property
    def element(self) -> str:
        return f"{self.key} : {self.target_ip} . {self.target_port}" if self.host_port else self.key


class Ruled(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge and how its containers may speak.

    `together`: among each other. `outward`: the families (4, 6) that go outside under the host's address, or under
    that of `sources` which is of the family. `open`: those whose unpublished ports the outside reaches too.
    """

    link: str
    subnets: tuple[str, ...] = ()
    internal: bool = False
    together: bool = True
    outward: tuple[int, ...] = (4, 6)
    open: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()


USER = "user"
"""The administrator's chain: what enters a container's network from elsewhere passes it. Nothing of ours is in it."""
_USERS_CHAIN = re.compile(r"^\s*chain user \{\n(.*?)^\s*\}\n", re.MULTILINE | re.DOTALL)
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
_BODY = """
  set bridges { type ifname; }
  set together { type ifname . ifname; }
  set near4 { type ipv4_addr . ipv4_addr; flags interval; }
  set near6 { type ipv6_addr . ipv6_addr; flags interval; }
  set internal { type ifname; }
  set outward4 { type ifname; }
  set outward6 { type ifname; }
  set open4 { type ifname; }
  set open6 { type ifname; }
  map source4 { type ifname : ipv4_addr; }
  map source6 { type ifname : ipv6_addr; }
  set routed4 { type ipv4_addr . inet_proto . inet_service; }
  set routed6 { type ipv6_addr . inet_proto . inet_service; }
  map egress4 { type ipv4_addr : verdict; }
  map egress6 { type ipv6_addr : verdict; }
  map scope4 { type ipv4_addr : verdict; }
  map scope6 { type ipv6_addr : verdict; }
  set opened4 { type iface_index; }
  set opened6 { type iface_index; }
  set closed { type nf_proto; }
  set lan4 { type ipv4_addr; flags interval; auto-merge; }
  set lan6 { type ipv6_addr; flags interval; auto-merge; }
  map publish4 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
  map publish4_any { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map publish6 { type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }
  map publish6_any { type inet_proto . inet_service : ipv6_addr . inet_service; }

  chain publish {
    meta l4proto != { tcp, udp, sctp } return
    meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @publish4
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @publish4_any
    meta nfproto ipv6 dnat ip6 to meta l4proto . ip6 daddr . th dport map @publish6
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @publish6_any
  }

  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
    iifname "covex*" notrack
  }

  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    ip6 daddr fe80::/10 return
    fib daddr type local jump publish
  }

  chain output {
    type nat hook output priority -100; policy accept;
    ip6 daddr { ::1, fe80::/10 } return
    fib daddr type local jump publish
  }

  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 127.0.0.0/8 oifname @bridges masquerade
    ct status dnat ip saddr . ip daddr @near4 masquerade
    ct status dnat ip6 saddr . ip6 daddr @near6 masquerade
    oifname @bridges return
    meta nfproto ipv4 snat ip to iifname map @source4
    meta nfproto ipv6 snat ip6 to iifname map @source6
    meta nfproto ipv4 iifname @outward4 masquerade
    meta nfproto ipv6 iifname @outward6 masquerade
  }

  chain lan {
    iifname @bridges return
    ip saddr @lan4 return
    ip6 saddr @lan6 return
    drop
  }

  chain local {
    iifname @bridges return
    drop
  }

  chain entering {
    ip daddr vmap @scope4
    ip6 daddr vmap @scope6
    jump user
  }

  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname . oifname @together accept
    ct state established,related accept
    iifname @internal drop
    oifname @internal drop
    iifname @bridges ip saddr vmap @egress4
    iifname @bridges ip6 saddr vmap @egress6
    oifname @bridges jump entering
    oifname @bridges ct status dnat accept
    meta nfproto ipv4 oifname @open4 iifname != @bridges accept
    meta nfproto ipv6 oifname @open6 iifname != @bridges accept
    oifname @bridges ip daddr . meta l4proto . th dport @routed4 accept
    oifname @bridges ip6 daddr . meta l4proto . th dport @routed6 accept
    oifname @bridges drop
    jump transit
  }

  chain transit {
    iifgroup GROUP return
    oifgroup GROUP return
    meta nfproto ipv4 iif @opened4 drop
    meta nfproto ipv6 iif @opened6 drop
    meta nfproto @closed drop
  }
""".replace("GROUP", str(GROUP))


def whole(
    table: str,
    bridges: Iterable[Ruled],
    publications: Iterable[Publication],
    *,
    user: str = "",
    lan: Iterable[str] = (),
    opened: Opened = Opened(),  # noqa: B008 - frozen
) -> str:
    """Commands that replace the table, whatever it held, by one with all of this, in one transaction.

    `user`: the rules of the administrator's chain. `lan`: what counts as near besides private addresses. `opened`:
    what of the host forwards only for containers.
    """
    body = f"  chain {USER} {{\n{user}\n  }}\n{_BODY}"
    parts = [f"add table inet {table}", f"delete table inet {table}", f"table inet {table} {{\n{body}}}"]
    parts += [add_bridge(table, bridge) for bridge in bridges]
    parts.append(near(table, (*PRIVATE, *lan)))
    parts.append(publish(table, publications))
    parts += _guarded(table, opened)
    return "\n".join(parts)


def _guarded(table: str, opened: Opened) -> list[str]:
    held = {
        "opened4": [str(index) for index in opened.ipv4],
        "opened6": [str(index) for index in opened.ipv6],
        "closed": [f"ipv{version}" for version in opened.whole],
    }
    return [f"add element inet {table} {name} {{ {', '.join(each)} }}" for name, each in held.items() if each]


def near(table: str, subnets: Iterable[str]) -> str:
    """Addresses that the scope "lan" lets in."""
    by_set: dict[str, list[str]] = {}
    for subnet in dict.fromkeys(subnets):
        by_set.setdefault("lan6" if ":" in subnet else "lan4", []).append(subnet)
    return "\n".join(f"add element inet {table} {name} {{ {', '.join(each)} }}" for name, each in by_set.items())


def users_rules(listing: str) -> str:
    """The rules of the administrator's chain, out of a listing of the table or of that chain."""
    match = _USERS_CHAIN.search(listing)
    return match[1].strip("\n") if match else ""


def without_users(listing: str) -> str:
    """A listing of the table without what is the administrator's."""
    return _USERS_CHAIN.sub("", listing)


def add_bridge(table: str, bridge: Ruled) -> str:
    return "\n".join(f"add element inet {table} {name} {{ {key} }}" for name, key in _memberships(bridge))


def remove_bridge(table: str, bridge: Ruled) -> str:
    keys = ((name, key.partition(" : ")[0]) for name, key in _memberships(bridge))
    return "\n".join(f"delete element inet {table} {name} {{ {key} }}" for name, key in keys)


def publish(table: str, publications: Iterable[Publication]) -> str:
    """One command per map, all elements of it at once."""
    publications = tuple(publications)
    grouped = _grouped(publications)
    commands = [
        f"add element inet {table} {name} {{ {', '.join(each.element for each in members)} }}"
        for name, members in grouped.items()
    ]
    for name, target, scope in sorted(_scopes(publications)):
        commands.append(f"add element inet {table} {name} {{ {target} : jump {scope} }}")
    return "\n".join(commands)


def unpublish(table: str, publications: Iterable[Publication], remaining: Iterable[Publication] = ()) -> str:
    """`remaining`: the same container's that stay."""
    publications = tuple(publications)
    grouped = _grouped(publications)
    kept = {target for _, target, _ in _scopes(remaining)}
    commands = [
        f"delete element inet {table} {name} {{ {', '.join(each.key for each in members)} }}"
        for name, members in grouped.items()
    ]
    for name, target, _ in sorted(_scopes(publications)):
        if target not in kept:
            commands.append(f"delete element inet {table} {name} {{ {target} }}")
    return "\n".join(commands)


def _scopes(publications: Iterable[Publication]) -> set[tuple[str, str, str]]:
    """(map, container's address, chain) of those that not everybody may come to."""
    return {
        ("scope6" if ":" in each.target_ip else "scope4", each.target_ip, each.scope)
        for each in publications
        if each.scope != "public"
    }


def _grouped(publications: Iterable[Publication]) -> dict[str, list[Publication]]:
    grouped: dict[str, list[Publication]] = {}
    for each in publications:
        grouped.setdefault(each.map, []).append(each)
    return grouped


def _memberships(bridge: Ruled) -> list[tuple[str, str]]:
    link = f'"{bridge.link}"'
    found = [("bridges", link)]
    found += [("near6" if ":" in subnet else "near4", f"{subnet} . {subnet}") for subnet in bridge.subnets]
    if bridge.together:
        found.append(("together", f"{link} . {link}"))
    if bridge.internal:
        found.append(("internal", link))
        return found
    sources = {6 if ":" in each else 4: each for each in bridge.sources}
    for version in bridge.outward:
        if version in sources:
            found.append((f"source{version}", f"{link} : {sources[version]}"))
        else:
            found.append((f"outward{version}", link))
    return found + [(f"open{version}", link) for version in bridge.open]
