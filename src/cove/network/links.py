"""Small things about the host's links that several drivers need."""

from __future__ import annotations

import errno
import os
import socket

from cove.errors import Internal, describe
from cove.kernel import netlink, sysctl


def delete_link(name: str) -> None:
    """Idempotent. Internal when the kernel refuses."""
    try:
        with netlink.Route() as route:
            route.commit([netlink.delete(name)])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise Internal(f"The interface {name} could not be removed: {describe(error)}") from error


def exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def host_has_ipv6() -> bool:
    return sysctl.read("ipv6/conf/all/disable_ipv6") == "0"


def uplink_mtu() -> int:
    """The MTU of the link that has the default route, else Ethernet's."""
    with netlink.Route() as route:
        uplinks = {each.ifindex for each in route.routes() if each.prefix == 0}
        return min((link.mtu for link in route.links() if link.ifindex in uplinks), default=1500)


def reason(error: OSError) -> str:
    """The kernel's words, with the call and the link."""
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error.strerror or os.strerror(error.errno or 0))
