"""Networks on links that many kernels lack: ipvlan in its modes, and VLANs as parents, each met by a neighbour."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cove.kernel import netlink
from tests.conftest import Daemon, eventually
from tests.guest.inside import only_inside, run
from tests.integration.networks_world import Lan, Made, lan, made
from tests.integration.test_names import inside

__all__ = ["lan", "made"]

pytestmark = [pytest.mark.root, only_inside]

LINK = "covelan0"


def reached(pid: int, address: str, port: int = 80, wait: float = 8) -> bool:
    """Whether a connection from the network namespace of `pid` comes about."""
    try:
        with inside(pid):
            socket.create_connection((address, port), wait).close()
    except OSError:
        return False
    return True


@contextmanager
def serving(pid: int, port: int) -> Iterator[None]:
    with inside(pid):
        server = socket.create_server(("", port))
    with server:
        yield


def links() -> set[str]:
    with netlink.Route() as route:
        return {link.name for link in route.links()}


# ── ipvlan ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan(made: Made, lan: Lan, mode: str) -> None:
    """In l2 the containers are in the neighbour's subnet; in l3 the host routes between it and theirs."""
    subnet = "10.97.20" if mode == "l2" else "10.97.21"
    options = (f"--opt=parent={lan.link}", f"--opt=ipvlan_mode={mode}")
    net = made.network(f"ip-{mode}", "-d", "ipvlan", *options, f"--subnet={subnet}.0/24")
    if mode != "l2":
        with netlink.Route() as route:
            route.commit([netlink.add_address(socket.if_nametoindex(lan.link), "10.97.20.1", 24)])
        with inside(lan.neighbour), netlink.Route() as route:
            index = socket.if_nametoindex("eth0")
            route.commit([netlink.add_route(index, "10.97.20.1", destination=f"{subnet}.0", prefix=24)])
    made.run("one", "--network", net, f"--ip={subnet}.21")
    made.run("two", "--network", net, f"--ip={subnet}.22")
    shown = made.ip("one", "-d", "link", "show", "eth0")
    assert f"ipvlan  mode {mode}" in shown or f"ipvlan mode {mode}" in shown
    mac = run("cat", f"/sys/class/net/{lan.link}/address").stdout.strip()
    assert mac in shown, "the parent's own address"
    one, two = made.pid("one"), made.pid("two")
    assert reached(one, "10.97.20.9")
    with serving(two, 81):
        assert reached(one, f"{subnet}.22", 81)
        assert reached(lan.neighbour, f"{subnet}.22", 81)
    assert made.daemon.docker("exec", "one", "nslookup", "two").stdout.count(f"{subnet}.22") == 1
    made.daemon.docker("network", "disconnect", net, "two")
    assert "ipvlan" not in made.ip("two", "-d", "link")
    assert reached(one, "10.97.20.9")


def test_ipvlan_private_and_vepa_keep_containers_apart(made: Made, lan: Lan) -> None:
    for flag in ("private", "vepa"):
        options = (f"--opt=parent={lan.link}", f"--opt=ipvlan_flag={flag}")
        net = made.network(f"ip-{flag}", "-d", "ipvlan", *options, "--subnet=10.97.20.0/24")
        made.run(f"one-{flag}", "--network", net, "--ip=10.97.20.31")
        made.run(f"two-{flag}", "--network", net, "--ip=10.97.20.32")
        assert flag in made.ip(f"one-{flag}", "-d", "link", "show", "eth0")
        other = ("network", "create", "-d", "ipvlan", options[0], "--subnet=10.97.23.0/24", "other")
        assert f"one ipvlan mode and flag for all networks on it, those of {net}" in made.refused(*other)
        one, two = made.pid(f"one-{flag}"), made.pid(f"two-{flag}")
        assert reached(one, "10.97.20.9")
        with serving(two, 81):
            assert not reached(one, "10.97.20.32", 81, wait=1)
        made.daemon.docker("rm", "-f", f"one-{flag}", f"two-{flag}")
        made.daemon.docker("network", "rm", net)
        made.containers.clear(), made.networks.clear()


def test_an_ended_containers_address_is_free_for_the_next(made: Made, lan: Lan) -> None:
    """The kernel takes its network apart a moment later than its last process ends."""
    net = made.network("ip-again", "-d", "ipvlan", f"--opt=parent={lan.link}", "--subnet=10.97.20.0/24")
    made.run("one", "--network", net, "--ip=10.97.20.41")
    for _ in range(5):
        made.daemon.docker("restart", "-t0", "one")
    assert reached(made.pid("one"), "10.97.20.9")


def test_modes_and_flags_that_there_are_not(made: Made, lan: Lan) -> None:
    for option, said in (
        ("ipvlan_mode=l4", "Unknown ipvlan mode 'l4'"),
        ("ipvlan_flag=x", "Unknown ipvlan flag 'x'"),
    ):
        words = ("network", "create", "-d", "ipvlan", f"--opt=parent={lan.link}", f"--opt={option}", "no")
        assert said in made.refused(*words)


def test_a_mac_address_of_ones_own_and_a_parent_with_other_children_are_refused(made: Made, lan: Lan) -> None:
    net = made.network("ip-one", "-d", "ipvlan", f"--opt=parent={lan.link}", "--subnet=10.97.20.0/24")
    words = ("run", "--rm", "--network", net, "--mac-address=02:00:00:00:00:09", "busybox", "true")
    assert "has its parent's MAC address" in made.refused(*words)
    made.run("one", "--network", net)
    other = made.network("mac-one", "-d", "macvlan", f"--opt=parent={lan.link}", "--subnet=10.97.22.0/24")
    assert "children of another kind" in made.refused("run", "--rm", "--network", other, "busybox", "true")


# ── VLANs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tagged(lan: Lan) -> Lan:
    """The neighbour is on VLAN 50 too, as 10.97.50.9."""
    with inside(lan.neighbour), netlink.Route() as route:
        route.commit([netlink.vlan("eth0.50", parent=socket.if_nametoindex("eth0"), number=50)])
        index = socket.if_nametoindex("eth0.50")
        route.commit([netlink.add_address(index, "10.97.50.9", 24), netlink.up("eth0.50")])
    return lan


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_vlan_is_made_for_its_networks_and_goes_with_the_last(made: Made, tagged: Lan, driver: str) -> None:
    parent = f"{LINK}.50"
    net = made.network(f"{driver}-50", "-d", driver, f"--opt=parent={parent}", "--subnet=10.97.50.0/25")
    more = made.network(f"{driver}-50b", "-d", driver, f"--opt=parent={parent}", "--subnet=10.97.50.128/25")
    made.run("one", "--network", net)
    made.run(
        "plain", "--network", made.network("untagged", "-d", driver, f"--opt=parent={LINK}", "--subnet=10.97.51.0/24")
    )
    assert "vlan protocol 802.1Q id 50" in run("ip", "-d", "link", "show", parent).stdout
    assert reached(made.pid("one"), "10.97.50.9")
    with inside(made.pid("plain")):
        subprocess.run(["ip", "route", "add", "10.97.50.0/24", "dev", "eth0"], check=True)
    assert not reached(made.pid("plain"), "10.97.50.9", wait=1), "what is not tagged is not on the VLAN"
    made.daemon.docker("rm", "-f", "one")
    made.daemon.docker("network", "rm", net)
    assert parent in links(), "another network is on it"
    made.daemon.docker("network", "rm", more)
    assert parent not in links()
    made.containers.remove("one")
    made.networks.remove(net), made.networks.remove(more)


def test_a_vlan_that_somebody_else_made_is_used_and_left(made: Made, tagged: Lan) -> None:
    parent = f"{LINK}.50"
    run("ip", "link", "add", "link", LINK, "name", parent, "type", "vlan", "id", "50")
    net = made.network("theirs", "-d", "macvlan", f"--opt=parent={parent}", "--subnet=10.97.50.0/24")
    made.run("one", "--network", net)
    assert reached(made.pid("one"), "10.97.50.9")
    made.daemon.docker("rm", "-f", "one")
    made.daemon.docker("network", "rm", net)
    made.containers.clear(), made.networks.clear()
    assert parent in links()


def test_a_vlan_that_is_gone_is_made_again_for_the_next_container(made: Made, tagged: Lan) -> None:
    """As after a reboot, which no interface outlives."""
    parent = f"{LINK}.50"
    net = made.network("again", "-d", "macvlan", f"--opt=parent={parent}", "--subnet=10.97.50.0/24")
    made.run("one", "--network", net)
    run("ip", "link", "delete", parent)
    made.daemon.docker("restart", "-t0", "one")
    assert reached(made.pid("one"), "10.97.50.9")


# ── SCTP ──────────────────────────────────────────────────────────────────────────────────────────

SCTP = socket.IPPROTO_SCTP


@pytest.fixture
def sctp() -> None:
    run("modprobe", "sctp")


def asked(pid: int | None, address: str, port: int, wait: float = 8) -> bytes:
    """What an SCTP server says to somebody who connects from the namespace of `pid`, or from here."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        if pid is not None:
            stack.enter_context(inside(pid))
        client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, SCTP))
        client.settimeout(wait)
        try:
            client.connect((address, port))
            client.sendall(b"hello")
            return client.recv(100)
        except OSError:
            return b""


@contextmanager
def answering(pid: int, port: int) -> Iterator[list[str]]:
    """An SCTP server in a container's network, which tells each client its own address; their list."""
    seen: list[str] = []
    with inside(pid):
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
        server.bind(("", port))
        server.listen(8)
        server.settimeout(0.2)

    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, (address, _) = server.accept()
            except TimeoutError:
                continue
            with connection:
                seen.append(address)
                if connection.recv(100) == b"hello":
                    connection.sendall(b"you are " + address.encode())
                    connection.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        server.close()


@pytest.mark.usefixtures("sctp")
def test_an_sctp_port_is_published(made: Made, lan: Lan) -> None:
    with netlink.Route() as route:
        route.commit([netlink.add_address(socket.if_nametoindex(lan.link), "10.97.20.1", 24)])
    made.run("signals", "-p", "18132:9899/sctp", "-p", "127.0.0.1:18133:9899/sctp")
    assert made.daemon.docker("port", "signals", "9899/sctp").stdout.splitlines()[0] == "0.0.0.0:18132"
    with answering(made.pid("signals"), 9899) as seen:
        assert asked(lan.neighbour, "10.97.20.1", 18132) == b"you are 10.97.20.9", "the client's address is kept"
        assert asked(None, "127.0.0.1", 18132).startswith(b"you are ")
        assert asked(None, "10.97.20.1", 18132).startswith(b"you are ")
        assert asked(None, "127.0.0.1", 18133).startswith(b"you are ")
        assert asked(lan.neighbour, "10.97.20.1", 18133, wait=2) == b""
        assert len(seen) == 4
    assert "18132" in made.refused("run", "--rm", "-p", "18132:80/sctp", "busybox", "true")
    made.daemon.docker("run", "--rm", "-p", "18132:80/tcp", "busybox", "true")


@pytest.mark.usefixtures("sctp")
def test_an_sctp_port_outlives_a_daemon(archive: object, own_daemon: Daemon) -> None:
    own_daemon.docker("run", "-d", "--name", "signals", "-p", "18134:9899/sctp", "busybox", "sleep", "600")
    pid = int(own_daemon.docker("inspect", "-f", "{{.State.Pid}}", "signals").stdout)
    with answering(pid, 9899):
        own_daemon.kill()
        assert asked(None, "127.0.0.1", 18134).startswith(b"you are ")
        own_daemon.start()
        assert asked(None, "127.0.0.1", 18134).startswith(b"you are ")
        own_daemon.docker("rm", "-f", "signals")
    assert eventually(lambda: asked(None, "127.0.0.1", 18134, wait=1) == b"")
