"""Networks of users' making, through the docker and the cove command: drivers, addresses, routes, gateway modes."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from cove.kernel import interfaces, netlink
from cove.kernel.syscalls import setns, unshare
from cove.network.bridge import BridgeDriver
from cove.network.driver import Endpoint, EndpointRequest, Network, Subnet
from cove.network.firewall import Firewall
from cove.network.forwarding import Forwarding
from cove.network.links import exists
from cove.network.pools import Pools
from cove.network.switches import Switches
from cove.paths import Instance
from tests.conftest import PATIENCE
from tests.integration.networks_world import Lan, Made, apart, lan, made
from tests.integration.test_names import AAAA, Box, inside

__all__ = ["lan", "made"]

pytestmark = [pytest.mark.root]
NEWNET = 0x40000000


def test_fixed_addresses_ranges_and_reserved_ones(made: Made) -> None:
    net = made.network(
        "fixed",
        "--subnet=10.97.1.0/24",
        "--ip-range=10.97.1.64/30",
        "--gateway=10.97.1.254",
        "--aux-address=printer=10.97.1.65",
        "--ipv6",
        "--subnet=fd97:1::/64",
        "--label=tier=front",
        "--opt=com.docker.network.driver.mtu=1400",
    )
    shown = made.inspect(net)
    four = next(each for each in shown["IPAM"]["Config"] if "." in each["Subnet"])
    assert four == {
        "Subnet": "10.97.1.0/24",
        "IPRange": "10.97.1.64/30",
        "Gateway": "10.97.1.254",
        "AuxiliaryAddresses": {"printer": "10.97.1.65"},
    }
    assert shown["Labels"] == {"tier": "front"} and shown["EnableIPv6"] is True
    made.run("chosen", "--network", net, "--ip=10.97.1.9", "--ip6=fd97:1::9", "--mac-address=02:00:00:00:00:09")
    made.run("ranged", "--network", net)
    text = made.ip("chosen", "addr", "show", "eth0")
    assert "inet 10.97.1.9/24" in text and "inet6 fd97:1::9/64" in text and "02:00:00:00:00:09" in text
    assert "mtu 1400" in text
    assert "default via 10.97.1.254" in made.ip("chosen", "route")
    assert made.inspect("ranged")["NetworkSettings"]["Networks"][net]["IPAddress"] in ("10.97.1.64", "10.97.1.66")
    for flags, reason in (
        (["--ip=10.97.1.9"], "Address already in use"),
        (["--ip=10.97.1.65"], "Address already in use"),
        (["--ip=10.98.0.1"], "no configured subnet contains IP address 10.98.0.1"),
        (["--ip=fd97:1::8"], "not an IPv4 address"),
        (["--mac-address=zz"], "invalid MAC address"),
    ):
        words = ["run", "--rm", "--network", net, *flags]
        assert reason in made.refused(*words, "busybox", "true"), flags


def test_what_makes_no_network_is_refused_in_a_sentence(made: Made) -> None:
    made.network("first", "--subnet=10.97.2.0/24")
    for flags, reason in (
        (["--subnet=10.97.2.128/25"], "Pool overlaps with other one"),
        (["--subnet=10.97.3.0/24", "--gateway=10.1.1.1"], "is not in the subnet"),
        (["--subnet=10.97.3.0/24", "--gateway=10.97.3.255"], "the subnet 10.97.3.0/24 as a whole"),
        (["--subnet=10.97.3.0/24", "--ip-range=10.97.4.0/24"], "is not in the subnet"),
        (["--subnet=10.97.3.7/24"], "has host bits set"),
        (["--subnet=224.0.3.0/24"], "has no addresses for hosts"),
        (["--subnet=0.0.0.0/0"], "has no addresses for hosts"),
        (["--subnet=10.97.3.0/24", "--aux-address=a=10.97.4.1"], "a=10.97.4.1 is in no subnet"),
        (["--subnet=10.97.3.0/24", "--aux-address=a=10.97.3.1"], "is the gateway's"),
        (["--driver=nonsense"], 'plugin "nonsense" not found'),
        (["--opt=com.docker.network.bridge.enable_icx=false"], "Unknown option"),
        (["--opt=color=red"], "Unknown option 'color'"),
        (["--opt=com.docker.network.bridge.gateway_mode_ipv4=isolated"], "for internal networks only"),
        (["--driver=host"], "only one instance"),
        (["--driver=macvlan", "--opt=parent=nolink0"], "no link nolink0"),
        (["--driver=macvlan", "--internal", "--opt=parent=lo"], "has a link of its own"),
        (["--driver=macvlan", "--subnet=10.97.2.0/24"], "Pool overlaps with other one"),
        (["--driver=macvlan", "--opt=parent=lo", "--opt=macvlan_mode=odd"], "Unknown macvlan mode"),
    ):
        assert reason in made.refused("network", "create", *flags, "second"), flags
    assert "already exists" in made.refused("network", "create", "first")
    made.run("member", "--network", "first")
    assert "has active endpoints" in made.refused("network", "rm", "first")
    assert "already exists in network" in made.refused("network", "connect", "first", "member")
    assert "second" not in made.daemon.docker("network", "ls").stdout


def test_several_networks_with_priorities_and_a_gateway_that_moves(made: Made) -> None:
    low, high = made.network("low", "--subnet=10.97.5.0/24"), made.network("high", "--subnet=10.97.6.0/24")
    shut = made.network("shut", "--internal", "--subnet=10.97.7.0/24")
    made.run("both", f"--network=name={shut}", f"--network=name={low}", f"--network=name={high},gw-priority=5")
    assert "default via 10.97.6.1 dev" in made.ip("both", "route")
    made.daemon.docker("network", "disconnect", high, "both")
    assert "default via 10.97.5.1 dev" in made.ip("both", "route")
    made.daemon.docker("network", "connect", "--gw-priority=9", "--ip=10.97.6.77", high, "both")
    routes = made.ip("both", "route")
    assert "default via 10.97.6.1" in routes and routes.count("default") == 1 and "src 10.97.6.77" in routes
    made.daemon.docker("network", "disconnect", high, "both")
    made.daemon.docker("network", "disconnect", low, "both")
    assert "default" not in made.ip("both", "route"), "an internal network leads nowhere"
    made.daemon.docker("restart", "-t0", "both")
    assert "10.97.7." in made.ip("both", "addr") and "default" not in made.ip("both", "route")
    shown = made.inspect("both")["NetworkSettings"]["Networks"]
    assert list(shown) == [shut] and "both" in shown[shut]["DNSNames"]


def test_a_network_with_ipv6_alone(made: Made) -> None:
    net = made.network("six", "--ipv4=false", "--ipv6", "--subnet=fd97:6::/64")
    made.run("a6", "--network", net)
    made.run("b6", "--network", net, "--ip6=fd97:6::b")
    assert "inet " not in made.ip("a6", "-4", "addr", "show", "eth0")
    assert "default via fd97:6::1" in made.ip("a6", "-6", "route")
    with inside(made.pid("b6")):
        server = socket.create_server(("::", 80), family=socket.AF_INET6)
    with server, inside(made.pid("a6")):
        socket.create_connection(("fd97:6::b", 80), 20 * PATIENCE).close()
    assert Box(made.daemon, "a6").ask("b6", AAAA).values == ["fd97:6::b"]


def test_families_may_be_named_as_options_and_link_local_subnets_collide_with_nothing(made: Made) -> None:
    option = "--opt=com.docker.network.enable_ipv6=true"
    near = made.network("near", option, "--subnet=10.97.5.0/24", "--subnet=fe80::/64")
    made.run("linked", "--network", near, "--ip6=fe80::77")
    assert "inet6 fe80::77/64" in made.ip("linked", "addr", "show", "eth0")


def test_containers_that_must_not_meet(made: Made) -> None:
    net = made.network("apart", "--subnet=10.97.8.0/24", "--opt=com.docker.network.bridge.enable_icc=false")
    made.run("left", "--network", net, "--ip=10.97.8.2")
    made.run("right", "--network", net, "--ip=10.97.8.3")
    with inside(made.pid("right")):
        server = socket.create_server(("", 80))
    with server, inside(made.pid("left")), pytest.raises(OSError):
        socket.create_connection(("10.97.8.3", 80), 0.3)


# ── beside the host, on its links ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_macvlan(made: Made, lan: Lan, mode: str) -> None:
    options = [f"--opt=parent={lan.link}", f"--opt=macvlan_mode={mode}"]
    net = made.network(f"mac-{mode}", "-d", "macvlan", *options, "--subnet=10.97.20.0/24")
    made.run("one", "--network", net)
    assert f"macvlan mode {mode}" in made.ip("one", "-d", "link", "show", "eth0")
    with inside(made.pid("one")):
        socket.create_connection(("10.97.20.9", 80), 20 * PATIENCE).close()
    if mode == "passthru":
        assert "has its one container already" in made.refused("run", "--rm", "--network", net, "busybox", "true")
        return
    made.run("two", "--network", net)
    there = made.inspect("two")["NetworkSettings"]["Networks"][net]["IPAddress"]
    with inside(made.pid("two")):
        server = socket.create_server(("", 81))
    with server, inside(made.pid("one")):
        if mode == "bridge":
            socket.create_connection((there, 81), 20 * PATIENCE).close()
        else:
            with pytest.raises(OSError):
                socket.create_connection((there, 81), 0.3)
    made.daemon.docker("network", "connect", "bridge", "two")
    made.daemon.docker("network", "disconnect", net, "two")
    assert "macvlan" not in made.ip("two", "-d", "link")


def test_macvlan_without_a_parent_has_a_link_of_its_own(made: Made) -> None:
    """Its containers meet each other and nobody else; the link goes with the network."""
    net = made.network("alone", "-d", "macvlan", "--subnet=10.97.21.0/24")
    made.run("one", "--network", net)
    made.run("two", "--network", net)
    assert made.inspect(net)["Internal"] is True
    link = f"dm-{made.inspect(net)['Id'][:12]}"
    assert exists(link)
    assert "default" not in made.ip("one", "route")
    made.daemon.docker("exec", "one", "ping", "-c1", "-W5", "two")
    made.daemon.docker("rm", "-f", "one", "two")
    made.daemon.docker("network", "rm", net)
    made.containers.clear()
    made.networks.clear()
    assert not exists(link)


def test_what_this_kernel_cannot_do_is_said(made: Made, lan: Lan) -> None:
    with netlink.Route() as route:
        lacking = [kind for kind in ("ipvlan", "vlan") if not route.has_kind(kind)]
    if "ipvlan" in lacking:
        words = ["network", "create", "-d", "ipvlan", f"--opt=parent={lan.link}", "no"]
        assert "This kernel has no ipvlan links (CONFIG_IPVLAN)" in made.refused(*words)
    else:
        net = made.network("ip-l2", "-d", "ipvlan", f"--opt=parent={lan.link}", "--subnet=10.97.20.0/24")
        made.run("slave", "--network", net)
        with inside(made.pid("slave")):
            socket.create_connection(("10.97.20.9", 80), 20 * PATIENCE).close()
    none = made.refused("network", "create", "-d", "macvlan", f"--opt=parent={lan.link}.5000", "no")
    assert "names no VLAN: their numbers are 1 to 4094" in none
    words = ["-d", "macvlan", f"--opt=parent={lan.link}.40", "--subnet=10.97.40.0/24"]
    if "vlan" in lacking:
        assert "This kernel has no vlan links (CONFIG_VLAN_8021Q)" in made.refused("network", "create", *words, "no")
    else:
        made.run("tagged", "--network", made.network("vlan40", *words))
        assert (
            "id 40"
            in subprocess.run(["ip", "-d", "link", "show", f"{lan.link}.40"], capture_output=True, text=True).stdout
        )


# ── very many ─────────────────────────────────────────────────────────────────────────────────────


class Crowd(BridgeDriver):
    """A driver whose bridges are full earlier, so that a test need not make a thousand interfaces."""

    def __init__(self, instance: Instance, firewall: Firewall, capacity: int) -> None:
        super().__init__(instance, firewall, Pools(instance.id))
        self._switches = Switches(capacity)


def _seen_by_neighbour(neighbour: int, container: int, address: str) -> str:
    """Whose connection it is to a neighbour on a LAN of this namespace's."""
    with netlink.Route() as route:
        route.commit(netlink.veth("lan0", peer="eth0", pid=neighbour))
        index = socket.if_nametoindex("lan0")
        route.commit([netlink.add_address(index, "10.97.20.1", 24)])
    with inside(neighbour), netlink.Route() as theirs:
        index = socket.if_nametoindex("eth0")
        theirs.commit([netlink.add_address(index, "10.97.20.9", 24), netlink.up("eth0")])
        server = socket.create_server(("", 80))
    with server:
        with inside(container):
            socket.create_connection(("10.97.20.9", 80), 20 * PATIENCE, (address, 0)).close()
        client, peer = server.accept()
        client.close()
        return str(peer[0])


@pytest.mark.parametrize(("capacity", "members"), [(3, 8), (1000, 1040)])
def test_more_containers_than_a_bridge_has_ports(capacity: int, members: int, tmp_path: Path) -> None:
    """All interfaces in one namespace but the first, which the last one on another bridge reaches, as it does a
    neighbour of the host's, under the host's address: also where br_netfilter shows each packet on each bridge."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    unshare(NEWNET)
    sleepers = [subprocess.Popen(["unshare", "-n", "sleep", "600"]) for _ in range(3)]
    try:
        apart([each.pid for each in sleepers])
        forwarding = Forwarding(tmp_path / "forwarding.json")
        firewall = Firewall("cove-many", forwarding)
        driver = Crowd(
            Instance(id="m", bridge="covemany", nft_table="cove-many", cgroup_parent=""), firewall, capacity
        )
        subnet = Subnet(subnet="10.60.0.0/16")
        network = driver.create(Network(id="e" * 64, name="many", subnets=(subnet,)))
        made: list[Endpoint] = []
        for number in range(members):
            request = EndpointRequest(ifname=f"eth{number}")
            endpoint = driver.plan(network, f"{number:064x}", request)
            place = driver.attach(network, endpoint, sleepers[bool(number)].pid)
            if number in (0, members - 1):
                with inside(sleepers[bool(number)].pid):
                    interfaces.configure((msgspec.structs.replace(place, gateways=endpoint.gateways),))
            made.append(endpoint)
        if capacity < members <= 10:  # of a thousand new links the kernel says for seconds that they are not up yet
            first, last = made[0].ipv4, made[-1].ipv4
            assert first is not None and last is not None
            with inside(sleepers[0].pid):
                server = socket.create_server(("", 80))
            with server, inside(sleepers[1].pid):
                socket.create_connection((first.address, 80), 20 * PATIENCE, (last.address, 0)).close()
            assert _seen_by_neighbour(sleepers[2].pid, sleepers[1].pid, last.address) == "10.97.20.1"
        again = Crowd(driver._instance, Firewall("cove-many", forwarding), capacity)
        again.restore(network, made)
        more = again.plan(network, "f" * 64, EndpointRequest(ifname="more0"))
        again.attach(network, more, sleepers[1].pid)
        for endpoint in (*made, more):
            again.release(network, endpoint)
        again.remove(network)
        with netlink.Route() as route:
            assert not [link.name for link in route.links() if link.kind == "bridge"]
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        setns(own, NEWNET)
        os.close(own)


@pytest.mark.parametrize("mode", ["nat", "nat-unprotected", "routed"])
def test_gateway_modes_seen_from_the_lan(made: Made, lan: Lan, mode: str) -> None:
    """A neighbour that routes the network's subnet through this host."""
    net = made.network(
        f"gw-{mode}", "--subnet=10.97.30.0/24", f"--opt=com.docker.network.bridge.gateway_mode_ipv4={mode}"
    )
    with netlink.Route() as route:
        route.commit([netlink.add_address(socket.if_nametoindex(lan.link), "10.97.20.1", 24)])
    made.run("web", "--network", net, "--ip=10.97.30.2", "-p", "18080:80")
    with inside(made.pid("web")):
        servers = [socket.create_server(("", port)) for port in (80, 81)]
    with inside(lan.neighbour), netlink.Route() as route:
        index = socket.if_nametoindex("eth0")
        route.commit([netlink.add_route(index, "10.97.20.1", destination="10.97.30.0", prefix=24)])

    def reached(address: str, port: int, expected: bool) -> bool:
        try:
            with inside(lan.neighbour):
                socket.create_connection((address, port), 20 * PATIENCE if expected else 0.4).close()
        except OSError:
            return False
        return True

    expected = {"nat": (True, False, False), "nat-unprotected": (True, True, True), "routed": (False, True, False)}[
        mode
    ]
    ways = (("10.97.20.1", 18080), ("10.97.30.2", 80), ("10.97.30.2", 81))
    assert tuple(reached(*way, each) for way, each in zip(ways, expected, strict=True)) == expected
    servers[0].setblocking(True)
    with inside(made.pid("web")):
        client = socket.create_connection(("10.97.20.9", 80), 20 * PATIENCE)
    client.close()
    for server in servers:
        server.close()


# ── what other clients' tests found ───────────────────────────────────────────────────────────────


def test_a_named_bridge_is_there_at_once_and_the_hosts_own_links_are_left_alone(made: Made, lan: Lan) -> None:
    option = "--opt=com.docker.network.bridge.name="
    made.network("named", f"{option}covenamed0", "--subnet=10.97.6.0/24")
    shown = subprocess.run(["ip", "addr", "show", "covenamed0"], capture_output=True, text=True, check=True).stdout
    assert "inet 10.97.6.1/24" in shown
    assert f"The host has a link {lan.link} that is not Cove's" in made.refused(
        "network", "create", f"{option}{lan.link}", "stolen"
    )
    assert "stolen" not in made.daemon.docker("network", "ls").stdout


def test_a_container_without_ipv6_has_no_such_address_or_name(made: Made) -> None:
    net = made.network("both", "--ipv6")
    made.run("old", "--network", net, "--sysctl=net.ipv6.conf.all.disable_ipv6=1")
    made.run("new", "--network", net)
    assert made.inspect("old")["NetworkSettings"]["Networks"][net]["GlobalIPv6Address"] == ""
    assert made.inspect("new")["NetworkSettings"]["Networks"][net]["GlobalIPv6Address"] != ""
    assert Box(made.daemon, "new").ask("old", AAAA).values == []
    alone = made.network("six", "--ipv6", "--ipv4=false")
    words = ["run", "--rm", "--network", alone, "--sysctl=net.ipv6.conf.all.disable_ipv6=1", "busybox", "true"]
    assert "has IPv6 alone, which the container's sysctls switch off" in made.refused(*words)


def test_ports_are_listed_by_family_and_the_mac_address_asked_for_is_shown(made: Made) -> None:
    net = made.network(
        "mixed", "--ipv6", "--subnet=10.97.7.0/24", "--opt=com.docker.network.bridge.gateway_mode_ipv6=routed"
    )
    made.run("mixed", "--network", f"name={net},mac-address=02:00:00:00:00:07", "-p", "18236:80")
    found = made.inspect("mixed")
    assert [each["HostPort"] for each in found["NetworkSettings"]["Ports"]["80/tcp"]] == ["18236", ""]
    assert found["Config"]["MacAddress"] == "02:00:00:00:00:07"


def test_a_subnet_of_two_addresses_has_room_for_one_container(made: Made) -> None:
    made.network("pair", "--subnet", "10.77.9.0/31")
    seen = made.daemon.cove("run", "--rm", "--network", "pair", "busybox", "ip", "-4", "addr", "show", "eth0").stdout
    assert "inet 10.77.9.1/31" in seen


def test_parameters_of_one_interface(made: Made) -> None:
    made.network("net-a")
    option, right = "com.docker.network.endpoint.sysctls", "net.ipv4.conf.IFNAME.log_martians=1"
    path = "/proc/sys/net/ipv4/conf/eth{}/log_martians"

    def run(wish: str) -> subprocess.CompletedProcess[str]:
        network = ("--network", f"name=net-a,driver-opt={option}={wish}")
        return made.daemon.docker("run", "--rm", *network, "busybox", "cat", path.format(0), check=False)

    assert run(right).stdout == "1\n"
    made.run("later")
    made.daemon.docker("network", "connect", "--driver-opt", f"{option}={right}", "net-a", "later")
    assert made.daemon.cove("exec", "later", "cat", path.format(0), path.format(1)).stdout == "0\n1\n"
    assert "no such parameter" in run("net.ipv4.conf.IFNAME.nonsense=1").stderr
    for wrong in ("net.nonsense=1", "kernel.x.y.IFNAME.z=1"):
        assert "invalid sysctl" in run(wrong).stderr


def test_a_linked_container_is_listed_by_its_aliases(made: Made) -> None:
    made.run("target")
    made.run("source", "--link", "target:alias")
    names = made.daemon.docker("ps", "--no-trunc", "--format", "{{.Names}}").stdout.splitlines()
    assert "target,source/alias" in names and "source" in names
