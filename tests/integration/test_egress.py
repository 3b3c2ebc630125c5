"""What containers may reach outside, tried against a neighbour on a LAN."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from cove.kernel import netlink
from cove.paths import Instance, RunRoot
from tests.conftest import PATIENCE
from tests.integration.networks_world import Lan, Made, lan, made
from tests.integration.test_names import Box, Server, inside

__all__ = ["lan", "made"]
pytestmark = [pytest.mark.root]
HOST, NEAR, NAMED = "10.97.20.1", "10.97.20.9", "203.0.113.7"


@pytest.fixture
def outside(lan: Lan) -> Iterator[Lan]:
    """The neighbour listens on ports 80 and 81 of two addresses."""
    with netlink.Route() as route:
        index = socket.if_nametoindex(lan.link)
        route.commit([netlink.add_address(index, HOST, 24)])
        route.commit([netlink.add_route(index, NEAR, destination="203.0.113.0", prefix=24)])
    with inside(lan.neighbour):
        subprocess.run(["ip", "addr", "add", f"{NAMED}/32", "dev", "lo"], check=True)
        subprocess.run(["ip", "route", "add", "default", "via", HOST], check=True)
        server = socket.create_server(("", 81))
    with server:
        yield lan


def reached(made: Made, name: str, address: str, port: int) -> bool:
    try:
        with inside(made.pid(name)):
            socket.create_connection((address, port), 20 * PATIENCE).close()
    except OSError:
        return False
    return True


def run(made: Made, name: str, *flags: str) -> None:
    made.containers.append(name)
    made.daemon.cove("run", "-d", "--name", name, *flags, "busybox", "sleep", "600")


def test_addresses_and_ports(made: Made, outside: Lan) -> None:
    run(made, "free")
    run(made, "allowed", "--egress", f"allow:{NEAR}:80")
    run(made, "denied", "--egress", f"deny:{NEAR}:80/tcp")
    run(made, "ordered", "--egress", f"deny:{NEAR}:81,allow:{NEAR}")
    seen = {
        name: [reached(made, name, address, port) for address, port in ((NEAR, 80), (NEAR, 81), (NAMED, 80))]
        for name in ("free", "allowed", "denied", "ordered")
    }
    assert seen == {
        "free": [True, True, True],
        "allowed": [True, False, False],
        "denied": [False, True, True],
        "ordered": [True, False, False],
    }
    table = Instance.of(RunRoot(made.daemon.run)).nft_table
    subprocess.run(["nft", "delete", "table", "inet", table], check=True)
    made.daemon.cove("run", "--rm", "busybox", "true")
    assert not reached(made, "allowed", NEAR, 81) and reached(made, "allowed", NEAR, 80)
    made.daemon.docker("restart", "-t0", "allowed")
    assert not reached(made, "allowed", NEAR, 81) and reached(made, "allowed", NEAR, 80)


def test_names_are_what_the_resolver_said(made: Made, outside: Lan) -> None:
    made.network("guarded", "--subnet=10.99.75.0/24", "--opt=cove.egress=allow:*.example.net:80")
    made.run("ns", "--network", "guarded", "--ip=10.99.75.10")
    server = Server(made.pid("ns"))
    made.run("client", "--network", "guarded", "--dns=10.99.75.10")
    try:
        assert not reached(made, "client", NAMED, 80), "an address that no answer gave"
        assert Box(made.daemon, "client").ask("www.example.org").values == [NAMED]
        assert not reached(made, "client", NAMED, 80), "the answer to another name"
        assert Box(made.daemon, "client").ask("www.example.net").values == [NAMED]
        assert reached(made, "client", NAMED, 80)
        assert not reached(made, "client", NAMED, 81) and not reached(made, "ns", NAMED, 80)
        assert reached(made, "client", "10.99.75.10", 53), "its own network is not outside"
    finally:
        server.close()


def test_a_name_server_outside_that_was_named_may_be_asked(made: Made, outside: Lan) -> None:
    server = Server(outside.neighbour)
    made.network("strict")
    made.run("asker", "--network", "strict", f"--dns={NEAR}", "--annotation=cove.egress=allow:www.example.net:81")
    made.run("denier", f"--dns={NEAR}", f"--annotation=cove.egress=deny:{NEAR}")
    try:
        assert not reached(made, "asker", NAMED, 81)
        assert Box(made.daemon, "asker").ask("www.example.net").values == [NAMED]
        assert reached(made, "asker", NAMED, 81) and not reached(made, "asker", NEAR, 81)
        assert reached(made, "denier", NEAR, 53) and not reached(made, "denier", NEAR, 81)
    finally:
        server.close()


def test_rules_that_cannot_hold_are_refused(made: Made) -> None:
    assert "cannot be read" in made.refused("run", "--rm", "--egress", "permit:x", "busybox", "true")
    assert "cannot be read" in made.refused("network", "create", "--egress", "permit:x", "bad")
    why = made.refused("run", "--rm", "--network", "host", "--egress", "deny", "busybox", "true")
    assert "needs an interface of the container's own" in why
