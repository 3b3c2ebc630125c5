"""Addresses and subnets are chosen so that nothing collides."""

from __future__ import annotations

import ipaddress

import pytest

from cove.errors import Conflict, Forbidden, InvalidArgument
from cove.network import ipam
from cove.network.driver import Network, Subnet


def test_an_address_given_back_is_given_out_last() -> None:
    pool = ipam.Pool(Subnet(subnet="10.0.0.0/29", gateway="10.0.0.1"), reserved=["10.0.0.5"])
    assert [pool.allocate() for _ in range(2)] == ["10.0.0.2", "10.0.0.3"]
    pool.release("10.0.0.2")
    assert [pool.allocate() for _ in range(3)] == ["10.0.0.4", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(Conflict, match=r"No free address is left in 10\.0\.0\.0/29"):
        pool.allocate()


def test_a_wanted_address_is_checked() -> None:
    pool = ipam.Pool(Subnet(subnet="10.0.0.0/24", gateway="10.0.0.1", ip_range="10.0.0.128/25"))
    assert pool.allocate("10.0.0.9") == "10.0.0.9"
    assert pool.allocate() == "10.0.0.128"
    for taken in ("10.0.0.1", "10.0.0.9", "10.0.0.255"):
        with pytest.raises(Conflict, match="Address already in use"):
            pool.allocate(taken)
    with pytest.raises(InvalidArgument, match="not in the network's subnet"):
        pool.allocate("10.0.1.2")


def test_subnets_avoid_what_the_host_routes() -> None:
    def chosen(*taken: str, instance: str = "") -> str:
        networks = [ipaddress.ip_network(each) for each in taken]
        network = Network(id="a" * 64, name="bridge", ipv6=True)
        found = ipam.complete(network, instance=instance, default=True, taken=networks)
        assert [subnet.version for subnet in found] == [4, 6]
        assert ipaddress.ip_network(found[1].subnet).subnet_of(ipaddress.IPv6Network("fd00::/8"))
        return found[0].subnet

    assert chosen() == "10.88.0.0/16"
    assert chosen("10.88.4.0/24") != "10.88.0.0/16"
    assert chosen("10.0.0.0/8").startswith("172.")
    assert chosen(instance="one") != chosen(instance="two")
    with pytest.raises(Forbidden, match="Pool overlaps"):
        ipam.complete(
            Network(id="b" * 64, name="mine", subnets=(Subnet(subnet="10.1.0.0/16"),)),
            instance="",
            default=False,
            taken=[ipaddress.ip_network("10.1.2.0/24")],
        )


def test_nonsense_is_refused() -> None:
    for subnet in (
        Subnet(subnet="10.1.0.1/16"),
        Subnet(subnet="10.1.0.0/16", gateway="10.2.0.1"),
        Subnet(subnet="x"),
    ):
        with pytest.raises(InvalidArgument):
            ipam.complete(Network(id="c", name="n", subnets=(subnet,)), instance="", default=False, taken=[])
