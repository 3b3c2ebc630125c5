"""Rates of containers and networks, enforced where a container cannot reach: at the host's end of its veth.

    container ═ veth ─┬─ in ──▶ ┐              ┌─ network in ─┬─ container A in      ifb of the network,
                      └─ out ─▶ ┴ redirect ──▶ ┤              └─ container B in      one HTB with a class for
                                               └─ network out ─ …                    each direction of each veth

A network has an ifb from the first container with a limit on, until the network's bridge goes. Members of a
network with a rate borrow from its class, and so share it. The filters die with the veth; a class is deleted
when its container leaves. Nothing is kept in files: after a daemon's start `restore` builds a second ifb from
values, moves every veth to it and deletes the first, so that no packet passes unlimited and none is lost.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from cove.errors import Unsupported, describe
from cove.kernel import netlink, traffic
from cove.kernel.nlwire import Request
from cove.network.driver import Endpoint, Network, Queue

_log = logging.getLogger(__name__)

_FIRST = 16
"""Classes below are the network's own: 1 for in, 2 for out."""
_PARENTS = {False: 1, True: 2}


class _Class(NamedTuple):
    """A container's class for one direction."""

    minor: int
    parent: int
    rate: int


class _Tree(msgspec.Struct):
    """The ifb of one network. `classes` by (container, whether it is for what the container sends)."""

    link: str
    index: int
    own: dict[bool, int] = msgspec.field(default_factory=dict)
    classes: dict[tuple[str, bool], _Class] = msgspec.field(default_factory=dict)

    def free(self) -> int:
        used = {each.minor for each in self.classes.values()}
        return next(minor for minor in range(_FIRST, 0xFFFF) if minor not in used)


class Shaper:
    """The rates of all bridge networks of one daemon. Its caller sees to it that one thread at a time is in it."""

    def __init__(self) -> None:
        self._trees: dict[str, _Tree] = {}

    def limit(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        """Make the kernel agree with the rates of the network and of these endpoints; raises Unsupported."""
        wanted = [each for each in endpoints if network.rate or each.rate or self._has(network, each)]
        if not wanted:
            return
        try:
            with netlink.Route() as route:
                tree = self._tree(network, route)
                self._widen(tree, network, route)
                for endpoint in wanted:
                    for sends in (False, True):
                        _place(tree, network, endpoint, sends, route)
                self._narrow(tree, network, route)
        except OSError as error:
            raise Unsupported(
                f"The network rate cannot be limited: {describe(error)}; the kernel needs ifb, sch_htb, sch_ingress, "
                "cls_bpf and act_mirred"
            ) from error

    def forget(self, network: Network, container_id: str) -> None:
        """Delete the classes of a container whose veth is gone or going. Idempotent."""
        tree = self._trees.get(network.id)
        if tree is None:
            return
        minors = [
            found.minor
            for sends in (False, True)
            if (found := tree.classes.pop((container_id, sends), None)) is not None
        ]
        if minors:
            with suppress(OSError), netlink.Route() as route:
                route.commit([traffic.delete_class(tree.index, minor) for minor in minors])

    def restore(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        """Build everything anew beside what a former daemon left, then delete that."""
        old = [name for name in _links(network) if _index(name)] if network.id not in self._trees else []
        try:
            self.limit(network, endpoints)
            current = self._trees[network.id].link if network.id in self._trees else ""
            if old:
                with netlink.Route() as route:
                    route.commit([netlink.delete(name) for name in old if name != current])
        except (Unsupported, OSError) as error:
            _log.error("the rates of the network %s are not limited: %s", network.name, error)

    def drop(self, network: Network) -> None:
        """Delete a network's ifb; its containers are gone. Idempotent."""
        tree = self._trees.pop(network.id, None)
        if tree is not None:
            with suppress(OSError), netlink.Route() as route:
                route.commit([netlink.delete(tree.link)])

    def queues(self, network: Network, container_id: str) -> tuple[Queue | None, Queue | None]:
        """What a container's classes hold back: in, out; None for a direction without a limit."""
        tree = self._trees.get(network.id)
        if tree is None or not any((container_id, sends) in tree.classes for sends in (False, True)):
            return None, None
        try:
            with netlink.Route() as route:
                found = traffic.classes(route, tree.index)
        except OSError:  # the ifb was taken away under us
            return None, None
        inward, outward = (_queue(found, tree.classes.get((container_id, sends))) for sends in (False, True))
        return inward, outward

    # ── the network's own part ────────────────────────────────────────────────────────────────────

    def _has(self, network: Network, endpoint: Endpoint) -> bool:
        tree = self._trees.get(network.id)
        return tree is not None and any((endpoint.container_id, sends) in tree.classes for sends in (False, True))

    def _tree(self, network: Network, route: netlink.Route) -> _Tree:
        tree = self._trees.get(network.id)
        if tree is not None and _index(tree.link) == tree.index:
            return tree
        first, second = _links(network)
        link = second if _index(first) else first
        route.commit(traffic.ifb(link))
        tree = _Tree(link, socket.if_nametoindex(link))
        route.commit([traffic.root(tree.index)])
        self._trees[network.id] = tree
        return tree

    def _widen(self, tree: _Tree, network: Network, route: netlink.Route) -> None:
        """Make or change the classes that members of the network share."""
        for sends, minor in _PARENTS.items():
            rate = _of(network, sends)
            if rate and tree.own.get(sends) != rate:
                route.commit(traffic.htb_class(tree.index, minor, rate, leaf=False))
                tree.own[sends] = rate

    def _narrow(self, tree: _Tree, network: Network, route: netlink.Route) -> None:
        """Delete the shared classes that nobody shares any more."""
        for sends, minor in _PARENTS.items():
            shared = any(each.parent == minor for each in tree.classes.values())
            if sends in tree.own and not _of(network, sends) and not shared:
                route.commit([traffic.delete_class(tree.index, minor)])
                del tree.own[sends]


def _place(tree: _Tree, network: Network, endpoint: Endpoint, sends: bool, route: netlink.Route) -> None:
    """One direction of one veth: into the class it belongs to, or out of any."""
    key = (endpoint.container_id, sends)
    shared, own = _of(network, sends), (endpoint.rate.outward if sends else endpoint.rate.inward)
    rate = min(filter(None, (shared, own)), default=0)
    parent = _PARENTS[sends] if shared else 0
    before = tree.classes.get(key)
    if not rate and before is None:
        return
    name = endpoint.host_ifname
    index = _index(name)
    if not index:
        return  # the container has just ended
    if not rate:
        route.commit([traffic.unsteer(index, inward=sends, name=name), *_gone(tree, before)])
        del tree.classes[key]
        return
    if before is not None and before.parent == parent:
        if before.rate != rate:
            route.commit(traffic.htb_class(tree.index, before.minor, rate, parent=parent))
            tree.classes[key] = before._replace(rate=rate)
        return
    new = _Class(tree.free(), parent, rate)
    requests: list[Request] = traffic.htb_class(tree.index, new.minor, rate, parent=parent)
    traffic.hook(route, index, name=name)
    with traffic.marker(new.minor) as program:
        steer = traffic.steer(index, program, tree.index, inward=sends, name=name)
        route.commit([*requests, steer, *_gone(tree, before)])
    tree.classes[key] = new


def _queue(found: dict[int, traffic.ClassUse], own: _Class | None) -> Queue | None:
    use = found.get(own.minor) if own is not None else None
    return Queue(waiting=use.backlog, dropped=use.dropped) if use is not None else None


def _gone(tree: _Tree, former: _Class | None) -> list[Request]:
    return [traffic.delete_class(tree.index, former.minor)] if former is not None else []


def _of(network: Network, sends: bool) -> int:
    return network.rate.outward if sends else network.rate.inward


def _links(network: Network) -> tuple[str, str]:
    """The two names that a network's ifb may have; a name has 15 characters at most."""
    return f"ifb{network.id[:10]}a", f"ifb{network.id[:10]}b"


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
