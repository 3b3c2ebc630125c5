"""Makes the host a router for containers, and for nobody else.

A host that forwards does so between all of its links: whoever is on one of them could send through it to what is
behind another. So Cove never turns the host's own switch (`net.ipv4.ip_forward`), which is others' to turn. It opens
single links (`net.ipv4.conf.LINK.forwarding`, from Linux 6.17 on `net.ipv6.conf.LINK.force_forwarding`), and what
comes in through a link that it opened reaches containers alone: a rule of Cove's table drops the rest.

    ip_forward 1    somebody wants a router: nothing is opened, nothing dropped
    ip_forward 0    every link that forwards nothing is opened, behind a rule
    becomes 1       the rule goes, and what was opened is no longer Cove's

Older kernels forward IPv6 between all links or none: there the switch is turned, and the rule is about every link.
A link that forwards stops listening to router advertisements, so those that do are told to go on (accept_ra 2).

Cove's links are known, whichever daemon made them, by their group. What was opened is written into the run root
first, and taken back with the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cove.kernel import netlink, sysctl
from cove.kernel.procstat import boot_id
from cove.network.options import SWITCH_PREFIX
from cove.store.files import write_atomic

_log = logging.getLogger(__name__)
GROUP = 51966
"""Of every bridge that containers are routed by (`ip link show group 51966`)."""
_SWITCHES = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_LINKS = {4: "ipv4/conf/{}/forwarding", 6: "ipv6/conf/{}/force_forwarding"}


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What forwards only because Cove said so: links by index, and families (4, 6) as a whole."""

    ipv4: tuple[int, ...] = ()
    ipv6: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()
    boot: str = ""

    def links(self, version: int) -> tuple[int, ...]:
        return self.ipv4 if version == 4 else self.ipv6


class Forwarding:
    """The host's forwarding. Its caller sees to it that one thread at a time is in it."""

    def __init__(self, memory: Path) -> None:
        """`memory`: the file that holds what was opened, of this boot."""
        self._memory = memory
        self._opened: Opened | None = None

    def survey(self, versions: Iterable[int]) -> Opened:
        """What has to be opened, and guarded, for containers of these families; remembered, not done yet."""
        with netlink.Route() as route:
            links = [link for link in route.links() if _routed(link)]
        found: dict[int, tuple[int, ...]] = {4: (), 6: ()}
        whole = []
        for version in versions:
            turned = version in self.opened.whole
            if sysctl.read(_SWITCHES[version]) != "0" and not turned:
                continue  # somebody wants a router, or the kernel has no such family
            if turned or sysctl.read(_LINKS[version].format("all")) is None:
                whole.append(version)
                continue
            before = self.opened.links(version)
            found[version] = tuple(
                link.ifindex for link in links if link.ifindex in before or _shut(version, link.name)
            )
        self._remember(Opened(ipv4=found[4], ipv6=found[6], whole=tuple(whole), boot=boot_id()))
        return self.opened

    def open(self) -> None:
        """Open what the last survey found. OSError with the parameter's path when the kernel refuses."""
        with netlink.Route() as route:
            links = route.links()
        for link in links:
            if link.group == GROUP:
                let_in(link.name)
            for version in (4, 6):
                if link.ifindex in self.opened.links(version) and _shut(version, link.name):
                    sysctl.write(_LINKS[version].format(link.name), 1)
        for version in self.opened.whole:
            if sysctl.read(_SWITCHES[version]) == "0":
                _turn(version, links)

    def close(self) -> None:
        """Take back all that was opened, by an earlier daemon too. Idempotent; OSError as `open`."""
        with netlink.Route() as route:
            links = route.links()
        for version in (4, 6):
            if version in self.opened.whole:
                sysctl.write(_SWITCHES[version], 0)
            for link in links:
                if link.ifindex in self.opened.links(version) and sysctl.read(_SWITCHES[version]) == "0":
                    sysctl.write(_LINKS[version].format(link.name), 0)
        self._opened = Opened(boot=boot_id())
        self._memory.unlink(missing_ok=True)

    @property
    def opened(self) -> Opened:
        """What is remembered."""
        if self._opened is None:
            self._opened = self._recalled()
        return self._opened

    def _recalled(self) -> Opened:
        try:
            found = msgspec.json.decode(self._memory.read_bytes(), type=Opened)
        except (OSError, msgspec.DecodeError):
            return Opened(boot=boot_id())
        return found if found.boot == boot_id() else Opened(boot=boot_id())

    def _remember(self, opened: Opened) -> None:
        if opened != self.opened:
            write_atomic(self._memory, msgspec.json.encode(opened), durable=False)
            self._opened = opened


def let_in(link: str) -> None:
    """Forward what comes from the containers of a bridge. OSError as `Forwarding.open`."""
    for version in (4, 6):
        if _shut(version, link):
            sysctl.write(_LINKS[version].format(link), 1)


def enabled(version: int) -> bool:
    """Whether what comes from outside, by IPv4 or IPv6, is forwarded."""
    if sysctl.read(_SWITCHES[version]) != "0":
        return True
    with netlink.Route() as route:
        return any(_routed(link) and not _shut(version, link.name) for link in route.links())


def _shut(version: int, link: str) -> bool:
    """Whether a link that knows its own forwarding forwards nothing."""
    return sysctl.read(_LINKS[version].format(link)) == "0"


def _routed(link: netlink.Link) -> bool:
    """Whether packets come into the host's routing there: not by ports of a bridge, and not from containers."""
    return not link.master and not link.loopback and link.group != GROUP and not link.name.startswith(SWITCH_PREFIX)


def _turn(version: int, links: Iterable[netlink.Link]) -> None:
    """Let a family be forwarded everywhere, where the kernel knows no single links."""
    for link in links:
        name = f"ipv6/conf/{link.name}/accept_ra"
        if version == 6 and link.kind != "bridge" and sysctl.read(name) == "1":
            sysctl.write(name, 2)
    sysctl.write(_SWITCHES[version], 1)
    _log.info("IPv%d forwarding was off and is now on, for containers alone", version)
