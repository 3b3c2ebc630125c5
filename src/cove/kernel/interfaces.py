"""A new network namespace set up from inside: loopback up, interfaces with their addresses and default routes.

For a container's init, alone in its namespace, where the interfaces were born. What is asked of the kernel is
`cove.kernel.netlink`'s.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from cove.kernel import sysctl
from cove.kernel.netlink import Route, add_address, add_route, set_mtu, up
from cove.kernel.nlwire import Request

_PATIENCE = 5.0


class AddressLike(Protocol):
    """An address and its prefix length: "10.88.0.2", 16."""

    @property
    def address(self) -> str: ...
    @property
    def prefix(self) -> int: ...


class InterfaceLike(Protocol):
    """An interface that already is in the namespace, and what it shall have; `mtu` 0 leaves it as it is."""

    @property
    def name(self) -> str: ...
    @property
    def addresses(self) -> Sequence[AddressLike]: ...
    @property
    def gateways(self) -> Sequence[str]: ...
    @property
    def mtu(self) -> int: ...
    @property
    def sysctls(self) -> Mapping[str, str]: ...


def configure(interfaces: Sequence[InterfaceLike], *, net: int | None = None) -> None:
    """Set up a new network namespace from inside: loopback up, each interface with addresses and default routes.

    Called by a container's init, single-threaded, in its own namespace. OSError names the call and the link.
    `net`: a descriptor of /proc/sys/net (`sysctl.open_net()`) opened while that was still writable; needed
    when /proc/sys has been made read-only since. An interface takes no router advertisements (a neighbour
    could otherwise become its router) and waits for no
    duplicate address detection; one without an IPv6 address speaks no IPv6.
    """
    with Route() as route:
        requests = [up("lo")]
        for interface in interfaces:
            _quieten(interface, net)
            requests += _set_up(interface)
        _commit_patiently(route, requests)
    for interface in interfaces:
        for name, value in interface.sysctls.items():
            if not sysctl.write(name, value, net=net):
                raise OSError(errno.ENOENT, "the kernel has no such parameter", f"/proc/sys/net/{name}")


def _commit_patiently(route: Route, requests: Sequence[Request]) -> None:
    """On one parent, addresses of ipvlans are told apart, and those of macvlans: one that an ended container had is
    free when the kernel has taken its namespace apart, a moment after its last process.
    """
    try:
        route.commit(requests)
        return
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    deadline = time.monotonic() + _PATIENCE
    for request in requests:
        while not _committed(route, request, last=time.monotonic() > deadline):
            time.sleep(0.02)


def _committed(route: Route, request: Request, *, last: bool) -> bool:
    """Whether it is done, now or before; that its address is taken is an error only the `last` time."""
    try:
        route.commit([request])
    except OSError as error:
        if error.errno == errno.EADDRINUSE and not last:
            return False
        if error.errno != errno.EEXIST:
            raise
    return True


def _quieten(interface: InterfaceLike, net: int | None) -> None:
    conf = f"ipv6/conf/{interface.name}"
    if any(":" in address.address for address in interface.addresses):
        sysctl.write(f"{conf}/accept_ra", 0, net=net)
        sysctl.write(f"{conf}/accept_dad", 0, net=net)
    else:
        sysctl.write(f"{conf}/disable_ipv6", 1, net=net)


def _set_up(interface: InterfaceLike) -> list[Request]:
    """Addresses before the link comes up, routes after: a gateway is reachable only through a link that is up."""
    name = interface.name
    try:
        index = socket.if_nametoindex(name)
    except OSError as error:
        raise OSError(error.errno, f"if_nametoindex: {os.strerror(error.errno or errno.ENODEV)}", name) from None
    requests = [set_mtu(name, interface.mtu)] if interface.mtu else []
    requests += [add_address(index, each.address, each.prefix, name=name) for each in interface.addresses]
    requests.append(up(name))
    requests += [add_route(index, gateway, name=name) for gateway in interface.gateways]
    return requests
