"""How full a network is, counted from what is stored: pure."""

from __future__ import annotations

from collections.abc import Iterable

from cove.network import ipam
from cove.network.driver import Endpoint, Network
from cove.wire import networks as wire

_MOST = 2**64 - 1


def status(network: Network, endpoints: Iterable[Endpoint]) -> wire.NetworkStatus:
    """Each subnet with its addresses in use; counts beyond 64 bits are told as the most that 64 bits hold."""
    given = [ipam.parse_address(each.address) for endpoint in endpoints for each in endpoint.addresses]
    subnets: dict[str, wire.SubnetStatus] = {}
    for subnet in network.subnets:
        pool = ipam.Pool(subnet, reserved=network.reserved.values())
        for address in given:
            if address in pool.network:
                pool.learn(str(address))
        used, left = pool.counts()
        subnets[subnet.subnet] = wire.SubnetStatus(
            ips_in_use=min(used, _MOST), dynamic_ips_available=min(left, _MOST)
        )
    return wire.NetworkStatus(ipam=wire.IPAMStatus(subnets=subnets))
