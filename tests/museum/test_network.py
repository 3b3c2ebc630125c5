"""Published ways through container networks, tried and refused; beside each the use that must go on working.

CVE-2024-29018 (internal networks leak questions to outside servers), CVE-2025-54388 and CVE-2025-54410 (loopback's
published ports reachable from the LAN, networks no longer apart after a firewall's reload), CVE-2020-13401 (router
advertisements of a neighbour become routes), CVE-2024-32473 (IPv6 where none was given), CVE-2020-15257 (abstract
sockets that a container on the host's network can connect to).
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time

import pytest

from cove.kernel import netlink
from cove.paths import Instance, RunRoot
from tests.conftest import PATIENCE, eventually
from tests.integration.networks_world import Lan, Made, lan, made
from tests.integration.test_names import Box, inside

__all__ = ["lan", "made"]
pytestmark = [pytest.mark.root]
HOST = "10.97.20.1"


def reached(address: str, port: int, timeout: float = 20 * PATIENCE) -> bool:
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def listen(made: Made, name: str, port: int = 80) -> socket.socket:
    with inside(made.pid(name)):
        return socket.create_server(("", port))


def table_of(made: Made) -> str:
    return Instance.of(RunRoot(made.daemon.run)).nft_table


def reload_firewall(made: Made) -> None:
    """What a firewall's reload does, and until Cove has noticed it."""
    table = table_of(made)
    subprocess.run(["nft", "flush", "table", "inet", table], check=True)
    shown = ["nft", "list", "chain", "inet", table, "forward"]
    assert eventually(lambda: "drop" in subprocess.run(shown, capture_output=True, text=True).stdout)


def test_an_internal_network_asks_no_server(made: Made) -> None:
    """CVE-2024-29018: the host's server answers in the name of a container that must not speak with the outside."""
    made.network("sealed", "--internal")
    made.network("open")
    made.run("inside", "--network", "sealed")
    made.run("mate", "--network", "sealed")
    made.run("outside", "--network", "open")
    inner = Box(made.daemon, "inside")
    secret = "secret-that-leaves.example.net"
    assert inner.ask(secret).rcode == 3, "answered here, at once: no server was asked"
    assert inner.ask(secret, tcp=True).rcode == 3
    backwards = "8.8.8.8.in-addr.arpa"
    assert inner.ask(backwards, 12).rcode == 3
    assert inner.ask("mate").values, "the twin: names inside go on"


def test_a_port_on_loopback_is_for_this_host_before_and_after_a_reload(made: Made, lan: Lan) -> None:
    """CVE-2025-54388: a neighbour sends to the host's address, to 127.0.0.1 by its MAC, and to the container."""
    with netlink.Route() as route:
        route.commit([netlink.add_address(socket.if_nametoindex(lan.link), HOST, 24)])
    made.run("shy", "-p", "127.0.0.1:18301:80")
    server = listen(made, "shy")
    container = made.inspect("shy")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    with inside(lan.neighbour):
        subprocess.run(["ip", "route", "add", "default", "via", HOST], check=True)
        with open("/proc/thread-self/net/route", encoding="ascii") as table:
            assert table.read()
        subprocess.run(["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"], check=False)
        subprocess.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"], check=False)
        subprocess.run(["ip", "route", "flush", "table", "local", "127.0.0.0/8"], check=False)
        subprocess.run(["ip", "route", "add", "127.0.0.0/8", "via", HOST, "dev", "eth0"], check=False)
    for when in ("before", "after"):
        with inside(lan.neighbour):
            assert not reached(HOST, 18301, 0.4), when
            assert not reached("127.0.0.1", 18301, 0.4), when
            assert not reached(container, 80, 0.4), when
        assert reached("127.0.0.1", 18301), f"the twin, {when}"
        if when == "before":
            reload_firewall(made)
    server.close()


def test_networks_stay_apart_before_and_after_a_reload(made: Made) -> None:
    """CVE-2025-54410: from one network to a container of another, by its own address."""
    made.network("one")
    made.network("two")
    made.run("here", "--network", "one")
    made.run("mate", "--network", "one")
    made.run("there", "--network", "two")
    servers = [listen(made, "there"), listen(made, "mate")]
    away = made.inspect("there")["NetworkSettings"]["Networks"]["two"]["IPAddress"]
    near = made.inspect("mate")["NetworkSettings"]["Networks"]["one"]["IPAddress"]
    for when in ("before", "after"):
        with inside(made.pid("here")):
            assert not reached(away, 80, 0.4), when
            assert reached(near, 80), f"the twin, {when}"
        if when == "before":
            reload_firewall(made)
    for server in servers:
        server.close()


def test_a_neighbours_router_advertisement_changes_nothing(made: Made) -> None:
    """CVE-2020-13401: a container with a raw socket says that it is everybody's router."""
    net = made.network("v6", "--ipv6", "--subnet=fd97:13::/64")
    made.run("victim", "--network", net, "--ip6=fd97:13::2")
    made.run("rogue", "--network", net, "--ip6=fd97:13::3")
    before = made.ip("victim", "-6", "route"), made.ip("victim", "-6", "addr", "show", "eth0")
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:bad::"
    )
    advertisement = struct.pack(">BBHBBHII", 134, 0, 0, 255, 0, 1800, 0, 0) + prefix
    with inside(made.pid("rogue")):
        index = socket.if_nametoindex("eth0")
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        for _ in range(3):
            raw.sendto(advertisement, ("ff02::1", 0, 0, index))
            time.sleep(0.05)
    time.sleep(0.2)
    assert (made.ip("victim", "-6", "route"), made.ip("victim", "-6", "addr", "show", "eth0")) == before
    assert "via fd97:13::1" in before[0], "the twin: its own router is there"
    link = made.inspect(net)["Id"][:10]
    bridge = next(name for name in _links() if name.endswith(link))
    shown = subprocess.run(["ip", "-6", "route", "show", "dev", bridge], capture_output=True, text=True).stdout
    assert "2001:db8:bad" not in shown and "default" not in shown, "nor does the host believe it"


def _links() -> list[str]:
    with netlink.Route() as route:
        return [each.name for each in route.links()]


@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_a_network_without_ipv6_gives_none(made: Made, lan: Lan, driver: str) -> None:
    """CVE-2024-32473: a link on the LAN that nobody gave IPv6 takes what neighbours advertise. The twin is a network
    that has it.
    """
    parent = ("--opt", f"parent={lan.link}") if driver == "macvlan" else ()
    for name, more, expected in (("four", (), False), ("both", ("--ipv6", "--subnet", "fd97:20::/64"), True)):
        if name == "both":
            made.daemon.docker("rm", "-f", made.containers.pop())
        made.network(f"{driver}-{name}", "--driver", driver, *parent, *more)
        made.run(f"{driver}-{name}-box", "--network", f"{driver}-{name}")
        found = made.daemon.cove("exec", made.containers[-1], "cat", "/proc/net/if_inet6").stdout
        assert ("eth0" in found) == expected


def test_no_socket_of_ours_is_abstract(made: Made) -> None:
    """CVE-2020-15257: whoever has the host's network could connect to it, whatever his file system."""
    made.run("named", "--network", made.network("with-names"))
    made.run("guest", "--network", "host")
    marks = (str(made.daemon.run), "cove")
    shown = made.daemon.docker("exec", "guest", "cat", "/proc/net/unix", check=False).stdout
    with open("/proc/net/unix", encoding="ascii") as file:
        ours = [line for line in (*file, *shown.splitlines()) if "@" in line and any(mark in line for mark in marks)]
    assert ours == []
    assert os.path.exists(made.daemon.run / "cove.sock"), "the twin: clients with the file reach the daemon"
