"""Published ports of real containers, changed while they run, and who may come to them."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from cove.kernel import netlink
from tests.conftest import PATIENCE, Daemon, eventually
from tests.integration.networks_world import Lan, Made, lan, made
from tests.integration.test_names import inside

__all__ = ["lan", "made"]
pytestmark = [pytest.mark.root]
HOST = "10.97.20.1"


def reached(address: str, port: int, timeout: float = 20 * PATIENCE) -> bool:
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def listen(made: Made, name: str, *ports: int) -> list[socket.socket]:
    with inside(made.pid(name)):
        return [socket.create_server(("", port)) for port in ports]


def test_ports_come_and_go_while_a_container_runs(made: Made) -> None:
    made.run("live", "-p", "127.0.0.1:18201:80")
    servers = listen(made, "live", 80, 81)
    cove = made.daemon.cove
    assert reached("127.0.0.1", 18201) and not reached("127.0.0.1", 18202)
    cove("update", "--publish-add", "127.0.0.1:18202:81", "live")
    assert reached("127.0.0.1", 18202)
    assert "18202" in made.daemon.docker("port", "live").stdout
    cove("update", "--publish-rm", "127.0.0.1:18201:80", "--publish-add", "127.0.0.1:18201:81", "live")
    assert reached("127.0.0.1", 18201)
    assert made.daemon.docker("port", "live", "81").stdout.count("127.0.0.1:1820") == 2
    cove("update", "--publish-rm", "81", "live")
    assert not reached("127.0.0.1", 18201) and not reached("127.0.0.1", 18202)
    assert made.daemon.docker("port", "live").stdout == ""
    with socket.create_server(("127.0.0.1", 18203)):
        why = cove("update", "--publish-add", "127.0.0.1:18203:80", "live", check=False).stderr
        assert "18203 failed: port is already allocated, by the program" in why
    cove("update", "--publish-add", "127.0.0.1:18203:80", "live")
    why = made.refused("run", "--rm", "-p", "127.0.0.1:18203:80", "busybox", "true")
    assert "port is already allocated, by the container live" in why
    assert "publishes no port 99/tcp" in cove("update", "--publish-rm", "99", "live", check=False).stderr
    made.daemon.docker("restart", "-t0", "live")
    assert made.daemon.docker("port", "live").stdout.strip() == "80/tcp -> 127.0.0.1:18203", "it is so from now on"
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("scope", "near", "far"), [("public", True, True), ("lan", True, False), ("local", False, False)]
)
def test_who_may_come(made: Made, lan: Lan, scope: str, near: bool, far: bool) -> None:
    """The neighbour has an address of the LAN's and one from far away."""
    with netlink.Route() as route:
        index = socket.if_nametoindex(lan.link)
        route.commit(
            [
                netlink.add_address(index, HOST, 24),
                netlink.add_route(index, "10.97.20.9", destination="198.18.77.0", prefix=24),
            ]
        )
    with inside(lan.neighbour), netlink.Route() as route:
        route.commit([netlink.add_address(socket.if_nametoindex("eth0"), "198.18.77.9", 24)])
    flags = [] if scope == "public" else ["--expose-to", scope]
    made.containers.append("scoped")
    made.daemon.cove("run", "-d", "--name", "scoped", *flags, "-p", "18210:80", "busybox", "sleep", "600")
    server = listen(made, "scoped", 80)[0]

    def from_(source: str, expected: bool) -> bool:
        try:
            with inside(lan.neighbour):
                socket.create_connection((HOST, 18210), 20 * PATIENCE if expected else 0.5, (source, 0)).close()
        except OSError:
            return False
        return True

    assert (from_("10.97.20.9", near), from_("198.18.77.9", far)) == (near, far)
    assert reached("127.0.0.1", 18210) and reached(HOST, 18210)
    made.run("beside", "--network", made.network("elsewhere"))
    with inside(made.pid("beside")):
        assert reached(HOST, 18210), "containers of this host are not the LAN"
    server.close()


def test_the_administrators_chain_filters_and_survives(own_daemon: Daemon) -> None:
    own_daemon.docker("run", "-d", "--name", "web", "-p", "127.0.0.1:18220:80", "busybox", "sleep", "600")
    table = next(
        line.split()[2]
        for line in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines()
        if line.split()[2].startswith("cove-") and table_is_of(own_daemon, line.split()[2])
    )

    def nft(*words: str) -> str:
        return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout

    rule = "ip saddr 192.0.2.0/24 meta l4proto tcp ct original proto-dst 18220 drop"
    nft("add", "rule", "inet", table, "user", *rule.split())
    own_daemon.docker("info")  # what the kernel has told the daemon before, it has heard when it answers
    own_daemon.docker(
        "run", "-d", "--name", "other", "--network", "bridge", "-p", "127.0.0.1:18221:80", "busybox", "sleep", "600"
    )
    assert "192.0.2.0/24" in nft("list", "chain", "inet", table, "user")
    nft("flush", "table", "inet", table)
    assert eventually(lambda: "192.0.2.0/24" in nft("list", "chain", "inet", table, "user"))
    own_daemon.kill()
    own_daemon.start()
    assert "192.0.2.0/24" in nft("list", "chain", "inet", table, "user")
    own_daemon.docker("rm", "-f", "web", "other")


def test_a_trace_says_where_the_way_ends(made: Made) -> None:
    made.run("way", "-p", "18230:80", "-p", "127.0.0.1:18231:81", "-p", "18232:82")
    servers = listen(made, "way", 80)
    with inside(made.pid("way")):
        servers.append(socket.create_server(("127.0.0.1", 82)))

    def trace(target: str) -> tuple[int, str]:
        done = made.daemon.cove("net", "trace", target, check=False)
        return done.returncode, done.stdout + done.stderr

    code, text = trace("127.0.0.1:18230")
    assert code == 0 and "is published by way" in text and "eth0 in way has" in text and "it arrives" in text
    for target, end in (
        ("127.0.0.1:18231", "nobody listens on tcp port 81 in way"),
        ("127.0.0.2:18231", "way publishes tcp port 18231 on 127.0.0.1 alone: come to that"),
        ("127.0.0.1:18232", "listens on 127.0.0.1 port 82 alone"),
        ("192.0.2.77:80", "is no address of this host"),
        ("127.0.0.1:1", "no container publishes it"),
        ("way:99", "nobody listens on tcp port 99"),
        ("nothing", "No such container: nothing"),
    ):
        code, text = trace(target)
        assert code and end in text, target
    code, text = trace("way")
    assert code and "⋮ scope, bridge, veth, namespace, process: as above" in text
    made.run("host-way", "--network", "host")
    assert "has the host's network" in trace("host-way")[1]
    made.run("guest", "--network", "container:way")
    assert "has the network of way, which publishes for both" in trace("guest")[1]
    with socket.create_server(("127.0.0.1", 0)) as program:
        assert f"(pid {os.getpid()}), a program of the host's" in trace(f"127.0.0.1:{program.getsockname()[1]}")[1]
    assert "the kernel does not translate ::1" in trace("[::1]:18230")[1]
    made.run("datagrams", "-p", "18233:80/udp")
    assert "nobody has its tcp port; datagrams publishes 18233/udp" in trace("127.0.0.1:18233")[1]
    line = next(line for line in text_of(made, "way:80") if "veth:" in line)
    subprocess.run(["ip", "link", "set", line.split()[2].rstrip(","), "down"], check=True)
    assert "is down" in trace("127.0.0.1:18230")[1]
    made.daemon.docker("stop", "-t0", "way")
    assert "is exited" in trace("127.0.0.1:18230")[1]
    for server in servers:
        server.close()


def test_a_trace_knows_what_others_put_in_the_way(made: Made, lan: Lan) -> None:
    with netlink.Route() as route:
        route.commit([netlink.add_address(socket.if_nametoindex(lan.link), HOST, 24)])
    made.run("behind", "-p", "18234:80")
    (server,) = listen(made, "behind", 80)
    table = "cove-test-strangers"

    def nft(*commands: str) -> None:
        subprocess.run(["nft", "; ".join(commands)], check=True)

    def ends(host: str = HOST) -> str:
        lines = (line for line in text_of(made, f"{host}:18234") if "filter:" in line)
        return next((line for line in lines if table in line), "none")  # a host may have others' tables, too

    try:
        nft(f"add table inet {table}", f"add chain inet {table} f {{ type filter hook forward priority 9; }}")
        assert ends() == "none"
        nft(f"add rule inet {table} f ip saddr 192.0.2.1 drop")
        assert "it may be refused in the chain f of table inet" in ends()
        nft(f"add rule inet {table} f counter drop")
        with inside(lan.neighbour):
            assert "it is refused in the chain f" in ends() and not reached(HOST, 18234, 0.4)
        assert "what comes from elsewhere is refused" in ends("127.0.0.1") and reached("127.0.0.1", 18234)
    finally:
        nft(f"delete table inet {table}")
        server.close()


def text_of(made: Made, target: str) -> list[str]:
    return made.daemon.cove("net", "trace", target, check=False).stdout.splitlines()


def table_is_of(daemon: Daemon, table: str) -> bool:
    from cove.paths import Instance, RunRoot

    return Instance.of(RunRoot(daemon.run)).nft_table == table


def test_an_address_of_one_link_leads_to_a_published_port(made: Made, lan: Lan) -> None:
    """From the host itself and from a neighbour: a container would answer them on a link of its own."""
    index = socket.if_nametoindex(lan.link)
    with netlink.Route() as route:
        route.commit([netlink.add_address(index, "fe80::77", 64)])
    made.network("six", "--ipv6", "--subnet=fd97:8::/64")
    made.run("linked", "--network", "six", "-p", "18205:80")
    with inside(made.pid("linked")):
        server = socket.create_server(("::", 80), family=socket.AF_INET6)
    with server:
        assert reached(f"fe80::77%{lan.link}", 18205)
        with inside(lan.neighbour):
            assert eventually(lambda: reached("fe80::77%eth0", 18205)), "once its own such address is ready"
        made.daemon.docker("restart", "-t0", "linked")  # the last connection's end may still be waited for


def test_ports_lead_into_no_internal_network_and_follow_the_way_out(made: Made, lan: Lan) -> None:
    with netlink.Route() as route:
        route.commit([netlink.add_address(socket.if_nametoindex(lan.link), HOST, 24)])
    made.network("aside", "--internal")
    made.network("first", "--subnet=10.97.31.0/24")
    made.network("second", "--subnet=10.97.32.0/24")
    made.containers.append("shut")
    done = made.daemon.docker("run", "-d", "--name=shut", "--network=aside", "-p18206:80", "busybox", "sleep", "600")
    assert "are not published: nothing from outside leads into the network aside" in done.stderr
    assert made.daemon.docker("port", "shut").stdout == ""
    made.run("open", "--network=aside", "--network=first", "-p18206:80")
    (server,) = listen(made, "open", 80)

    def leads_to(address: str) -> bool:
        traced = made.daemon.cove("net", "trace", f"{HOST}:18206").stdout
        with inside(lan.neighbour):
            return address in traced and reached(HOST, 18206)

    with server:
        assert leads_to("10.97.31.2")
        made.daemon.docker("network", "connect", "--gw-priority=5", "second", "open")
        assert leads_to("10.97.32.2")
        made.daemon.docker("network", "disconnect", "second", "open")
        assert leads_to("10.97.31.2")


@pytest.mark.parametrize("address", ["192.0.2.77", "[2001:db8::77]", "[fe80::1%nolink]"])
def test_a_port_at_an_address_that_the_host_does_not_have(daemon: Daemon, address: str) -> None:
    words = ("run", "--rm", "-p", f"{address}:8080:80", "busybox", "true")
    done = daemon.cove(*words, check=False)
    assert done.returncode == 125 and "the host does not have it" in done.stderr, done.stderr
