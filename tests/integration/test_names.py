"""Names of containers, as programs in them see it: real containers, raw DNS questions from their namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

import pytest

from cove.kernel.namespaces import in_network
from tests.conftest import PATIENCE, Daemon, eventually

pytestmark = [pytest.mark.root]
A, PTR, AAAA, TXT = 1, 12, 28, 16


def inside(pid: int) -> AbstractContextManager[None]:
    """This thread in the network namespace of a process; sockets made there stay there."""
    return in_network(f"/proc/{pid}/ns/net")


def question(name: str, kind: int = A, number: int = 77) -> bytes:
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split(".")) + b"\0"
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">HH", kind, 1)


@dataclass
class Answer:
    rcode: int
    truncated: bool
    values: list[str] = field(default_factory=list)


def read(data: bytes) -> Answer:
    flags, count = struct.unpack_from(">HxxH", data, 2)
    at, values = 12, []
    while data[at]:
        at += data[at] + 1
    at += 5
    for _ in range(count):
        kind, _, _, size = struct.unpack_from(">HHIH", data, at + 2)
        value = data[at + 12 : at + 12 + size]
        at += 12 + size
        if kind in (A, AAAA):
            values.append(socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, value))
        elif kind == PTR:
            labels = []
            while value[0]:
                labels.append(value[1 : value[0] + 1].decode())
                value = value[value[0] + 1 :]
            values.append(".".join(labels))
        else:
            values.append(value[1:].decode())
    return Answer(flags & 0xF, bool(flags & 0x200), values)


@dataclass
class Box:
    """A running container."""

    daemon: Daemon
    name: str

    @property
    def pid(self) -> int:
        return int(self.daemon.docker("inspect", "-f", "{{.State.Pid}}", self.name).stdout)

    def address(self, network: str) -> str:
        networks = json.loads(
            self.daemon.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", self.name).stdout
        )
        return str(networks[network]["IPAddress"])

    def ask(self, name: str, kind: int = A, *, tcp: bool = False, timeout: float = 20 * PATIENCE) -> Answer:
        with inside(self.pid):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        with client:
            client.settimeout(timeout)
            client.connect(("127.0.0.11", 53))
            data = question(name, kind)
            client.send(struct.pack(">H", len(data)) + data if tcp else data)
            answer = client.recv(65535)
            while tcp and len(answer) < 2 + struct.unpack(">H", answer[:2])[0]:
                answer += client.recv(65535)
            return read(answer[2:] if tcp else answer)


class World:
    """Containers and networks of one test, which go with it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.containers: list[str] = []
        self.networks: list[str] = []

    def network(self, name: str, *flags: str) -> str:
        self.daemon.docker("network", "create", *flags, name)
        self.networks.append(name)
        return name

    def box(self, name: str, network: str, *flags: str) -> Box:
        self.containers.append(name)
        words = ["run", "-d", "--name", name, "--network", network, *flags, "busybox", "sleep", "600"]
        self.daemon.docker(*words)
        return Box(self.daemon, name)

    def close(self) -> None:
        if self.containers:
            self.daemon.docker("rm", "-f", *self.containers)
        for network in self.networks:
            self.daemon.docker("network", "rm", network)


@pytest.fixture
def world(daemon: Daemon) -> Iterator[World]:
    made = World(daemon)
    yield made
    made.close()


def test_names_aliases_and_links_are_seen_by_those_who_share_a_network(world: World) -> None:
    front, back = world.network("front"), world.network("back")
    web = world.box("web", front, "--network-alias", "www", "--hostname", "shop")
    web2 = world.box("web2", front, "--network-alias", "www", "--link", "web:first")
    db = world.box("db", back)
    for name in ("web", "WEB", "web.front", "shop", "first"):
        assert web2.ask(name).values == [web.address("front")], name
    assert sorted(web2.ask("www").values) == sorted([web.address("front"), web2.address("front")])
    assert len({web2.ask("www").values[0] for _ in range(40)}) == 2, "several addresses come in any order"
    assert web2.ask("web", AAAA) == Answer(0, False)
    backwards = ".".join(reversed(web.address("front").split("."))) + ".in-addr.arpa"
    assert web2.ask(backwards, PTR).values == ["web.front"]
    assert web2.ask("web", tcp=True).values == [web.address("front")]
    assert web.ask("first").values == [], "a link is for the one who asked for it"
    assert db.ask("web").values == [] and web.ask("db").values == []
    assert "127.0.0.11" in world.daemon.docker("exec", "web", "nslookup", "web2").stdout


def test_a_link_is_of_one_network(world: World) -> None:
    front, back = world.network("front"), world.network("back")
    web = world.box("web", front)
    web2 = world.box("web2", front, "--link", "web:infront")
    world.daemon.docker("network", "connect", back, "web")
    world.daemon.docker("network", "connect", "--link", "web:behind", back, "web2")
    assert web2.ask("infront").values == [web.address("front")]
    assert web2.ask("behind").values == [web.address("back")]
    world.daemon.docker("network", "disconnect", front, "web")
    assert web2.ask("infront").values == [], "web is no longer on the network that the link is of"
    assert web2.ask("behind").values == [web.address("back")]


def test_a_container_may_itself_listen_on_port_53(world: World) -> None:
    net = world.network("own53")
    own = world.box("own", net)
    with inside(own.pid):
        servers = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
    for server in servers:
        server.bind(("0.0.0.0", 53))
    servers[1].listen()
    assert own.ask("own").values == [own.address(net)]
    assert own.ask("own", tcp=True).values == [own.address(net)]
    with inside(own.pid):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.sendto(b"mine", ("127.0.0.1", 53))
    assert servers[0].recv(9) == b"mine"
    for each in (*servers, client):
        each.close()


def test_names_follow_connect_disconnect_and_rename(world: World) -> None:
    world.network("one")
    world.network("two")
    a, b = world.box("ca", "one"), world.box("cb", "two")
    plain = world.box("plain", "bridge")
    assert "127.0.0.11" not in world.daemon.docker("exec", "plain", "cat", "/etc/resolv.conf").stdout
    world.daemon.docker("network", "connect", "--alias", "second", "two", "ca")
    world.daemon.docker("network", "connect", "two", "plain")
    assert "nameserver 127.0.0.11" in world.daemon.docker("exec", "plain", "cat", "/etc/resolv.conf").stdout
    assert a.ask("cb").values == [b.address("two")] == plain.ask("cb").values
    assert b.ask("second").values == [a.address("two")]
    assert a.address("two") in world.daemon.docker("exec", "ca", "cat", "/etc/hosts").stdout
    world.daemon.docker("rename", "cb", "cc")
    world.containers.append("cc")
    assert a.ask("cc").values and not a.ask("cb").values
    world.daemon.docker("network", "disconnect", "two", "ca")
    assert not a.ask("cc").values and not Box(world.daemon, "cc").ask("second").values
    world.daemon.docker("stop", "-t", "0", "cc")
    assert not plain.ask("cc").values
    world.containers.remove("cb")


def test_resolv_conf_and_the_host(world: World) -> None:
    net = world.network("host-net")
    box = world.box(
        "box", net, "--dns-search", "lan.example", "--dns-option", "timeout:1", "--add-host", "me:10.9.8.7"
    )
    text = world.daemon.docker("exec", "box", "cat", "/etc/resolv.conf").stdout
    assert text.split() == "nameserver 127.0.0.11 search lan.example options timeout:1 ndots:0".split()
    gateway = json.loads(world.daemon.docker("network", "inspect", net).stdout)[0]["IPAM"]["Config"][0]["Gateway"]
    assert box.ask("host.docker.internal").values == [gateway]
    assert f"{gateway}\thost.docker.internal" in world.daemon.docker("exec", "box", "cat", "/etc/hosts").stdout
    other = world.daemon.docker("run", "--rm", "--add-host", "h:host-gateway", "busybox", "cat", "/etc/hosts").stdout
    assert "\th\n" in other and "\thost.docker.internal\n" in other


# ── other servers ─────────────────────────────────────────────────────────────────────────────────


class Server:
    """A name server in a process's network namespace: "cut." answers are truncated by UDP, "silent." gets none."""

    def __init__(self, pid: int, answer: str = "203.0.113.7") -> None:
        self.asked: list[tuple[str, str]] = []
        self._answer = socket.inet_aton(answer)
        with inside(pid):
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.udp.bind(("0.0.0.0", 53))
        self.tcp.bind(("0.0.0.0", 53))
        self.tcp.listen()
        for work in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=work, daemon=True).start()

    def _reply(self, data: bytes, how: str) -> bytes | None:
        name = data[13 : 13 + data[12]].decode()
        self.asked.append((how, name))
        if name == "silent":
            return None
        at = 12
        while data[at]:
            at += data[at] + 1
        asked = data[12 : at + 5]
        if name == "broken":
            return data[:2] + b"\x81\x82" + data[4:6] + b"\0\0\0\0\0\0" + asked
        if name == "cut" and how == "udp":
            return data[:2] + b"\x83\x80" + data[4:6] + b"\0\0\0\0\0\0" + asked
        record = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + self._answer
        return data[:2] + b"\x81\x80" + data[4:6] + b"\0\1\0\0\0\0" + asked + record

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while data_from := self.udp.recvfrom(65535):
                data, client = data_from
                if not data:
                    return
                if reply := self._reply(data, "udp"):
                    self.udp.sendto(reply, client)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.tcp.accept()
                data = client.recv(65535)
                if data and (reply := self._reply(data[2:], "tcp")):
                    client.send(struct.pack(">H", len(reply)) + reply)

    def close(self) -> None:
        for sock in (self.udp, self.tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def test_other_names_are_asked_of_the_servers_that_were_named(world: World) -> None:
    world.network("asked", "--subnet", "10.99.71.0/24")
    outer, inner = (
        world.box("outer", "asked", "--ip", "10.99.71.10"),
        world.box("inner", "asked", "--ip", "10.99.71.11"),
    )
    first, second = Server(outer.pid), Server(inner.pid, "203.0.113.8")
    client = world.box("client", "asked", "--dns", "10.99.71.10", "--dns", "10.99.71.11")
    try:
        assert client.ask("www.example.net").values == ["203.0.113.7"]
        assert client.ask("cut.example.net") == Answer(0, True), "a truncated answer says so to the client"
        assert client.ask("cut.example.net", tcp=True).values == ["203.0.113.7"]
        assert client.ask("broken.example.net").rcode == 2
        assert ("udp", "broken") in second.asked, "a server that fails is not the last word"
        assert client.ask("outer").values == ["10.99.71.10"]
        assert not any(name == "outer" for _, name in first.asked), "our names are asked of nobody else"
        first.close()
        assert client.ask("after.example.net").values == ["203.0.113.8"], "nobody listens: the next one, at once"
    finally:
        first.close()
        second.close()


def test_two_thousand_open_questions_stop_nobody(world: World) -> None:
    world.network("busy", "--subnet", "10.99.72.0/24")
    box = world.box("void", "busy", "--ip", "10.99.72.10")
    server = Server(box.pid)
    client = world.box("asker", "busy", "--dns", "10.99.72.10", "--dns", "10.99.72.10")

    def heard(count: int) -> bool:
        return eventually(lambda: len(server.asked) >= count, pause=0.005)

    try:
        with inside(client.pid):
            many = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with many:
            many.connect(("127.0.0.11", 53))
            for sent in range(0, 2000, 50):  # no more at once than any socket on the way holds
                for number in range(sent, sent + 50):
                    many.send(question("silent.example.net", number=number))
                assert heard(sent + 50)
            many.setblocking(False)
            with pytest.raises(BlockingIOError):
                many.recv(512)  # all of them are open still
            assert client.ask("void").values == ["10.99.72.10"]
            assert client.ask("more.example.net").values == ["203.0.113.7"]
    finally:
        server.close()


def test_internal_networks_ask_nobody(world: World) -> None:
    world.network("inside", "--internal", "--subnet", "10.99.73.0/24")
    world.network("spied", "--subnet", "10.99.74.0/24")
    spy = Server(world.box("spy", "spied", "--ip", "10.99.74.10").pid)
    locked = world.box("locked", "inside", "--dns", "10.99.74.10")
    simple = world.box("simple", "inside")
    try:
        assert simple.ask("example.net").rcode == 3, "no server is asked, so there is no such name"
        assert locked.ask("example.net").rcode == 2, "the named server is out of reach"
        assert spy.asked == []
        assert locked.ask("simple").values == [simple.address("inside")]
        assert locked.ask("host.docker.internal").rcode == 3
    finally:
        spy.close()


def test_names_outlive_the_daemon_and_the_resolver(own_daemon: Daemon) -> None:
    own_daemon.docker("network", "create", "lasting")
    for name in ("one", "two"):
        own_daemon.docker("run", "-d", "--name", name, "--network", "lasting", "busybox", "sleep", "600")
    one, there = Box(own_daemon, "one"), Box(own_daemon, "two").address("lasting")
    pid = one.pid

    def ask() -> list[str]:
        with inside(pid):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            client.settimeout(10 * PATIENCE)
            client.connect(("127.0.0.11", 53))
            client.send(question("two"))
            return read(client.recv(512)).values

    def answered(found: list[str]) -> bool:
        with suppress(OSError):
            return ask() == found
        return False

    assert ask() == [there]
    own_daemon.kill()
    assert ask() == [there], "the daemon is dead, the names are not"
    own_daemon.start()
    assert one.ask("two").values == [there]
    listed = subprocess.run(["pgrep", "-f", f"dns.server.*{own_daemon.run}"], capture_output=True, text=True)
    os.kill(int(listed.stdout.split()[0]), 9)
    assert eventually(lambda: answered([there]))
    own_daemon.docker("stop", "-t", "0", "two")
    own_daemon.kill()
    own_daemon.docker("ps", check=False)
    own_daemon.start()
    assert eventually(lambda: answered([]))
    own_daemon.docker("rm", "-f", "one", "two")
    own_daemon.docker("network", "rm", "lasting")


_BEYOND = """
import os, resource, subprocess, sys, time
from cove.kernel.nftables import Seats
from cove.network.dns.sandbox import Sandbox

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sleeper = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{sleeper.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)
seats = Seats()
held = [os.open("/", os.O_PATH) for _ in range(1100)]
try:
    for _ in range(2):
        Sandbox(os.pidfd_open(sleeper.pid), seats).close()
finally:
    sleeper.kill()
    sleeper.wait()
"""


def test_a_resolver_of_more_containers_than_select_can_count_descriptors() -> None:
    """libnftables waits with select(2), which ends the process whose descriptor is beyond 1,023."""
    done = subprocess.run([sys.executable, "-c", _BEYOND], capture_output=True, text=True, timeout=120 * PATIENCE)
    assert done.returncode == 0, done.stderr
