"""Which networks a container is on, what its interfaces are called, and how it calls its host."""

from __future__ import annotations

import re

import pytest

from tests.integration.api_client import Api
from tests.integration.networks_world import Made, made

__all__ = ["made"]

pytestmark = [pytest.mark.root]
_IFNAME = "com.docker.network.endpoint.ifname"


@pytest.mark.parametrize("mode", [None, "default", "bridge", "one"])
def test_networks_that_are_named_take_the_place_of_the_default_one(made: Made, mode: str | None) -> None:
    """As clients ask for them that set no network mode, in NetworkingConfig alone."""
    for name in ("one", "two"):
        made.network(name)
    api = Api(made.daemon)
    for named, seen in (
        (["two"], {"two"}),
        (["one", "two"], {"one", "two"}),
        ([], {"one" if mode == "one" else "bridge"}),
    ):
        body = {
            "Image": "busybox",
            "Cmd": ["true"],
            "HostConfig": {"NetworkMode": mode} if mode else {},
            "NetworkingConfig": {"EndpointsConfig": {name: {} for name in named}},
        }
        status, created = api.call("POST", "/containers/create", body)
        assert status == 201, created
        made.containers.append(created["Id"])
        assert set(made.inspect(created["Id"])["NetworkSettings"]["Networks"]) == seen


def _interfaces(made: Made, name: str) -> dict[str, str]:
    """Interface by the beginning of its address."""
    shown = made.ip(name, "-o", "-4", "addr", "show", "scope", "global")
    return dict(re.findall(r"inet (10\.97\.\d+)\.\d+/\d+.* (\S+)\\", shown))


def test_interfaces_are_called_as_asked_and_others_by_the_first_free_number(made: Made) -> None:
    prefix = "--opt=com.docker.network.container_iface_prefix=lan"
    for number, flags in enumerate(([], [], [prefix], [])):
        made.network(f"net{number}", f"--subnet=10.97.{number}.0/24", *flags)
    made.run("many", f"--network=name=net0,driver-opt={_IFNAME}=eth1", "--network=net1", "--network=net2")
    assert _interfaces(made, "many") == {"10.97.0": "eth1", "10.97.1": "eth0", "10.97.2": "lan0"}
    made.daemon.docker("network", "connect", "net3", "many")
    made.daemon.docker("network", "disconnect", "net1", "many")
    made.daemon.docker("network", "disconnect", "net3", "many")
    made.daemon.docker("network", "connect", "net3", "many")
    assert _interfaces(made, "many") == {"10.97.0": "eth1", "10.97.3": "eth0", "10.97.2": "lan0"}
    taken = made.refused("network", "connect", f"--driver-opt={_IFNAME}=lan0", "net1", "many")
    assert "another one that is called lan0" in taken
    assert "net1" not in made.inspect("many")["NetworkSettings"]["Networks"]


def test_the_host_has_an_address_of_each_family_and_on_internal_networks_too(made: Made) -> None:
    made.network("both", "--subnet=10.97.5.0/24", "--ipv6", "--subnet=fd97:5::/64")
    made.network("sealed", "--internal", "--subnet=10.97.6.0/24")
    made.network("alone", "-d", "macvlan")
    default = made.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    for net, addresses in (("both", ["10.97.5.1", "fd97:5::1"]), ("sealed", ["10.97.6.1"]), ("alone", [default])):
        words = ["run", "--rm", "--network", net, "--add-host=me:host-gateway", "busybox", "cat", "/etc/hosts"]
        lines = made.daemon.docker(*words).stdout.splitlines()
        assert [line.split()[0] for line in lines if line.endswith("\tme")][: len(addresses)] == addresses
    words = ["run", "--rm", "--network=sealed", "--network=both", "--add-host=me:host-gateway", "busybox"]
    assert "10.97.5.1\tme" in made.daemon.docker(*words, "cat", "/etc/hosts").stdout


def test_a_link_on_the_default_network_follows_its_target(made: Made) -> None:
    """Which starts again at another address; what the container wrote into the file itself stays."""
    made.run("target")
    made.run("linked", "--link=target:db")
    docker = made.daemon.docker
    docker("exec", "linked", "sh", "-c", "echo 10.1.2.3 mine >> /etc/hosts")
    before = made.inspect("target")["NetworkSettings"]["IPAddress"]
    docker("stop", "-t0", "target")
    made.run("thief")
    made.network("further")
    docker("network", "connect", "further", "linked")
    docker("start", "target")
    now = made.inspect("target")["NetworkSettings"]["IPAddress"]
    lines = docker("exec", "linked", "cat", "/etc/hosts").stdout.splitlines()
    assert now != before and f"{now}\tdb" in lines and f"{now}\ttarget" in lines and "10.1.2.3 mine" in lines
    assert not any(line.startswith(f"{before}\t") for line in lines)
    assert made.inspect("linked/db")["Name"] == "/target"
