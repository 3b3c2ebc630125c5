"""Others' nftables chains that a packet to a container passes, and what they would do with it. Pure.

A drop anywhere is final, so a table of somebody else's may end what Cove's lets through. What a rule says of single
packets is not weighed: it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["passes", "may be refused", "is refused"]

_TABLE = re.compile(r"table (\S+ \S+) \{")
_CHAIN = re.compile(r"chain (\S+) \{")
_FORWARD = re.compile(r"type filter hook forward\b.*?(?:policy (\w+);)?$")
_FINAL = re.compile(r"(?:counter(?: packets \d+ bytes \d+)? )?(accept|return|drop|reject\b.*)")


class Chain(NamedTuple):
    """A base chain on the forward hook: "inet mine", "f"."""

    table: str
    name: str
    drops: bool


def forwarding(listing: str) -> list[Chain]:
    """The base chains on the forward hook, of what `nft list chains` prints."""
    found, table, chain = [], "", ""
    for line in map(str.strip, listing.splitlines()):
        if match := _TABLE.fullmatch(line):
            table = match[1]
        elif match := _CHAIN.fullmatch(line):
            chain = match[1]
        elif match := _FORWARD.match(line):
            found.append(Chain(table, chain, match[1] == "drop"))
    return found


def rules(listing: str) -> list[str]:
    """The rules of a chain, of what `nft list chain` prints."""
    lines = map(str.strip, listing.splitlines())
    return [line for line in lines if line and not line.startswith(("table ", "chain ", "type ", "}"))]


def verdict(found: Sequence[str], *, drops: bool = False) -> Verdict:
    """What becomes of a packet in a chain with these rules; `drops`: by default."""
    may_pass = may_drop = False
    for rule in found:
        if match := _FINAL.fullmatch(rule):
            drops = drops if match[1] == "return" else match[1] != "accept"
            break
        elsewhere = re.search(r"\b(jump|goto|vmap|queue)\b", rule)
        may_pass |= bool(elsewhere or re.search(r"\b(accept|return)\b", rule))
        may_drop |= bool(elsewhere or re.search(r"\b(drop|reject)\b", rule))
    if drops:
        return "may be refused" if may_pass else "is refused"
    return "may be refused" if may_drop else "passes"
