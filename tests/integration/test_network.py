"""Bridge networks and published ports on a real kernel, in network namespaces of the test's own.

lan (198.51.100.9) ── host (198.51.100.1) ── bridge ── containers
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cove.errors import Conflict
from cove.kernel import interfaces, netlink
from cove.kernel.nftables import Nftables
from cove.network.bridge import BridgeDriver
from cove.network.driver import Endpoint, EndpointRequest, Interface, Network, PortBinding
from cove.network.firewall import Firewall
from cove.network.forwarding import Forwarding
from cove.network.pools import Pools
from cove.network.ports import Ports
from cove.network.relay import Relays
from cove.paths import Instance
from tests.conftest import PATIENCE
from tests.integration.test_names import inside

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
HOST, LAN = "198.51.100.1", "198.51.100.9"
HOST6, LAN6 = "2001:db8:51::1", "2001:db8:51::9"


def _unshare() -> None:
    assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def _enter(fd: int) -> None:
    assert _libc.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def _serve(ports: tuple[int, ...], told: int) -> None:
    """Answer on TCP and UDP, both families, with the client's address; a byte to `told` when that begins."""
    sockets = []
    for port in ports:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            server = socket.socket(socket.AF_INET6, kind)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                server.listen()
            sockets.append(server)
    os.write(told, b"x")
    while True:
        for server in select.select(sockets, [], [])[0]:
            if server.type == socket.SOCK_STREAM:
                client, peer = server.accept()
                client.sendall(peer[0].removeprefix("::ffff:").encode())
                client.close()
            else:
                _, peer = server.recvfrom(64)
                server.sendto(peer[0].removeprefix("::ffff:").encode(), peer)


class Sandbox:
    """Processes with network namespaces of their own."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def process(self) -> int:
        """A sleeping process in a new namespace."""
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            _unshare()
            os.write(told, b"x")
            signal.pause()
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(told)
        self.pids.append(pid)
        return pid

    def start(self, pid: int, made: list[Interface], ports: tuple[int, ...] = (80,)) -> None:
        """Set a namespace up from inside, then serve there."""
        ready, told = os.pipe()
        server = os.fork()
        if server == 0:
            try:
                fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
                _enter(fd)
                interfaces.configure(made)
                _serve(ports, told)
            finally:
                os._exit(1)
        os.close(told)
        self.pids.append(server)
        assert os.read(ready, 1) == b"x"
        os.close(ready)

    def close(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@dataclass
class Container:
    pid: int
    endpoint: Endpoint


@dataclass
class World:
    """A host with a neighbour on its LAN, and a daemon's network objects."""

    sandbox: Sandbox
    lan: int
    firewall: Firewall
    forwarding: Forwarding
    driver: BridgeDriver
    ports: Ports
    network: Network

    def container(self, network: Network | None = None, ports: tuple[int, ...] = (80,)) -> Container:
        net = network or self.network
        pid = self.sandbox.process()
        endpoint = self.driver.plan(net, f"{pid:064x}", EndpointRequest())
        endpoint = msgspec.structs.replace(endpoint, default_routes=endpoint.gateways)
        self.sandbox.start(pid, [self.driver.attach(net, endpoint, pid)], ports)
        return Container(pid, endpoint)

    def publish(self, container: Container, *wishes: PortBinding) -> tuple[PortBinding, ...]:
        bindings = self.ports.reserve(container.endpoint.container_id, wishes)
        self.ports.publish(container.endpoint.container_id, bindings, container.endpoint)
        return bindings


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _unshare()
    sandbox = Sandbox()
    try:
        lan = sandbox.process()
        with netlink.Route() as route:
            route.commit([netlink.up("lo"), *netlink.veth("lan0", peer="eth0", pid=lan)])
            index = socket.if_nametoindex("lan0")
            route.commit([netlink.add_address(index, HOST, 24), netlink.add_address(index, HOST6, 64)])
        with inside(lan), netlink.Route() as route:
            index = socket.if_nametoindex("eth0")
            route.commit([netlink.add_address(index, LAN, 24), netlink.add_address(index, LAN6, 64)])
            route.commit([netlink.up("lo"), netlink.up("eth0")])
            route.commit([netlink.add_route(index, HOST), netlink.add_route(index, HOST6)])
        forwarding = Forwarding(tmp_path / "forwarding.json")
        firewall = Firewall("cove-test", forwarding)
        instance = Instance(id="t", bridge="covetest0", nft_table="cove-test", cgroup_parent="")
        driver = BridgeDriver(instance, firewall, Pools("t"))
        network = driver.create(Network(id="a" * 64, name="bridge", ipv6=True))
        yield World(sandbox, lan, firewall, forwarding, driver, Ports(firewall), network)
    finally:
        sandbox.close()
        _enter(here)
        os.close(here)


def ask(address: str, port: int, *, udp: bool = False, timeout: float = 20 * PATIENCE) -> str:
    """What a server answers: the address it sees; or the reason why it does not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            client.connect((address, port))
            if udp:
                client.send(b"?")
            return client.recv(64).decode()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return os.strerror(error.errno or 0)


def test_a_published_port_is_reached_from_everywhere_with_the_clients_address(world: World) -> None:
    web, other = world.container(), world.container()
    assert web.endpoint.ipv4 and web.endpoint.ipv6 and other.endpoint.ipv4
    gateway = world.network.subnets[0].gateway
    for proto in ("tcp", "udp"):
        world.publish(web, PortBinding(container_port=80, proto=proto, host_port=8080))
        udp = proto == "udp"
        assert ask("127.0.0.1", 8080, udp=udp) == gateway
        assert ask(HOST, 8080, udp=udp) in (HOST, gateway)
        assert ask(HOST6, 8080, udp=udp) != "timeout"
        with inside(world.lan):
            assert ask(HOST, 8080, udp=udp) == LAN
            assert ask(HOST6, 8080, udp=udp) == LAN6
        with inside(other.pid):
            assert ask(HOST, 8080, udp=udp) == gateway
            assert ask(web.endpoint.ipv4.address, 80, udp=udp) == other.endpoint.ipv4.address
            assert ask(web.endpoint.ipv6.address, 80, udp=udp) == other.endpoint.ipv6.address  # type: ignore[union-attr]
        with inside(web.pid):
            assert ask(gateway, 8080, udp=udp) == gateway, "a container reaches its own published port"
        world.ports.unpublish(web.endpoint.container_id)
        assert ask("127.0.0.1", 8080, udp=udp, timeout=0.2) in ("Connection refused", "timeout")


def test_what_is_not_published_is_not_reachable_from_outside_its_network(world: World) -> None:
    web = world.container()
    assert web.endpoint.ipv4 and web.endpoint.ipv6
    world.publish(web, PortBinding(container_port=80, host_ip="127.0.0.1", host_port=8080))
    second = world.driver.create(Network(id="b" * 64, name="second"))
    stranger = world.container(second)
    assert ask("127.0.0.1", 8080) == world.network.subnets[0].gateway
    with inside(world.lan):
        assert ask(HOST, 8080) == "Connection refused"
        assert ask(web.endpoint.ipv4.address, 80, timeout=0.3) == "timeout"
        assert ask(web.endpoint.ipv6.address, 80, timeout=0.3) == "timeout"
        with netlink.Route() as route:  # a neighbour that sends 127.0.0.1 to the host's MAC
            subprocess.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"], check=True)
            with open("/proc/sys/net/ipv4/conf/all/route_localnet", "w") as file:
                file.write("1")
            index = socket.if_nametoindex("eth0")
            subprocess.run(["ip", "route", "flush", "table", "local", "127.0.0.0/8"], check=False)
            route.commit([netlink.add_route(index, HOST, destination="127.0.0.0", prefix=8)])
        assert ask("127.0.0.1", 8080, timeout=0.3) != world.network.subnets[0].gateway
        assert ask("127.0.0.1", 8080, timeout=0.3) == "timeout"
    with inside(stranger.pid):
        assert ask(web.endpoint.ipv4.address, 80, timeout=0.3) == "timeout"
        assert ask(HOST, 8080) == "Connection refused"


def test_containers_reach_the_outside_under_the_hosts_address_unless_internal(world: World) -> None:
    web = world.container()
    inner = world.driver.create(Network(id="c" * 64, name="inner", internal=True))
    locked = world.container(inner)
    world.sandbox.start(world.lan, [], (7000,))
    with inside(web.pid):
        assert ask(LAN, 7000) == HOST
        assert ask(LAN6, 7000) == HOST6
    with inside(locked.pid):
        assert ask(LAN, 7000, timeout=0.3) in ("timeout", "Network is unreachable")


def test_a_flushed_ruleset_comes_back_and_other_tables_stay(world: World) -> None:
    web = world.container()
    world.publish(web, PortBinding(container_port=80, host_port=8080))

    async def flush_and_wait() -> None:
        loop = asyncio.get_running_loop()
        world.firewall.watch(loop)
        await asyncio.to_thread(_flush)
        async with asyncio.timeout(20 * PATIENCE):
            while not world.firewall.intact():
                await asyncio.sleep(0.01)
        world.firewall.unwatch(loop)

    asyncio.run(flush_and_wait())
    assert ask("127.0.0.1", 8080) == world.network.subnets[0].gateway
    assert "table inet users" in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout


def _flush() -> None:
    Nftables().run("flush ruleset; add table inet users")


def test_a_new_daemon_takes_over_running_containers(world: World) -> None:
    web = world.container()
    bindings = world.publish(web, PortBinding(container_port=80, host_port=8080))
    world.ports.close()
    assert ask("127.0.0.1", 8080) == world.network.subnets[0].gateway, "ports outlive the daemon"

    firewall = Firewall("cove-test", world.forwarding)
    driver, ports = BridgeDriver(world.driver._instance, firewall, Pools("t")), Ports(firewall)
    with firewall.settle():
        driver.restore(world.network, [web.endpoint])
        assert ports.restore(web.endpoint.container_id, bindings, web.endpoint) == []
    assert ask("127.0.0.1", 8080) == world.network.subnets[0].gateway
    with pytest.raises(Conflict, match="port is already allocated"):
        ports.reserve("x", [PortBinding(container_port=1, host_port=8080)])
    assert driver.plan(world.network, "y", EndpointRequest()).ipv4 != web.endpoint.ipv4
    ports.unpublish(web.endpoint.container_id)
    driver.release(world.network, web.endpoint)


def test_a_udp_client_that_never_stops_meets_the_new_container(world: World) -> None:
    first, second = world.container(), world.container()
    with inside(world.lan):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(20 * PATIENCE)
    client.connect((HOST, 8053))
    for container in (first, second):
        world.publish(container, PortBinding(container_port=80, proto="udp", host_port=8053))
        client.send(b"?")
        assert client.recv(64).decode() == LAN
        world.ports.unpublish(container.endpoint.container_id)
        os.kill(world.sandbox.pids.pop(world.sandbox.pids.index(container.pid) + 1), signal.SIGKILL)
    client.close()


def test_the_ipv6_loopback_is_relayed(world: World) -> None:
    web = world.container()

    async def go() -> str:
        ports = Ports(world.firewall, Relays(asyncio.get_running_loop()))
        bindings = ports.reserve("o", [PortBinding(container_port=80, host_port=8080)])
        ports.publish("o", bindings, web.endpoint)
        answer = await asyncio.to_thread(_ask_in, os.getpid(), "::1", 8080)
        ports.unpublish("o")
        return answer

    assert asyncio.run(go()) == world.network.subnets[0].gateway


def _ask_in(_: int, address: str, port: int) -> str:
    return ask(address, port)


def test_ports_are_refused_when_taken_and_free_ones_are_found(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 9000))
        taken.listen()
        with pytest.raises(Conflict, match=r"Bind for 0\.0\.0\.0:9000 failed: port is already allocated"):
            world.ports.reserve("a", [PortBinding(container_port=1, host_port=9000)])
        ranged = world.ports.reserve("a", [PortBinding(container_port=1, host_port=9000, host_port_end=9001)])
        assert {each.host_port for each in ranged} == {9001}
    anywhere = world.ports.reserve("b", [PortBinding(container_port=port) for port in (1, 2, 3)])
    assert len({each.host_port for each in anywhere}) == 3
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            greedy.bind(("127.0.0.1", anywhere[0].host_port))
            greedy.listen()


def test_fifty_ports_and_what_a_removed_network_leaves(world: World) -> None:
    web = world.container()
    started = time.perf_counter()
    world.publish(web, *(PortBinding(container_port=80 + n, host_port=8000 + n) for n in range(50)))
    print(f"50 ports: {(time.perf_counter() - started) * 1e3:.1f} ms")
    with pytest.raises(Conflict, match="active endpoints"):
        world.driver.remove(world.network)
    world.ports.unpublish(web.endpoint.container_id)
    world.driver.detach(world.network, web.endpoint)
    world.driver.release(world.network, web.endpoint)
    world.driver.remove(world.network)
    world.firewall.remove()
    with netlink.Route() as route:
        assert {link.name for link in route.links() if link.kind} == {"lan0"}
    assert "cove-test" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
