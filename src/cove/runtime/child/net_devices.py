"""linux.netDevices: interfaces of the host that move into a container's network namespace, and keep their addresses.

When the container ends, the kernel gives back what is a real device and drops what is virtual.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

from cove.kernel import namespaces, netlink, syscalls
from cove.oci.spec import NetDevice
from cove.runtime.child.common import Failure

_LINK_LOCAL = "fe80:"


def move(devices: Mapping[str, NetDevice], pid: int) -> None:
    """Move `devices`, by their names here, into the network namespace of `pid`. This process follows them there."""
    target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(target), os.stat("/proc/self/ns/net")):
            raise Failure("linux.netDevices needs a network namespace that is not the runtime's own")
        addresses = {name: _leave(name, device.name or name, target) for name, device in devices.items()}
        syscalls.setns(target, namespaces.FLAGS["network"])
    finally:
        os.close(target)
    with netlink.Route() as route:
        for name, device in devices.items():
            inside = device.name or name
            index = socket.if_nametoindex(inside)
            route.commit(
                [
                    *(netlink.add_address(index, each.address, each.prefix, name=inside) for each in addresses[name]),
                    netlink.up(inside),
                ]
            )


def _leave(name: str, inside: str, target: int) -> list[netlink.HostAddress]:
    """Send the link `name` away, to be called `inside`; the addresses that it loses by that."""
    with netlink.Route() as route:
        link = route.link(name)
        if link is None:
            raise Failure(f"linux.netDevices: this host has no interface {name}", number=errno.ENODEV)
        kept = [
            each
            for each in route.addresses()
            if each.ifindex == link.ifindex and not each.address.startswith(_LINK_LOCAL)
        ]
        try:
            route.commit([netlink.send_away(name, inside, target)])
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise Failure(
                f"linux.netDevices: {name} cannot become {inside} in the container: {reason}", number=error.errno or 0
            ) from None
    return kept
