"""Networks: traffic on every way to a container, beside a bare veth pair; names, published ports, many networks.

Traffic is made by `traffic.py` inside the namespaces of containers, of the engine's host, and of a neighbour on
a LAN of that host's, so that engines differ in nothing but the way between them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engines import Engine

_PROGRAM = str(Path(__file__).with_name("traffic.py"))
_PORT, _PUBLISHED = 8000, 18000
_HOST, _NEIGHBOUR = "192.0.2.1", "192.0.2.9"
Run = Callable[[Engine], float]


@contextmanager
def namespace() -> Iterator[int]:
    """A process in a network namespace of its own."""
    sleeper = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 600"], stdout=-1)
    try:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        yield sleeper.pid
    finally:
        sleeper.kill()
        sleeper.wait()


def _ip(pid: int, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *words], check=True, capture_output=True)


def _pair(one: int, other: int, name: str) -> None:
    """A veth pair: `name` with the host's address here, eth0 with the neighbour's there."""
    _ip(one, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(other))
    _ip(one, "addr", "add", f"{_HOST}/24", "dev", name)
    _ip(other, "addr", "add", f"{_NEIGHBOUR}/24", "dev", "eth0")
    _ip(one, "link", "set", name, "up")
    _ip(other, "link", "set", "eth0", "up")


@contextmanager
def _server(pid: int, address: str = "0.0.0.0") -> Iterator[None]:
    words = [sys.executable, _PROGRAM, "serve", str(pid), address, str(_PORT)]
    serving = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert serving.stdout is not None
        if not serving.stdout.readline():
            raise RuntimeError("no server for the traffic")
        yield
    finally:
        serving.kill()
        serving.wait()


def _client(what: str, pid: int, address: str, port: int | str) -> float:
    words = [sys.executable, _PROGRAM, what, str(pid), address, str(port)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)


@contextmanager
def _container(engine: Engine, network: str = "bridge", **more: Any) -> Iterator[dict[str, Any]]:
    """A running container, as `inspect` shows it."""
    host = {"NetworkMode": network, **more.pop("HostConfig", {})}
    body = {"Image": "localhost/bench:latest", "Cmd": ["sleep", "600"], "HostConfig": host, **more}
    name = more.pop("Name", "")
    identity = engine.json("POST", f"/containers/create{f'?name={name}' if name else ''}", body)["Id"]
    try:
        engine.call("POST", f"/containers/{identity}/start")
        yield engine.json("GET", f"/containers/{identity}/json")
    finally:
        engine.call("DELETE", f"/containers/{identity}?force=1")


def _address(container: dict[str, Any]) -> str:
    return next(str(each["IPAddress"]) for each in container["NetworkSettings"]["Networks"].values())


# ── traffic ───────────────────────────────────────────────────────────────────────────────────────


def between_containers(what: str) -> Run:
    def run(engine: Engine) -> float:
        with _container(engine) as one, _container(engine) as other, _server(one["State"]["Pid"]):
            return _client(what, other["State"]["Pid"], _address(one), _PORT)

    return run


def to_published(what: str, *, outside: bool) -> Run:
    """From a neighbour on the LAN to the host's address, or from the host to 127.0.0.1."""

    def run(engine: Engine) -> float:
        assert engine.process is not None
        ports = {f"{_PORT}/tcp": [{"HostIp": "", "HostPort": str(_PUBLISHED)}]}
        with ExitStack() as stack:
            host = neighbour = engine.process.pid
            if outside:
                neighbour = stack.enter_context(namespace())
                _pair(host, neighbour, "lan0")
            exposed = {f"{_PORT}/tcp": {}}
            one = stack.enter_context(_container(engine, HostConfig={"PortBindings": ports}, ExposedPorts=exposed))
            stack.enter_context(_server(one["State"]["Pid"]))
            return _client(what, neighbour, _HOST if outside else "127.0.0.1", _PUBLISHED)

    return run


def bare(what: str) -> Callable[[], float]:
    """The same between two namespaces with a veth pair and nothing else."""

    def run() -> float:
        with namespace() as one, namespace() as other:
            _pair(one, other, "veth0")
            with _server(one):
                return _client(what, other, _HOST, _PORT)

    return run


# ── names, ports, networks ────────────────────────────────────────────────────────────────────────


@contextmanager
def _network(engine: Engine, name: str) -> Iterator[None]:
    engine.call("POST", "/networks/create", {"Name": name, "CheckDuplicate": True})
    try:
        yield
    finally:
        engine.call("DELETE", f"/networks/{name}")


def resolver(engine: Engine) -> float:
    """Questions a second, for the name of another container."""
    with (
        _network(engine, "names"),
        _container(engine, "names", Name="named"),
        _container(engine, "names") as asker,
    ):
        configuration = Path(f"/proc/{asker['State']['Pid']}/root/etc/resolv.conf").read_text().split()
        server = configuration[configuration.index("nameserver") + 1]
        return _client("names", asker["State"]["Pid"], "named", server)


def start_with_ports(count: int) -> Run:
    def run(engine: Engine) -> float:
        numbers = range(1000, 1000 + count)
        ports = {f"{port}/tcp": [{"HostIp": "", "HostPort": str(20000 + port)}] for port in numbers}
        exposed: dict[str, dict[str, str]] = {name: {} for name in ports}
        host = {"NetworkMode": "bridge", "PortBindings": ports}
        body = {"Image": "localhost/bench:latest", "Cmd": ["sleep", "600"], "HostConfig": host}
        identity = engine.json("POST", "/containers/create", body | {"ExposedPorts": exposed})["Id"]
        try:
            began = time.perf_counter()
            engine.call("POST", f"/containers/{identity}/start")
            return (time.perf_counter() - began) * 1000
        finally:
            engine.call("DELETE", f"/containers/{identity}?force=1")

    return run


def hundred_networks(engine: Engine) -> float:
    """Milliseconds to create 100 networks and remove them."""
    names = [f"many{number}" for number in range(100)]
    subnets = {name: f"10.240.{number}.0/24" for number, name in enumerate(names)}
    began = time.perf_counter()
    try:
        for name in names:
            ipam = {"Config": [{"Subnet": subnets[name]}]}
            engine.call("POST", "/networks/create", {"Name": name, "IPAM": ipam})
    finally:
        for each in engine.json("GET", "/networks"):
            if each["Name"] in subnets:
                engine.call("DELETE", f"/networks/{each['Name']}")
    return (time.perf_counter() - began) * 1000


_TRAFFIC: tuple[tuple[str, str, str], ...] = (
    ("throughput", "stream", "Gbit/s"),
    ("request", "requests", "µs"),
    ("request with its connection", "connections", "µs"),
)
_WAYS: tuple[tuple[str, Callable[[str], Run]], ...] = (
    ("container to container", between_containers),
    ("published port from outside", lambda what: to_published(what, outside=True)),
    ("published port from loopback", lambda what: to_published(what, outside=False)),
)
TRAFFIC = [
    (f"{way}, {title}", unit, run(what), 3, bare(what)) for title, what, unit in _TRAFFIC for way, run in _WAYS
]
"""(title, unit, one round, weight, the same on a bare veth pair); of Gbit/s more is better."""

ROWS: list[tuple[str, str, Run, int]] = [
    ("DNS questions for a container's name", "/s", resolver, 3),
    ("start with 1 published port", "ms", start_with_ports(1), 1),
    ("start with 50 published ports", "ms", start_with_ports(50), 3),
    ("start with 500 published ports", "ms", start_with_ports(500), 8),
    ("100 networks created and removed", "ms", hundred_networks, 5),
]
