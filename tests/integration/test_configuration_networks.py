"""Networks that only hold configuration, and those that are made with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Daemon
from tests.integration.networks_world import Made

HELD = (
    "--subnet=10.97.31.0/24",
    "--gateway=10.97.31.9",
    "--label=tier=back",
    "--opt=com.docker.network.driver.mtu=1400",
)


@pytest.fixture
def made(daemon: Daemon) -> Iterator[Made]:
    all_ = Made(daemon)
    yield all_
    all_.networks.reverse()  # who holds a configuration goes last
    all_.close()


def test_a_network_is_made_with_what_another_one_holds(made: Made) -> None:
    held = made.inspect(made.network("held", "--config-only", *HELD))
    assert held["ConfigOnly"] is True and held["Driver"] == "null"
    assert held["IPAM"]["Config"] == [{"Subnet": "10.97.31.0/24", "Gateway": "10.97.31.9"}]
    user = made.inspect(made.network("user", "--config-from=held"))
    assert user["ConfigFrom"] == {"Network": "held"} and user["ConfigOnly"] is False
    for part in ("IPAM", "Labels", "Options"):
        assert user[part] == held[part]
    made.run("inhabitant", "--network=user")
    assert "mtu 1400" in made.ip("inhabitant", "addr", "show", "eth0")
    assert "default via 10.97.31.9" in made.ip("inhabitant", "route")


def test_coves_own_command_makes_them_too(made: Made) -> None:
    made.daemon.cove("network", "create", "--config-only", "--subnet=10.97.32.0/24", "held")
    made.networks.append("held")
    made.daemon.cove("network", "create", "--config-from=held", "--internal", "user")
    made.networks.append("user")
    user = made.inspect("user")
    assert user["Internal"] is True and user["IPAM"]["Config"][0]["Subnet"] == "10.97.32.0/24"


def test_nothing_of_a_configuration_is_a_network(made: Made) -> None:
    made.network("held", "--config-only", *HELD)
    assert "no container can be on" in made.refused("run", "--rm", "--network=held", "busybox", "true")
    made.run("alone", "--network=none")
    assert "no container can be on" in made.refused("network", "connect", "held", "alone")
    made.network("neighbour", "--subnet=10.97.31.0/24")  # its subnet is nobody's
    made.daemon.cove("network", "prune", "-f")
    assert made.inspect("held")["ConfigOnly"] is True
    made.networks.remove("neighbour")  # that one was pruned


def test_a_configuration_stays_while_a_network_is_made_with_it(made: Made) -> None:
    made.network("held", "--config-only", *HELD)
    made.network("user", "--config-from=held")
    assert 'configuration network "held" is in use by user' in made.refused("network", "rm", "held")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config-from=nobody"], 'configuration network "nobody" does not exist'),
        (["--config-from=bridge"], 'configuration network "bridge" does not exist'),
        (["--config-from=held", "--subnet=10.97.33.0/24"], "user-specified configurations are not supported"),
        (["--config-from=held", "--opt=mtu=1300"], "user-specified configurations are not supported"),
        (["--config-from=held", "--config-only"], "cannot depend on another configuration network"),
        (["--config-only", "--internal"], "holds only configuration"),
        (["--config-only", "--subnet=10.97.33.0/99"], "Invalid subnet"),
    ],
)
def test_what_cannot_be_is_refused(made: Made, flags: list[str], words: str) -> None:
    made.network("held", "--config-only", *HELD)
    assert words in made.refused("network", "create", *flags, "wrong")
