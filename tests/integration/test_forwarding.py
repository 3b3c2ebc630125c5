"""The host routes for containers and for nobody else, and what others take away of its network comes back.

one (10.98.1.9) ── host (10.98.1.1, 10.98.2.1) ── two (10.98.2.9)      two neighbours, each of whom has the host as
                            │                                          its router, which it was not before
                         bridge ── containers
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cove.kernel import netlink, sysctl
from cove.network import forwarding
from cove.network.firewall import Firewall
from cove.network.forwarding import Forwarding
from cove.network.ruleset import Ruled
from tests.conftest import PATIENCE, Daemon, eventually, new_daemon
from tests.integration.networks_world import apart
from tests.integration.test_names import inside

pytestmark = pytest.mark.root
ONE, TWO, THREE = "10.98.1.9", "10.98.2.9", "10.98.3.9"
ONE6, TWO6 = "fd98:1::9", "fd98:2::9"


@dataclass
class Host:
    """A network namespace that stands for a host, as one is delivered: it forwards nothing."""

    pid: int
    stack: ExitStack

    def run(self, *words: str) -> str:
        done = subprocess.run(["nsenter", "-t", str(self.pid), "-n", *words], capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout

    def sysctl(self, name: str, value: int | None = None) -> str | None:
        with inside(self.pid):
            if value is not None:
                sysctl.write(name, value)
            return sysctl.read(name)

    def neighbour(self, number: int, *, served: bool = True) -> int:
        """A process behind a link of the host's of its own, up<number>; it answers on port 80."""
        pid = _sleeper(self.stack)
        with inside(self.pid), netlink.Route() as route:
            route.commit(netlink.veth(f"up{number}", peer="eth0", pid=pid))
        self.run("ip", "link", "set", f"up{number}", "addrgenmode", "eui64")
        self.run("ip", "address", "add", f"10.98.{number}.1/24", "dev", f"up{number}")
        self.run("ip", "address", "add", f"fd98:{number}::1/64", "dev", f"up{number}", "nodad")
        with inside(pid), netlink.Route() as route:
            for parameter in ("accept_dad", "accept_ra"):
                sysctl.write(f"ipv6/conf/eth0/{parameter}", 0)
            index = socket.if_nametoindex("eth0")
            addresses = ((f"10.98.{number}.9", 24), (f"fd98:{number}::9", 64))
            route.commit([netlink.add_address(index, *each) for each in addresses])
            route.commit([netlink.up("lo"), netlink.up("eth0")])
            route.commit(
                [netlink.add_route(index, gateway) for gateway in (f"10.98.{number}.1", f"fd98:{number}::1")]
            )
            if served:
                server = socket.create_server(("", 80), family=socket.AF_INET6, dualstack_ipv6=True)
                self.stack.enter_context(server)
        return pid


def _sleeper(stack: ExitStack) -> int:
    sleeper = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    stack.callback(sleeper.wait)
    stack.callback(sleeper.kill)
    apart([sleeper.pid])
    return sleeper.pid


def reaches(pid: int, address: str, port: int = 80, *, patience: float = 10 * PATIENCE) -> bool:
    """Whether a TCP connection comes about, from the network of a process."""
    with inside(pid), socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(patience)
        try:
            client.connect((address, port))
        except OSError:
            return False
        return True


@contextmanager
def _host() -> Iterator[Host]:
    with ExitStack() as stack:
        host = Host(_sleeper(stack), stack)
        host.sysctl("ipv4/ip_forward", 0)
        host.sysctl("ipv6/conf/all/forwarding", 0)
        host.run("ip", "link", "set", "lo", "up")
        yield host


@pytest.fixture
def host() -> Iterator[Host]:
    with _host() as host:
        yield host


@pytest.fixture
def there(host: Host, archive: Path) -> Iterator[Daemon]:
    """A daemon on that host."""
    daemon = new_daemon()
    daemon.around = ("nsenter", "-t", str(host.pid), "-n")
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def served(daemon: Daemon, name: str, *flags: str) -> int:
    """A container that answers on port 80; its first process."""
    daemon.cove("run", "-d", "--name", name, *flags, "busybox", "httpd", "-f", "-p", "80")
    pid = int(json.loads(daemon.cove("inspect", name).stdout)[0]["State"]["Pid"])
    assert eventually(lambda: reaches(pid, "127.0.0.1"))
    return pid


def test_the_host_routes_for_containers_alone(host: Host, there: Daemon) -> None:
    one, two = host.neighbour(1), host.neighbour(2)
    web = served(there, "web", "-p", "8080:80")

    def closed() -> bool:
        """For containers, and for nobody else."""
        return (
            all(reaches(web, address) for address in (ONE, ONE6, TWO, TWO6))
            and all(reaches(one, address, 8080) for address in ("10.98.1.1", "10.98.2.1", "fd98:1::1"))
            and not any(reaches(one, address, patience=0.3) for address in (TWO, TWO6))
            and not any(reaches(two, address, patience=0.3) for address in (ONE, ONE6))
        )

    assert eventually(closed)
    assert host.sysctl("ipv4/ip_forward") == "0"

    three = host.neighbour(3)
    assert eventually(lambda: reaches(web, THREE)), "a link that comes later"
    assert not reaches(one, THREE, patience=0.3) and not reaches(three, ONE, patience=0.3)

    there.kill()
    assert eventually(closed), "also while no daemon lives"
    there.start()
    assert eventually(closed)

    host.sysctl("ipv4/ip_forward", 1)
    assert eventually(lambda: reaches(one, TWO)), "somebody wants a router"
    assert reaches(web, TWO)
    host.sysctl("ipv4/ip_forward", 0)
    assert eventually(closed)

    host.run("nft", "flush", "ruleset")
    assert eventually(closed)

    there.cove("rm", "-f", "web")
    there.stop()
    for link in ("up1", "up2", "up3", "lo"):
        assert host.sysctl(f"ipv4/conf/{link}/forwarding") == "0"
        assert host.sysctl(f"ipv6/conf/{link}/force_forwarding") in ("0", None)
    assert host.sysctl("ipv6/conf/all/forwarding") == "0"
    assert host.run("nft", "list", "tables") == ""


def test_a_daemon_that_was_killed_with_nothing_running_is_tidied_after(host: Host, there: Daemon) -> None:
    host.neighbour(1)
    there.cove("run", "--rm", "busybox", "true")
    assert host.sysctl("ipv4/conf/up1/forwarding") == "1"
    there.kill()
    there.start()
    assert eventually(lambda: host.sysctl("ipv4/conf/up1/forwarding") == "0")


def test_links_that_somebody_else_lets_forward_stay_so(host: Host, there: Daemon) -> None:
    one, two = host.neighbour(1), host.neighbour(2)
    for link in ("up1", "up2"):
        host.sysctl(f"ipv4/conf/{link}/forwarding", 1)
    assert reaches(one, TWO)
    web = served(there, "web")
    three = host.neighbour(3)
    assert eventually(lambda: reaches(web, THREE))
    assert reaches(one, TWO) and reaches(two, ONE)
    assert not reaches(three, ONE, patience=0.3)
    there.cove("rm", "-f", "web")
    there.stop()
    assert reaches(one, TWO)


def test_a_kernel_that_forwards_ipv6_everywhere_or_nowhere(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.17 there is no force_forwarding: the whole family is opened, and guarded on every link."""
    monkeypatch.setitem(forwarding._LINKS, 6, "ipv6/conf/{}/there_is_no_such_parameter")
    one, two = host.neighbour(1), host.neighbour(2)
    inner = _sleeper(host.stack)
    host.sysctl("ipv6/conf/up1/accept_ra", 1)
    with inside(host.pid), netlink.Route() as route:
        route.commit([netlink.bridge("covetest0", group=forwarding.GROUP), netlink.up("covetest0")])
        index = socket.if_nametoindex("covetest0")
        sysctl.write("ipv6/conf/covetest0/accept_dad", 0)
        route.commit([netlink.add_address(index, "fd98:7::1", 64)])
        route.commit(netlink.veth("inner", peer="eth0", pid=inner, master=index))
        firewall = Firewall("cove-test", Forwarding(tmp_path / "memory"))
        firewall.add_bridge(Ruled(link="covetest0", subnets=("fd98:7::/64",)))
    with inside(inner), netlink.Route() as route:
        sysctl.write("ipv6/conf/eth0/accept_dad", 0)
        index = socket.if_nametoindex("eth0")
        route.commit([netlink.add_address(index, "fd98:7::2", 64), netlink.up("eth0")])
        route.commit([netlink.add_route(index, "fd98:7::1")])
    assert eventually(lambda: reaches(inner, TWO6))
    assert not reaches(one, TWO6, patience=0.3) and not reaches(two, ONE6, patience=0.3)
    assert host.sysctl("ipv6/conf/all/forwarding") == "1"
    assert host.sysctl("ipv6/conf/up1/accept_ra") == "2"
    with inside(host.pid):
        Firewall("cove-test", Forwarding(tmp_path / "memory")).remove()
    assert host.sysctl("ipv6/conf/all/forwarding") == "0"


@pytest.mark.parametrize(
    "damage",
    [
        ("ip", "link", "delete", "BRIDGE"),
        ("sh", "-c", "ip address flush dev BRIDGE || :"),  # it gives up when an address comes back too quickly
        ("nft", "delete", "element", "inet", "TABLE", "publish4_any", "{ tcp . 8080 }"),
        ("nft", "delete", "element", "inet", "TABLE", "outward4", '{ "BRIDGE" }'),
        ("nft", "flush", "ruleset"),
        ("sh", "-c", "for link in /proc/sys/net/ipv4/conf/*/forwarding; do echo 0 > $link; done"),
    ],
    ids=lambda damage: " ".join(damage[:5]),
)
def test_what_others_take_away_under_running_containers_comes_back(
    host: Host, there: Daemon, damage: tuple[str, ...]
) -> None:
    one = host.neighbour(1)
    there.cove("network", "create", "--internal", "inner")
    web = served(there, "web", "-p", "8080:80")
    there.cove("network", "connect", "inner", "web")
    there.cove("exec", "-d", "web", "sleep", "600")
    other = served(there, "other")
    address = json.loads(there.cove("inspect", "web").stdout)[0]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert ipaddress.ip_address(address)
    bridges = json.loads(host.run("ip", "-json", "link", "show", "type", "bridge"))
    bridge = next(each["ifname"] for each in bridges if len(each["ifname"]) == len("cove-01234567"))
    table = host.run("nft", "list", "tables").split()[-1]

    def well() -> bool:
        return reaches(web, ONE) and reaches(one, "10.98.1.1", 8080) and reaches(other, address)

    assert well()
    host.run(*(word.replace("BRIDGE", bridge).replace("TABLE", table) for word in damage))
    assert eventually(well)
    there.cove("rm", "-f", "web", "other")
    there.cove("network", "rm", "inner")
