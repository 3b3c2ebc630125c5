"""What every network driver promises (`cove.network.driver.Driver`), whichever it is."""

from __future__ import annotations

import msgspec
import pytest

from cove.errors import Unsupported
from cove.network.bridge import BridgeDriver
from cove.network.driver import Driver, EndpointRequest, Network
from cove.network.firewall import Firewall
from cove.network.unmanaged import UnmanagedDriver
from cove.paths import Instance

INSTANCE = Instance(id="contract", bridge="cove-contract", nft_table="cove-contract", cgroup_parent="cove-contract")
DRIVERS = {
    "bridge": lambda: BridgeDriver(INSTANCE, Firewall(INSTANCE.nft_table)),
    "host": lambda: UnmanagedDriver("host"),
    "none": lambda: UnmanagedDriver("null"),
}


@pytest.fixture(params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    made: Driver = DRIVERS[request.param]()
    return made


@pytest.fixture
def network(driver: Driver) -> Network:
    return driver.create(Network(id="a" * 64, name="contract", driver=driver.name))


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
    if driver.name in ("host", "null"):
        with pytest.raises(Unsupported, match="no rate to limit"):
            driver.limit(limited, ())
    else:
        driver.limit(limited, ())
