"""Makes the host a router for its bridges, and keeps what it learns as a host.

IPv4 forwarding off is switched on. IPv6 forwarding has a side effect: an interface that forwards stops
listening to router advertisements, so a host that got its own default route from one would lose it. Those
interfaces are told to go on listening (accept_ra 2) first.
"""

from __future__ import annotations

import logging

from cove.kernel import netlink, sysctl

_log = logging.getLogger(__name__)


def enable(*, ipv6: bool) -> None:
    """Idempotent. OSError with the parameter's path when the kernel refuses."""
    if sysctl.read("ipv4/ip_forward") == "0":
        sysctl.write("ipv4/ip_forward", 1)
        _log.info("IPv4 forwarding was off and is now on, for containers to reach the outside")
    if ipv6 and sysctl.read("ipv6/conf/all/forwarding") == "0":
        _keep_listening()
        sysctl.write("ipv6/conf/all/forwarding", 1)
        _log.info("IPv6 forwarding was off and is now on, for containers to reach the outside")


def enabled(version: int) -> bool:
    """Whether the host forwards packets of a family, 4 or 6."""
    return sysctl.read("ipv4/ip_forward" if version == 4 else "ipv6/conf/all/forwarding") != "0"


def _keep_listening() -> None:
    with netlink.Route() as route:
        names = [link.name for link in route.links() if link.kind != "bridge" and link.name != "lo"]
    for name in names:
        if sysctl.read(f"ipv6/conf/{name}/accept_ra") == "1":
            sysctl.write(f"ipv6/conf/{name}/accept_ra", 2)
