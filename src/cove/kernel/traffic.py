"""Traffic control: rates of links, through rtnetlink(7) and tc(8)'s queueing disciplines.

Owns the requests; decides nothing about who gets which rate. Two things are all it takes to limit what passes
a link in either direction without anybody behind the link having a say:

    link ─ clsact ─ filter: packet's priority = class, redirect ──▶ ifb ─ HTB ─ class ─ bfifo ──▶ back to the link

    ifb(name), root(index)             a device that queues what is redirected to it, and its HTB
    htb_class(index, 7, rate=10**6)    a class of it; `parent` shares a rate among several
    hook(route, index), steer(index, …)  send what comes in at a link, or goes out, through a class

Rates are bytes a second, Ethernet headers included. Sources: include/uapi/linux/{pkt_sched,pkt_cls}.h,
tc-htb(8), tc-bpf(8), tc-mirred(8).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cove.kernel import bpf, nlwire
from cove.kernel.netlink import IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_NEWLINK, Route
from cove.kernel.nlwire import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, attribute, nest, text, u32

RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
RTM_NEWTFILTER, RTM_DELTFILTER = 44, 45

TCA_KIND, TCA_OPTIONS, TCA_STATS2 = 1, 2, 7
TC_H_ROOT, TC_H_CLSACT = 0xFFFFFFFF, 0xFFFFFFF1
TC_H_INGRESS, TC_H_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
TCA_HTB_PARMS, TCA_HTB_INIT, TCA_HTB_RATE64, TCA_HTB_CEIL64 = 1, 2, 6, 7
TCA_BPF_ACT, TCA_BPF_FD, TCA_BPF_NAME = 1, 6, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS = 1, 2, 2
TCA_EGRESS_REDIR, TC_ACT_STOLEN = 1, 4
TCA_STATS_BASIC, TCA_STATS_QUEUE = 1, 3
TC_LINKLAYER_ETHERNET = 1
ETH_P_ALL = 0x0003

MAJOR = 0xC0FE
"""The HTB's handle. Unusual, so that the priority which a packet keeps means nothing to another HTB on its way."""

_HEAD = struct.Struct("=BxxxiIII")
_RATE = struct.Struct("=BBHhHI")
_TICK_NS = 64
_QUANTUM = 1 << 16
_SMALLEST_BURST = 8 << 10
_SMALLEST_QUEUE, _LARGEST_QUEUE, _QUEUE_SECONDS = 256 << 10, 8 << 20, 0.2
_SKB_PRIORITY = 32
"""Offset of `priority` in struct __sk_buff (linux/bpf.h)."""


class ClassUse(NamedTuple):
    """What went through a class, and what waits in it. `dropped` packets found the queue full."""

    minor: int
    parent: int
    bytes: int
    packets: int
    dropped: int
    backlog: int


def ifb(name: str) -> list[Request]:
    """Make the device that redirected packets queue in, and bring it up."""
    head = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 1, 1) + text(IFLA_IFNAME, name)
    body = head + nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "ifb"))
    return [Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "RTM_NEWLINK ifb", name)]


def root(index: int) -> Request:
    """The HTB of a link; packets of no class pass at once."""
    init = attribute(TCA_HTB_INIT, struct.pack("=5I", 3, 10, 0, 0, 0))
    body = _message(index, MAJOR << 16, TC_H_ROOT, "htb", init)
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, "RTM_NEWQDISC htb")


def htb_class(index: int, minor: int, rate: int, *, parent: int = 0, leaf: bool = True) -> list[Request]:
    """Make or change a class that passes `rate` bytes a second at most.

    Below a `parent` it has no rate of its own but borrows the parent's, and so shares that with its siblings.
    """
    own = max(1000, rate // 10_000) if parent else rate
    parms = _rate(own) + _rate(rate) + struct.pack("=5I", _ticks(own), _ticks(rate), _QUANTUM, 0, 0)
    options = attribute(TCA_HTB_PARMS, parms)
    options += attribute(TCA_HTB_RATE64, own.to_bytes(8, "little"))
    options += attribute(TCA_HTB_CEIL64, rate.to_bytes(8, "little"))
    handle = MAJOR << 16 | minor
    above = MAJOR << 16 | parent if parent else MAJOR << 16
    made = Request(RTM_NEWTCLASS, NLM_F_CREATE, _message(index, handle, above, "htb", options), "RTM_NEWTCLASS htb")
    if not leaf:
        return [made]
    limit = min(max(int(rate * _QUEUE_SECONDS), _SMALLEST_QUEUE), _LARGEST_QUEUE)
    queue = _message(index, 0, handle, "bfifo", struct.pack("=I", limit))
    return [made, Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, queue, "RTM_NEWQDISC bfifo")]


def delete_class(index: int, minor: int) -> Request:
    body = _HEAD.pack(socket.AF_UNSPEC, index, MAJOR << 16 | minor, 0, 0)
    return Request(RTM_DELTCLASS, 0, body, "RTM_DELTCLASS htb")


def hook(route: Route, index: int, *, name: str = "") -> None:
    """Give a link its two places for filters, unless it has them."""
    body = _message(index, 0xFFFF0000, TC_H_CLSACT, "clsact", b"")
    try:
        route.commit([Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, "RTM_NEWQDISC clsact", name)])
    except FileExistsError:
        return


@contextmanager
def marker(minor: int) -> Iterator[int]:
    """A program that puts packets into a class (by their priority, which HTB reads); its descriptor.

    A filter keeps the program when the descriptor is closed.
    """
    code = (
        bpf.instruction(0xB4, 2, 0, 0, _signed(MAJOR << 16 | minor)),  # w2 = the class
        bpf.instruction(0x63, 1, 2, _SKB_PRIORITY, 0),  # packet's priority = w2
        bpf.instruction(0xB4, 0, 0, 0, -1),  # w0 = -1: this filter matches
        bpf.instruction(0x95, 0, 0, 0, 0),
    )
    program = bpf.load(bpf.PROG_TYPE_SCHED_CLS, b"".join(code))
    try:
        yield program
    finally:
        os.close(program)


def steer(index: int, program: int, to: int, *, inward: bool, name: str = "") -> Request:
    """Redirect through the ifb with index `to` what comes in from a link (`inward`) or goes out to it.

    `program` is a `marker`'s descriptor. Replaces what was there.
    """
    mirred = struct.pack("=5iiI", 0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to)
    action = text(TCA_ACT_KIND, "mirred") + nest(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, mirred))
    options = nest(TCA_BPF_ACT, nest(1, action)) + u32(TCA_BPF_FD, program) + text(TCA_BPF_NAME, "cove")
    body = _filter(index, inward) + text(TCA_KIND, "bpf") + nest(TCA_OPTIONS, options)
    return Request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_REPLACE, body, "RTM_NEWTFILTER bpf", name)


def unsteer(index: int, *, inward: bool, name: str = "") -> Request:
    """Let packets pass as they did before `steer`."""
    return Request(RTM_DELTFILTER, 0, _filter(index, inward) + text(TCA_KIND, "bpf"), "RTM_DELTFILTER bpf", name)


def classes(route: Route, index: int) -> dict[int, ClassUse]:
    """The classes of a link's HTB, by their number."""
    request = Request(RTM_GETTCLASS, 0, _HEAD.pack(socket.AF_UNSPEC, index, 0, 0, 0), "RTM_GETTCLASS")
    found = {}
    for message in route.dump(request):
        _, _, handle, parent, _ = _HEAD.unpack_from(message.body)
        if handle >> 16 == MAJOR:
            values = dict(nlwire.attributes(message.body[_HEAD.size :]))
            stats = dict(nlwire.attributes(values.get(TCA_STATS2, b"")))
            passed, packets = struct.unpack_from("=QI", stats.get(TCA_STATS_BASIC, bytes(12)))
            _, backlog, dropped = struct.unpack_from("=III", stats.get(TCA_STATS_QUEUE, bytes(12)))
            above = parent & 0xFFFF if parent != TC_H_ROOT else 0
            found[handle & 0xFFFF] = ClassUse(handle & 0xFFFF, above, passed, packets, dropped, backlog)
    return found


# ── encoding ──────────────────────────────────────────────────────────────────────────────────────


def _message(index: int, handle: int, parent: int, kind: str, options: bytes) -> bytes:
    head = _HEAD.pack(socket.AF_UNSPEC, index, handle, parent, 0)
    return head + text(TCA_KIND, kind) + attribute(TCA_OPTIONS, options)


def _filter(index: int, inward: bool) -> bytes:
    """The head of the one filter that this module has on each side of a link."""
    parent = TC_H_INGRESS if inward else TC_H_EGRESS
    return _HEAD.pack(socket.AF_UNSPEC, index, 1, parent, 1 << 16 | socket.htons(ETH_P_ALL))


def _rate(rate: int) -> bytes:
    """struct tc_ratespec; its 32 bits are full from 4 GiB/s on, where the 64-bit attribute tells."""
    return _RATE.pack(0, TC_LINKLAYER_ETHERNET, 0, -1, 0, min(rate, 0xFFFFFFFF))


def _ticks(rate: int) -> int:
    """What may pass at once, ten milliseconds' worth or a few packets, as the time it takes."""
    burst = max(rate // 100, _SMALLEST_BURST)
    return min(burst * 10**9 // rate // _TICK_NS, 0xFFFFFFFF)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
