"""The default network as the administrator wants it, in daemon.toml and by dockerd's flags."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, new_daemon

pytestmark = pytest.mark.root


@pytest.fixture
def wished(archive: Path) -> Iterator[Daemon]:
    """A daemon that is started by the test, and again by its clean-up, with no wishes."""
    daemon = new_daemon()
    (daemon.root / "daemon.toml").write_text("")
    _restart(daemon)
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def _restart(daemon: Daemon, *flags: str, toml: str = "") -> None:
    daemon.stop()
    (daemon.root / "daemon.toml").write_text(toml)
    daemon.extra = ("--config", str(daemon.root / "daemon.toml"), *flags)
    daemon.start()


def _default(daemon: Daemon) -> Any:
    return json.loads(daemon.docker("network", "inspect", "bridge").stdout)[0]


def test_wishes_hold_from_the_next_start_without_containers_on_it(wished: Daemon) -> None:
    before = _default(wished)
    wished.cove("run", "-d", "--name", "first", "busybox", "sleep", "600")
    toml = '[network]\nbip = "10.201.7.1/24"\nfixed_cidr = "10.201.7.128/25"\nmtu = 1400\nicc = false\nipv6 = false\n'
    _restart(wished, toml=toml)
    assert _default(wished)["IPAM"] == before["IPAM"] and "stays as it is" in wished.log()
    wished.cove("rm", "-f", "first")

    _restart(wished, toml=toml)
    found = _default(wished)
    assert found["Id"] == before["Id"] and not found["EnableIPv6"]
    assert found["IPAM"]["Config"] == [
        {"Subnet": "10.201.7.0/24", "IPRange": "10.201.7.128/25", "Gateway": "10.201.7.1"}
    ]
    seen = wished.cove("run", "--rm", "busybox", "sh", "-c", "ip addr show eth0; ip route").stdout
    assert "mtu 1400" in seen and "10.201.7.128/24" in seen and "default via 10.201.7.1 " in seen
    wished.cove("run", "-d", "--name", "first", "busybox", "sleep", "600")
    address = wished.cove("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "first").stdout.strip()
    assert wished.cove("run", "--rm", "busybox", "ping", "-c1", "-W1", address, check=False).returncode == 1
    wished.cove("rm", "-f", "first")

    _restart(wished)
    assert _default(wished)["IPAM"]["Config"][0]["Subnet"] != "10.201.7.0/24"


def test_address_pools_and_options_of_new_networks(wished: Daemon) -> None:
    pools = ("--default-address-pool", "base=10.202.0.0/24,size=26", "--default-address-pool=base=fd77::/48,size=64")
    toml = '[network.default_options.bridge]\n"com.docker.network.driver.mtu" = "1300"\n'
    _restart(wished, *pools, toml=toml)
    made = [wished.docker("network", "create", "--ipv6", f"n{number}").stdout.strip() for number in range(4)]
    try:
        found = [json.loads(wished.docker("network", "inspect", each).stdout)[0] for each in made]
        subnets = {config["Subnet"] for each in (_default(wished), *found) for config in each["IPAM"]["Config"]}
        assert {f"10.202.0.{at}/26" for at in (0, 64, 128, 192)} < subnets
        assert "fd77:0:0:3::/64" in subnets
        assert found[0]["Options"] == {"com.docker.network.driver.mtu": "1300"}
        full = wished.docker("network", "create", "n9", check=False)
        assert full.returncode and "fully subnetted" in full.stderr
    finally:
        wished.docker("network", "rm", *made)


def test_no_default_network(wished: Daemon) -> None:
    _restart(wished, "-b", "none")
    assert wished.docker("network", "ls", "--format", "{{.Name}}").stdout.split() == ["host", "none"]
    for words in ([], ["--network", "bridge"]):
        seen = wished.docker("run", "--rm", *words, "busybox", "ip", "link").stdout
        assert "lo:" in seen and "eth0" not in seen


def test_the_usual_families_of_new_networks_give_way_to_what_is_asked(wished: Daemon) -> None:
    option = "com.docker.network.enable_ipv6"
    _restart(wished, toml=f'[network.default_options.bridge]\n"{option}" = "true"\n')
    seen = {}
    for name, flags in (("said-nothing", []), ("asked", ["--ipv6=false"])):
        wished.docker("network", "create", *flags, name)
        shown = json.loads(wished.docker("network", "inspect", name).stdout)[0]
        seen[name] = (shown["EnableIPv6"], option in shown["Options"])
        wished.docker("network", "rm", name)
    assert seen == {"said-nothing": (True, True), "asked": (False, False)}


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--bridge", "br7"), "only none is possible"),
        (("--bip", "10.1.1.1"), "no prefix length"),
        (("--bip", "10.1.1.1/24", "--fixed-cidr", "10.2.0.0/24"), "is not in the subnet"),
        (("--mtu", "12"), "Invalid MTU"),
        (("--icc", "perhaps"), "neither true nor false"),
        (("--default-address-pool", "base=10.0.0.0/16"), "is no pool"),
        (("--default-address-pool", "base=10.0.0.0/16,size=8"), "has no subnets of the size 8"),
    ],
)
def test_wishes_that_make_no_sense(daemon: Daemon, flags: tuple[str, ...], complaint: str) -> None:
    refused = daemon.cove(
        "daemon", "--data-root", f"{daemon.root}/x", "--run-root", f"{daemon.root}/y", *flags, check=False
    )
    assert refused.returncode == 1 and complaint in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
