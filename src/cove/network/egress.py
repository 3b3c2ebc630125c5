"""What a container may reach outside: rules read from text, and written in nft's language. Pure.

    allow:example.org:443        a name: the addresses that Cove's resolver gave this container for it
    allow:*.example.org          every name below it
    deny:10.0.0.0/8              addresses; one alone, or "*" for all
    allow:192.0.2.7:5432/tcp     a port, or a range 8000-8010; without /tcp or /udp both
    deny:[2001:db8::]/32         an IPv6 address or subnet in brackets

The first rule that fits decides. What none fits may pass when all rules are denials, else not. Answers to what was
begun always pass, and so do names: the questions themselves are the resolver's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable

import msgspec

from cove.errors import InvalidArgument

_DNS = 53
OPTION = "cove.egress"
"""The option of a network, and the annotation of a container, that has such rules, separated by commas."""
_RULE = re.compile(r"(allow|deny)(?::(\[[^\]]+\](?:/\d+)?|[^:\[\]]+)(?::(\d+)(?:-(\d+))?)?(?:/(tcp|udp|sctp))?)?")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. Without `subnet` and `name` it is about every address; without `low` about every port."""

    allow: bool
    subnet: str = ""
    name: str = ""
    proto: str = ""
    low: int = 0
    high: int = 0


def parse(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Raises InvalidArgument with the rule that cannot be read."""
    return tuple(_parse(text.strip()) for each in texts for text in each.split(",") if text.strip())


def _parse(text: str) -> Rule:
    match = _RULE.fullmatch(_cidr_apart(text))
    if match is None:
        raise _unreadable(text)
    verdict, target, first, last, proto = match.groups(default="")
    low = int(first or 0)
    high = int(last or low)
    if first and not 0 < low <= high < 65536:
        raise _unreadable(text)
    if proto and not first:
        raise InvalidArgument(f"The egress rule {text!r} names a protocol without a port")
    target = target.replace("|", "/")
    subnet = "" if target in ("", "*") else _subnet(target)
    name = "" if subnet or target in ("", "*") else target.lower().rstrip(".")
    if name and _NAME.fullmatch(name) is None:
        raise _unreadable(text)
    return Rule(allow=verdict == "allow", subnet=subnet, name=name, proto=proto, low=low, high=high)


def _cidr_apart(text: str) -> str:
    """A subnet's slash is not a protocol's: "10.0.0.0/8" as "10.0.0.0|8" while the parts are told apart."""
    return re.sub(r"/(\d+)", r"|\1", text).replace("]|", "]/")


def _subnet(text: str) -> str:
    """A subnet, or "" for what is a name."""
    try:
        return str(ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False))
    except ValueError:
        return ""


def _unreadable(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"The egress rule {text!r} cannot be read: write allow:TARGET[:PORT[-PORT][/tcp]] or deny:… with an "
        "address, a subnet, a name or * as the target"
    )


# ── in nft's language ─────────────────────────────────────────────────────────────────────────────


class Confined(msgspec.Struct, frozen=True, kw_only=True):
    """A container's addresses and its rules.

    `servers`: name servers outside that are asked from its network; they always may be, or a name could mean nothing.
    """

    owner: str
    addresses: tuple[str, ...]
    rules: tuple[Rule, ...]
    servers: tuple[str, ...] = ()

    @property
    def chain(self) -> str:
        return f"egress-{self.owner[:12]}"


def name_set(owner: str, name: str, version: int) -> str:
    """The set that holds the addresses of a name for one container."""
    return f"e{version}-{owner[:12]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def add(table: str, confined: Confined) -> str:
    """Commands that confine a container."""
    commands = []
    for name in _names(confined):
        for version in (4, 6):
            kind = f"type ipv{version}_addr; flags timeout;"
            commands.append(f"add set inet {table} {name_set(confined.owner, name, version)} {{ {kind} }}")
    commands.append(f"add chain inet {table} {confined.chain}")
    asked = (Rule(allow=True, subnet=each, low=_DNS, high=_DNS) for each in confined.servers)
    lines = [line for rule in (*asked, *confined.rules) for line in _lines(rule, confined.owner)]
    commands += [f"add rule inet {table} {confined.chain} {line}" for line in lines]
    if any(rule.allow for rule in confined.rules):
        commands.append(f"add rule inet {table} {confined.chain} {_REFUSAL}")
    commands += [
        f"add element inet {table} {_map(address)} {{ {address} : jump {confined.chain} }}"
        for address in confined.addresses
    ]
    return "\n".join(commands)


def remove(table: str, confined: Confined) -> str:
    """Commands that undo `add`."""
    commands = [f"delete element inet {table} {_map(each)} {{ {each} }}" for each in confined.addresses]
    commands.append(f"delete chain inet {table} {confined.chain}")
    for name in _names(confined):
        commands += [f"delete set inet {table} {name_set(confined.owner, name, version)}" for version in (4, 6)]
    return "\n".join(commands)


_REFUSAL = "reject with icmpx admin-prohibited"


def _lines(rule: Rule, owner: str) -> list[str]:
    verdict = "return" if rule.allow else _REFUSAL
    ports = ""
    if rule.low:
        span = f"{rule.low}-{rule.high}" if rule.high > rule.low else str(rule.low)
        ports = f"{rule.proto} dport {span} " if rule.proto else f"meta l4proto {{ tcp, udp, sctp }} th dport {span} "
    if rule.name:
        sets = ((f"ip{'6' if version == 6 else ''}", name_set(owner, rule.name, version)) for version in (4, 6))
        return [f"{family} daddr @{name} {ports}{verdict}" for family, name in sets]
    if rule.subnet:
        family = "ip6" if ":" in rule.subnet else "ip"
        return [f"{family} daddr {rule.subnet} {ports}{verdict}"]
    return [f"{ports}{verdict}"]


def _names(confined: Confined) -> list[str]:
    return list(dict.fromkeys(rule.name for rule in confined.rules if rule.name))


def _map(address: str) -> str:
    return "egress6" if ":" in address else "egress4"
