"""Cove's one nftables table, kept as it should be.

Owns the table `inet <instance's name>` and the memory of what belongs in it; never reads or writes a rule of
anyone else's, except to warn when another table would drop what this one lets through.

    settle()       at daemon start: what bridges and ports said inside it is written in one transaction
    watch(loop)    what others delete from it is noticed and put back at once: a `nft flush ruleset`, a firewall's
                   reload, a single element

With the table comes the host's forwarding: opened once its guard is written, shut again before that goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator

from cove.errors import Internal, Unsupported, describe
from cove.kernel.nftables import Nftables, Seats, Watch
from cove.network import egress, ruleset, strangers
from cove.network.egress import Confined
from cove.network.forwarding import Forwarding
from cove.network.ruleset import Publication, Ruled

_log = logging.getLogger(__name__)


class Firewall:
    """The table; safe to share between threads."""

    def __init__(self, table: str, forwarding: Forwarding) -> None:
        """`table`: the instance's `nft_table`. Nothing is loaded or written before the first bridge."""
        self.table = table
        self._forwarding = forwarding
        self._versions: frozenset[int] = frozenset()
        self._nftables: Nftables | None = None
        self._seats = Seats()
        self._lock = threading.RLock()
        self._bridges: dict[str, Ruled] = {}
        self._published: dict[str, tuple[Publication, ...]] = {}
        self._made = False
        self._settling = False
        self._listing = ""
        self._users = ""
        self._confined: dict[str, Confined] = {}
        self._near: tuple[str, ...] = ()
        self._watch: Watch | None = None

    def add_bridge(self, bridge: Ruled) -> None:
        """Let a bridge's containers speak as `bridge` says. Idempotent."""
        with self._lock:
            if self._made and self._bridges.get(bridge.link) == bridge:
                return
            fresh = bridge.link not in self._bridges
            self._bridges[bridge.link] = bridge
            if fresh and self._versions >= _versions((bridge,)):
                self._change(ruleset.add_bridge(self.table, bridge))
            else:
                self._replace()

    def remove_bridge(self, link: str) -> None:
        """Forget a bridge. Idempotent."""
        with self._lock:
            bridge = self._bridges.pop(link, None)
            if bridge is not None:
                self._change(ruleset.remove_bridge(self.table, bridge))

    def publish(self, owner: str, publications: Iterable[Publication]) -> None:
        """Let these host ports lead to `owner`'s; all or none, in one transaction."""
        with self._lock:
            new = tuple(publications)
            known = self._published.get(owner, ())
            self._published[owner] = known + new
            try:
                self._change(ruleset.publish(self.table, new))
            except Internal:
                self._published[owner] = known
                raise

    def unpublish(self, owner: str) -> None:
        """Take all of `owner`'s ports away. Idempotent."""
        with self._lock:
            gone = self._published.pop(owner, ())
            if gone:
                self._change(ruleset.unpublish(self.table, gone))

    def withdraw(self, owner: str, publications: Iterable[Publication]) -> None:
        """Take some of `owner`'s ports away. Idempotent."""
        with self._lock:
            unwanted = set(publications)
            known = self._published.get(owner, ())
            kept = tuple(each for each in known if each not in unwanted)
            gone = tuple(each for each in known if each in unwanted)
            if gone:
                self._published[owner] = kept
                self._change(ruleset.unpublish(self.table, gone, kept))

    def confine(self, confined: Confined) -> None:
        """Let a container reach what its rules allow, instead of what they allowed before."""
        with self._lock:
            known = self._confined.get(confined.owner)
            if known == confined:
                return
            self._confined[confined.owner] = confined
            if known is None:
                self._change(egress.add(self.table, confined), relist=True)
            else:
                self._replace()

    def free(self, owner: str) -> None:
        """Forget a container's rules. Idempotent."""
        with self._lock:
            known = self._confined.pop(owner, None)
            if known is not None:
                self._change(egress.remove(self.table, known), relist=True)

    def near(self, subnets: Iterable[str]) -> None:
        """What counts as the LAN besides private addresses: the host's own subnets, as they are now."""
        with self._lock:
            found = tuple(dict.fromkeys(subnets))
            if found != self._near:
                self._near = found
                self._change(ruleset.near(self.table, found))

    @contextlib.contextmanager
    def settle(self) -> Iterator[None]:
        """Inside, changes are only remembered; at the end the table is replaced by them, in one transaction.

        A daemon that starts over running containers leaves no moment in which their ports are unreachable.
        With nothing to say, a table left by an earlier life is removed.
        """
        with self._lock:
            self._settling = True
            try:
                yield
            finally:
                self._settling = False
            if self._bridges:
                self.restore()
            else:
                self.remove()

    def restore(self) -> None:
        """Write the whole table anew from memory, in one transaction; then let the host forward for it."""
        with self._lock:
            self._versions = _versions(self._bridges.values())
            publications = [each for owned in self._published.values() for each in owned]
            self._learn_users()
            commands = ruleset.whole(
                self.table,
                self._bridges.values(),
                publications,
                user=self._users,
                lan=self._near,
                opened=self._forwarding.survey(self._versions),
            )
            self._run("\n".join((commands, *(egress.add(self.table, each) for each in self._confined.values()))))
            self._made = True
            self._listing = ruleset.without_users(self._list())
            self._forward(self._forwarding.open)

    def reroute(self) -> None:
        """The host has other links, or somebody switched forwarding: see that containers still have theirs."""
        with self._lock:
            if not self._made:
                return
            before = self._forwarding.opened
            if self._forwarding.survey(self._versions) != before:
                self.restore()
            else:
                self._forward(self._forwarding.open)

    def intact(self) -> bool:
        """Whether the kernel still has the table's chains, rules and sets as they were written."""
        with self._lock:
            return not self._made or ruleset.without_users(self._list()) == self._listing

    def remove(self) -> None:
        """Remove the table, whoever made it, and what the host forwards for it. Idempotent."""
        with self._lock:
            self._forward(self._forwarding.close)
            self._made = False
            try:
                self._run(f"add table inet {self.table}\ndelete table inet {self.table}")
            except Unsupported:
                _log.debug("There is no nftables library, so there is no table of ours either")

    def watch(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[], None] | None = None) -> None:
        """From now on notice when others delete from the table; `on_lost` (default: `restore`) is then called."""
        watch = self._watch = Watch()

        def look() -> None:
            heard = watch.heard(self.table)
            if heard.gained:
                self._learn_users()  # a deletion may be the administrator's own
            if (heard.lost and not self.intact()) or self._robbed(heard.elements):
                _log.warning("The nftables table %s was changed by someone else; it is being restored", self.table)
                (on_lost or self.restore)()

        loop.add_reader(watch.fileno(), look)

    def _robbed(self, deleters: frozenset[int]) -> bool:
        """Whether one of those who deleted elements of the table is somebody else."""
        with self._lock:
            return self._made and not self._nft().are_ours(deleters)

    def leads(self, publication: Publication) -> bool:
        """Whether the kernel's table has a published port."""
        try:
            self._nft().run(f"get element inet {self.table} {publication.map} {{ {publication.key} }}")
        except OSError:
            return False
        return True

    def users(self) -> list[str]:
        """The rules of the administrator's chain, as the kernel has them."""
        return [line.strip() for line in ruleset.users_rules(self._list()).splitlines() if line.strip()]

    def strangers(self) -> list[tuple[strangers.Chain, list[str]]]:
        """Others' chains that a packet to a container passes, each with its rules; not iptables' (`warnings`)."""
        found = []
        for chain in strangers.forwarding(self._nft().run("list chains")):
            if chain.table not in (f"inet {self.table}", "ip filter", "ip6 filter"):
                with contextlib.suppress(OSError):  # it has gone meanwhile
                    listing = self._nft().run(f"list chain {chain.table} {chain.name}")
                    found.append((chain, strangers.rules(listing)))
        return found

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._watch is not None:
            loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def warnings(self) -> list[str]:
        """Sentences about other tables that would drop what this one lets through."""
        try:
            listing = self._nft().run("list chain ip filter FORWARD")
        except Unsupported as error:
            return [error.message]
        except OSError:
            return []  # no such chain: nobody drops
        if "policy drop" not in listing:
            return []
        return [
            "The host's iptables chain FORWARD drops by default (another container engine may have set that), so "
            "containers may not reach the outside; allow it with: iptables -P FORWARD ACCEPT"
        ]

    def _change(self, commands: str, *, relist: bool = False) -> None:
        """Write a small change; where the table is not as remembered (or not there), write all of it instead.

        `relist`: the change is one of chains or rules, so that the table is remembered as it is afterwards.
        """
        if not self._made:
            self._replace()
            return
        try:
            self._run(commands)
            if relist:
                self._listing = ruleset.without_users(self._list())
        except Internal:
            self._replace()

    def _replace(self) -> None:
        if not self._settling:
            self.restore()

    def _learn_users(self) -> None:
        """Remember what the administrator's chain holds, so that it comes back with the table.

        Not of a table that somebody has emptied: his rules went with ours, and shall come back with them.
        """
        with self._lock:
            listing = self._list()
            if listing and (not self._made or ruleset.without_users(listing) == self._listing):
                self._users = ruleset.users_rules(listing)

    def _list(self) -> str:
        try:
            return self._nft().run(f"list table inet {self.table}")
        except OSError:
            return ""

    def _forward(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            raise Internal(f"The host's forwarding could not be changed: {describe(error)}") from error

    def _nft(self) -> Nftables:
        if self._nftables is None:
            self._seats.give_up()
            self._nftables = Nftables()
        return self._nftables

    def _run(self, commands: str) -> None:
        if self._settling or not commands:
            return
        try:
            self._nft().run(commands)
        except OSError as error:
            raise Internal(
                f"The nftables table {self.table} could not be written: {error.strerror}; "
                "check that the kernel has nf_tables with NAT (modprobe nf_tables nft_chain_nat nft_fib_inet)"
            ) from error


def _versions(bridges: Iterable[Ruled]) -> frozenset[int]:
    """The families in which containers reach, or are reached from, what is outside their networks."""
    subnets = (subnet for bridge in bridges if not bridge.internal for subnet in bridge.subnets)
    return frozenset(6 if ":" in subnet else 4 for subnet in subnets)
