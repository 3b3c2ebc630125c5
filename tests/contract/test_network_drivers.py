"""What every network driver promises (`cove.network.driver.Driver`), whichever it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cove.errors import Conflict, InvalidArgument, Unsupported
from cove.kernel import netlink
from cove.kernel.syscalls import setns, unshare
from cove.network.bridge import BridgeDriver
from cove.network.driver import Driver, EndpointRequest, Network
from cove.network.firewall import Firewall
from cove.network.forwarding import Forwarding
from cove.network.macvlan import ParentedDriver
from cove.network.pools import Pools
from cove.network.unmanaged import UnmanagedDriver
from cove.paths import Instance

INSTANCE = Instance(id="contract", bridge="cove-contract", nft_table="cove-contract", cgroup_parent="cove-contract")
UNTOUCHED = Forwarding(Path("/nonexistent/forwarding.json"))
DRIVERS = {
    "bridge": lambda: BridgeDriver(INSTANCE, Firewall(INSTANCE.nft_table, UNTOUCHED), Pools(INSTANCE.id)),
    "macvlan": lambda: ParentedDriver("macvlan", INSTANCE, Pools(INSTANCE.id)),
    "host": lambda: UnmanagedDriver("host"),
    "none": lambda: UnmanagedDriver("null"),
}


@pytest.fixture(params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    made: Driver = DRIVERS[request.param]()
    return made


OPTIONS = {"macvlan": {"parent": "covecontract0"}}


@pytest.fixture(autouse=True)
def parent(driver: Driver) -> Iterator[None]:
    """A link for drivers that are on one, in a namespace of the test's own."""
    if driver.name not in OPTIONS:
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("needs root for a link that networks can be on")
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    unshare(0x40000000)
    try:
        with netlink.Route() as route:
            route.commit(netlink.veth("covecontract0", peer="covecontract1"))
        yield
    finally:
        setns(own, 0x40000000)
        os.close(own)


@pytest.fixture
def network(driver: Driver, parent: None) -> Network:
    return driver.create(
        Network(id="a" * 64, name="contract", driver=driver.name, options=OPTIONS.get(driver.name, {}))
    )


def test_create_keeps_what_was_asked_for(driver: Driver, network: Network) -> None:
    assert (network.id, network.name, network.driver) == ("a" * 64, "contract", driver.name)


def test_a_plan_is_for_this_container_and_network(driver: Driver, network: Network) -> None:
    endpoint = driver.plan(network, "c" * 64, EndpointRequest())
    assert (endpoint.network_id, endpoint.container_id) == (network.id, "c" * 64)


def test_addresses_are_given_once(driver: Driver, network: Network) -> None:
    endpoints = [driver.plan(network, str(number) * 64, EndpointRequest()) for number in range(1, 6)]
    addresses = [endpoint.ipv4.address for endpoint in endpoints if endpoint.ipv4 is not None]
    assert len(addresses) == len(set(addresses))


def test_release_and_remove_are_idempotent(driver: Driver, network: Network) -> None:
    endpoint = driver.plan(network, "c" * 64, EndpointRequest())
    driver.release(network, endpoint)
    driver.release(network, endpoint)
    driver.remove(network)
    driver.remove(network)


def test_a_stored_network_is_learnt_again(driver: Driver, network: Network) -> None:
    endpoint = driver.plan(network, "c" * 64, EndpointRequest())
    driver.release(network, endpoint)
    driver.remove(network)
    again = driver.create(network)
    assert again.subnets == network.subnets


def test_a_rate_is_limited_or_refused(driver: Driver, network: Network) -> None:
    driver.limit(network, ())
    limited = msgspec.structs.replace(network, options={"cove.net-rate": "in=1048576"})
    if driver.name != "bridge":
        with pytest.raises(Unsupported, match="no rate to limit"):
            driver.limit(limited, ())
    else:
        driver.limit(limited, ())


def test_a_given_address_is_given_to_nobody_else_until_it_comes_back(driver: Driver, network: Network) -> None:
    first = driver.plan(network, "c" * 64, EndpointRequest())
    if first.ipv4 is None:
        assert not first.addresses and not first.gateways
        return
    wanted = EndpointRequest(ipv4=first.ipv4.address)
    with pytest.raises(Conflict, match="already in use"):
        driver.plan(network, "d" * 64, wanted)
    driver.release(network, first)
    assert driver.plan(network, "d" * 64, wanted).ipv4 == first.ipv4


def test_a_restarted_daemon_knows_what_is_held(driver: Driver, network: Network) -> None:
    held = driver.plan(network, "c" * 64, EndpointRequest())
    after = DRIVERS["none" if driver.name == "null" else driver.name]()
    if driver.name == "bridge":  # it would make the bridge: seen with a kernel of its own in tests/integration
        return
    after.restore(network, [held])
    if held.ipv4 is not None:
        with pytest.raises(Conflict, match="already in use"):
            after.plan(network, "d" * 64, EndpointRequest(ipv4=held.ipv4.address))


def test_options_that_mean_nothing_are_refused(driver: Driver) -> None:
    if driver.name not in ("bridge", "macvlan"):
        return
    with pytest.raises(InvalidArgument, match="Unknown option 'colour'"):
        options = OPTIONS.get(driver.name, {}) | {"colour": "red"}
        driver.create(Network(id="b" * 64, name="odd", driver=driver.name, options=options))
