"""The addresses of names that egress rules speak of: into the firewall's sets, before the container hears of them.

An address stays for as long as the answer says, and a while longer, for programs keep addresses.
"""

from __future__ import annotations

import logging

from cove.errors import CoveError
from cove.kernel.nftables import Nftables, Seats
from cove.network.dns import wire
from cove.network.dns.messages import View
from cove.network.egress import name_set

_log = logging.getLogger("cove.dns")
_GRACE = 300
_MOST = 86400


class Followed:
    """Used by one thread, in the host's network namespace."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._nftables: Nftables | None = None

    def follow(self, view: View, name: str, message: bytes) -> None:
        """Remember what an answer says of a name. A failure is logged: the container is then refused."""
        names = [pattern for pattern in view.followed if matches(pattern, name)]
        commands = [
            f"add element inet {view.table} {name_set(view.container, pattern, 6 if ':' in address else 4)} "
            f"{{ {address} timeout {min(ttl + _GRACE, _MOST)}s }}"
            for pattern in names
            for address, ttl in wire.addresses(message)
        ]
        if not commands:
            return
        try:
            if self._nftables is None:
                with self._seats.lent():
                    self._nftables = Nftables()
            self._nftables.run("\n".join(commands))
        except (OSError, CoveError) as error:
            _log.warning("the addresses of %s could not be let through: %s", name, error)


def matches(pattern: str, name: str) -> bool:
    """Whether a rule's name means this one: itself, or with "*." any below it."""
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
