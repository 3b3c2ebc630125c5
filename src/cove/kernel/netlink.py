"""Links, addresses and routes, through rtnetlink(7).

Owns the requests and what the kernel answers; decides nothing about names, subnets or bridges. Requests are
plain values: a caller gathers them and commits them in one datagram.

    with Route() as route:                            # a socket in the thread's network namespace
        route.commit([bridge("br0"), up("br0")])
        route.commit(veth("v1", master=7, peer="eth0", pid=4711, mac="02:42:0a:58:00:02", mtu=1500))
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from cove.kernel import nlwire
from cove.kernel.nlwire import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, attribute, nest, text, u8, u32

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
RTM_NEWNETCONF, RTM_DELNETCONF = 80, 81
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF = 5, 9, 24, 25
NETCONFA_IFINDEX = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER = 1, 3, 4, 10
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_STATS64, IFLA_AF_SPEC, IFLA_NET_NS_FD = 18, 19, 23, 26, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
VETH_INFO_PEER = 1
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING, IFLA_BR_MCAST_SNOOPING = 1, 5, 7, 23
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFLA_LINK, IFLA_IFALIAS, IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE, IFLA_VLAN_ID = 5, 20, 1, 1, 1
IFLA_IPVLAN_FLAGS = 2
IFLA_GROUP = 27
MACVLAN_MODES = {"bridge": 4, "private": 1, "vepa": 2, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
IFF_UP, IFF_LOOPBACK = 0x1, 0x8

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RT_TABLE_MAIN, RT_TABLE_LOCAL, RTPROT_STATIC, RTN_UNICAST = 254, 255, 4, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTNH_F_ONLINK = 4
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_STATS = struct.Struct("=8Q")
_NETCONF = 4


class Link(NamedTuple):
    """A link as the kernel lists it; `master` is the index of its bridge, 0 for none."""

    ifindex: int
    name: str
    flags: int
    mac: str
    mtu: int
    master: int
    kind: str
    group: int

    @property
    def loopback(self) -> bool:
        return bool(self.flags & IFF_LOOPBACK)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


class LinkStats(NamedTuple):
    """Counters since the link was made."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


class HostRoute(NamedTuple):
    """A route of the main table; `destination` is "" for the default route."""

    family: int
    destination: str
    prefix: int
    gateway: str
    ifindex: int


class HostAddress(NamedTuple):
    """An address of this host."""

    family: int
    address: str
    prefix: int
    ifindex: int


# ── requests ──────────────────────────────────────────────────────────────────────────────────────


def bridge(name: str, *, mac: str = "", mtu: int = 0, group: int = 0) -> Request:
    """Make a bridge without spanning tree: its ports forward at once. A fixed `mac` never moves with its ports."""
    options = nest(
        IFLA_INFO_DATA,
        u32(IFLA_BR_FORWARD_DELAY, 0),
        u32(IFLA_BR_STP_STATE, 0),
        u8(IFLA_BR_MCAST_SNOOPING, 0),
    )
    body = _link_head(mac=mac, mtu=mtu) + text(IFLA_IFNAME, name) + u32(IFLA_GROUP, group)
    body += nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"), options)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "RTM_NEWLINK bridge", name)


def veth(
    name: str,
    *,
    peer: str,
    pid: int = 0,
    netns: int = -1,
    master: int = 0,
    mac: str = "",
    mtu: int = 0,
) -> list[Request]:
    """Make a veth pair whose peer is born, with its final name and `mac`, in another network namespace.

    The namespace is that of process `pid`, or the open descriptor `netns`; with neither, the peer is born here.
    The near end becomes a port of the bridge with index `master`, has no IPv6 address of its own, and is up.
    """
    place = u32(IFLA_NET_NS_PID, pid) if pid else b""
    if netns >= 0:
        place = u32(IFLA_NET_NS_FD, netns)
    far = _link_head(mac=mac, mtu=mtu) + text(IFLA_IFNAME, peer) + place
    data = nest(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, far))
    body = _link_head(mtu=mtu) + text(IFLA_IFNAME, name)
    if master:
        body += u32(IFLA_MASTER, master)
    body += nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), data)
    make = Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "RTM_NEWLINK veth", name)
    return [make, no_ipv6_address(name), up(name)]


def child_link(
    kind: str, name: str, *, parent: int, mode: int, pid: int, flags: int = 0, mac: str = "", mtu: int = 0
) -> Request:
    """Make a macvlan or ipvlan on the link with index `parent`, born in the network namespace of process `pid`.

    `flags`: of an ipvlan, one of IPVLAN_FLAGS.
    """
    if kind == "macvlan":
        data = u32(IFLA_MACVLAN_MODE, mode)
    else:
        data = nlwire.u16(IFLA_IPVLAN_MODE, mode) + nlwire.u16(IFLA_IPVLAN_FLAGS, flags)
    body = _link_head(mac=mac, mtu=mtu) + text(IFLA_IFNAME, name) + u32(IFLA_LINK, parent)
    body += u32(IFLA_NET_NS_PID, pid)
    body += nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nest(IFLA_INFO_DATA, data))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"RTM_NEWLINK {kind}", name)


def vlan(name: str, *, parent: int, number: int) -> Request:
    """Make the link for an 802.1Q VLAN of the link with index `parent`."""
    info = nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vlan"), nest(IFLA_INFO_DATA, nlwire.u16(IFLA_VLAN_ID, number)))
    body = _link_head() + text(IFLA_IFNAME, name) + u32(IFLA_LINK, parent) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "RTM_NEWLINK vlan", name)


def alias(name: str, note: str) -> Request:
    """A note on a link, for people and for whoever made it."""
    return _set(name, "ifalias", extra=attribute(IFLA_IFALIAS, note.encode()))


def up(name: str) -> Request:
    return _set(name, "up", flags=IFF_UP, change=IFF_UP)


def rename(name: str, new: str) -> Request:
    """Only a link that is down can be renamed on kernels before 6.3."""
    index = socket.if_nametoindex(name)
    return Request(RTM_SETLINK, 0, _link_head(index=index) + text(IFLA_IFNAME, new), "RTM_SETLINK name", name)


def send_away(name: str, new: str, namespace: int) -> Request:
    """Move a link into the network namespace that `namespace` is a descriptor of, as `new`.

    The kernel takes it down when it goes. One that may not go, as the loopback, stays as it is.
    """
    index = socket.if_nametoindex(name)
    body = _link_head(index=index) + u32(IFLA_NET_NS_FD, namespace) + text(IFLA_IFNAME, new)
    return Request(RTM_SETLINK, 0, body, "RTM_SETLINK namespace", name)


def enslave(name: str, master: int) -> Request:
    """Make a link a port of the bridge with index `master`; 0 frees it."""
    return _set(name, "master", extra=u32(IFLA_MASTER, master))


def bridge_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Request:
    """How a bridge treats its port: `hairpin` lets frames out where they came in, `isolated` ports never meet."""
    data = nest(IFLA_INFO_SLAVE_DATA, u8(IFLA_BRPORT_MODE, hairpin), u8(IFLA_BRPORT_ISOLATED, isolated))
    info = nest(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), data)
    return Request(RTM_NEWLINK, 0, _link_head() + text(IFLA_IFNAME, name) + info, "RTM_NEWLINK bridge port", name)


def set_group(name: str, group: int) -> Request:
    """Put a link into a group, by which rules may know it."""
    return _set(name, "group", extra=u32(IFLA_GROUP, group))


def set_mtu(name: str, mtu: int) -> Request:
    return _set(name, "mtu", extra=u32(IFLA_MTU, mtu))


def no_ipv6_address(name: str) -> Request:
    """Give the link no link-local address when it comes up: a bridge port needs none."""
    mode = nest(IFLA_AF_SPEC, nest(socket.AF_INET6, u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)))
    return _set(name, "addrgenmode", extra=mode)


def delete(name: str) -> Request:
    return Request(RTM_DELLINK, 0, _link_head() + text(IFLA_IFNAME, name), "RTM_DELLINK", name)


def add_address(index: int, address: str, prefix: int, *, name: str = "") -> Request:
    """Add an address to the link with `index`; IPv6 without duplicate detection, usable at once."""
    family, packed = parse(address)
    body = _ADDRESS.pack(family, prefix, IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if family == socket.AF_INET and prefix < 31:
        hosts = (1 << (32 - prefix)) - 1
        body += attribute(IFA_BROADCAST, (int.from_bytes(packed, "big") | hosts).to_bytes(4, "big"))
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, f"RTM_NEWADDR {address}/{prefix}", name)


def delete_address(index: int, address: str, prefix: int, *, name: str = "") -> Request:
    family, packed = parse(address)
    body = _ADDRESS.pack(family, prefix, 0, 0, index) + attribute(IFA_LOCAL, packed)
    return Request(RTM_DELADDR, 0, body, f"RTM_DELADDR {address}/{prefix}", name)


def add_route(index: int, gateway: str, *, destination: str = "", prefix: int = 0, name: str = "") -> Request:
    """A route through `gateway` (the default route without a destination); the gateway counts as on the link."""
    body = _route(index, gateway, destination, prefix)
    what = f"{destination}/{prefix}" if destination else "default"
    return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, f"RTM_NEWROUTE {what} via {gateway}", name)


def delete_route(index: int, gateway: str, *, destination: str = "", prefix: int = 0, name: str = "") -> Request:
    return Request(RTM_DELROUTE, 0, _route(index, gateway, destination, prefix), "RTM_DELROUTE", name)


def add_neighbour(index: int, address: str, mac: str, *, name: str = "") -> Request:
    """A permanent neighbour: no question is asked on the wire for it."""
    family, packed = parse(address)
    body = _NEIGHBOUR.pack(family, index, NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, packed) + attribute(NDA_LLADDR, hardware(mac))
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"RTM_NEWNEIGH {address}", name)


# ── the socket ────────────────────────────────────────────────────────────────────────────────────


class Route(nlwire.Socket):
    """A rtnetlink socket in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)

    def link(self, name: str) -> Link | None:
        """The link called `name`, or None."""
        body = _link_head() + text(IFLA_IFNAME, name)
        try:
            message = self.get(Request(RTM_GETLINK, 0, body, "RTM_GETLINK", name))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _read_link(message.body)

    def alias(self, name: str) -> str:
        """The note on a link, "" without one."""
        body = _link_head() + text(IFLA_IFNAME, name)
        message = self.get(Request(RTM_GETLINK, 0, body, "RTM_GETLINK", name))
        return nlwire.string(dict(nlwire.attributes(message.body[_LINK.size :])).get(IFLA_IFALIAS, b""))

    def has_kind(self, kind: str) -> bool:
        """Whether the kernel knows links of a kind that needs a parent (macvlan, ipvlan, vlan).

        One that it knows is refused because none is named, one that it does not know for that reason.
        """
        info = nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
        try:
            self.commit([Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _link_head() + info, "RTM_NEWLINK", kind)])
        except OSError as error:
            return error.errno != errno.EOPNOTSUPP
        return True

    def links(self) -> list[Link]:
        request = Request(RTM_GETLINK, 0, _link_head(), "RTM_GETLINK")
        return [_read_link(message.body) for message in self.dump(request)]

    def stats(self, name: str) -> LinkStats:
        """The counters of one link, as its own side sees them."""
        body = _link_head() + text(IFLA_IFNAME, name)
        message = self.get(Request(RTM_GETLINK, 0, body, "RTM_GETLINK", name))
        values = dict(nlwire.attributes(message.body[_LINK.size :]))
        return LinkStats(*_STATS.unpack_from(values[IFLA_STATS64]))

    def addresses(self) -> list[HostAddress]:
        """Every address of every link in this namespace."""
        found = []
        for message in self.dump(Request(RTM_GETADDR, 0, _ADDRESS.pack(0, 0, 0, 0, 0), "RTM_GETADDR")):
            family, prefix, _, _, index = _ADDRESS.unpack_from(message.body)
            values = dict(nlwire.attributes(message.body[_ADDRESS.size :]))
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if packed and family in (socket.AF_INET, socket.AF_INET6):
                found.append(HostAddress(family, socket.inet_ntop(family, packed), prefix, index))
        return found

    def routes(self) -> list[HostRoute]:
        """The main table's routes, IPv4 and IPv6."""
        found = []
        for message in self.dump(Request(RTM_GETROUTE, 0, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "RTM_GETROUTE")):
            family, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message.body)
            if table != RT_TABLE_MAIN or kind != RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
                continue
            values = dict(nlwire.attributes(message.body[_ROUTE.size :]))
            found.append(
                HostRoute(
                    family,
                    _print(family, values.get(RTA_DST)),
                    prefix,
                    _print(family, values.get(RTA_GATEWAY)),
                    int.from_bytes(values.get(RTA_OIF, b""), "little"),
                )
            )
        return found


class Heard(NamedTuple):
    """What became of links, by index: those of which something is `gone` (an address, the link itself), and those of
    which something `came` or changed, -1 for all at once. After an overflow `everything` may have.
    """

    gone: frozenset[int]
    came: frozenset[int]
    everything: bool


class Watch(nlwire.Socket):
    """Hears of links that come and go, of addresses taken away and of forwarding switched; never blocks."""

    def __init__(self) -> None:
        super().__init__(
            NETLINK_ROUTE,
            groups=(RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF),
        )
        self.set_blocking(False)

    def heard(self) -> Heard:
        """Read all that waits; it may be the caller's own doing."""
        gone: set[int] = set()
        came: set[int] = set()
        everything = False
        while True:
            try:
                received = self.receive()
            except BlockingIOError:
                return Heard(frozenset(gone), frozenset(came), everything)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                everything = True
                continue
            for message in received:
                if message.type == RTM_DELADDR:
                    gone.add(_ADDRESS.unpack_from(message.body)[4])
                elif message.type in (RTM_NEWNETCONF, RTM_DELNETCONF):
                    values = dict(nlwire.attributes(message.body[_NETCONF:]))
                    index = int.from_bytes(values.get(NETCONFA_IFINDEX, b""), "little", signed=True)
                    (came if message.type == RTM_NEWNETCONF else gone).add(index)


# ── encoding ──────────────────────────────────────────────────────────────────────────────────────


def parse(address: str) -> tuple[int, bytes]:
    """The family and the bytes of an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def hardware(mac: str) -> bytes:
    """The six bytes of "02:42:0a:58:00:02"."""
    return bytes.fromhex(mac.replace(":", ""))


def _link_head(*, index: int = 0, flags: int = 0, change: int = 0, mac: str = "", mtu: int = 0) -> bytes:
    head = _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)
    if mac:
        head += attribute(IFLA_ADDRESS, hardware(mac))
    return head + u32(IFLA_MTU, mtu) if mtu else head


def _set(name: str, what: str, *, flags: int = 0, change: int = 0, extra: bytes = b"") -> Request:
    body = _link_head(flags=flags, change=change) + text(IFLA_IFNAME, name) + extra
    return Request(RTM_SETLINK, 0, body, f"RTM_SETLINK {what}", name)


def _route(index: int, gateway: str, destination: str, prefix: int) -> bytes:
    family, packed = parse(gateway)
    body = _ROUTE.pack(
        family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, RTNH_F_ONLINK
    )
    if destination:
        body += attribute(RTA_DST, parse(destination)[1])
    return body + attribute(RTA_GATEWAY, packed) + u32(RTA_OIF, index)


def _read_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    values = dict(nlwire.attributes(body[_LINK.size :]))
    info = dict(nlwire.attributes(values.get(IFLA_LINKINFO, b"")))
    return Link(
        ifindex=index,
        name=nlwire.string(values[IFLA_IFNAME]),
        flags=flags,
        mac=values.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(values.get(IFLA_MTU, b""), "little"),
        master=int.from_bytes(values.get(IFLA_MASTER, b""), "little"),
        kind=nlwire.string(info.get(IFLA_INFO_KIND, b"")),
        group=int.from_bytes(values.get(IFLA_GROUP, b""), "little"),
    )


def _print(family: int, packed: bytes | None) -> str:
    return socket.inet_ntop(family, packed) if packed else ""
