"""What tests of networks stand on: networks and containers that go with the test, and a neighbour on a LAN."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from cove.kernel import netlink
from tests.conftest import Daemon, eventually
from tests.integration.test_names import inside


class Made:
    """Networks and containers of one test."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.containers: list[str] = []
        self.networks: list[str] = []

    def network(self, name: str, *flags: str) -> str:
        self.daemon.docker("network", "create", *flags, name)
        self.networks.append(name)
        return name

    def run(self, name: str, *flags: str) -> None:
        self.containers.append(name)
        self.daemon.docker("run", "-d", "--name", name, *flags, "busybox", "sleep", "600")

    def inspect(self, name: str) -> Any:
        return json.loads(self.daemon.docker("inspect", name).stdout)[0]

    def pid(self, name: str) -> int:
        return int(self.inspect(name)["State"]["Pid"])

    def ip(self, name: str, *words: str) -> str:
        return subprocess.run(
            ["nsenter", "-t", str(self.pid(name)), "-n", "ip", *words], capture_output=True, text=True, check=True
        ).stdout

    def refused(self, *words: str) -> str:
        done = self.daemon.cove(*words, check=False)
        assert done.returncode != 0
        return done.stderr

    def close(self) -> None:
        if self.containers:
            self.daemon.docker("rm", "-f", *self.containers)
        for network in self.networks:
            self.daemon.docker("network", "rm", network)


@pytest.fixture
def made(daemon: Daemon) -> Iterator[Made]:
    all_ = Made(daemon)
    yield all_
    all_.close()


@dataclass
class Lan:
    """A link of the host's, and the process in whose namespace its other end is."""

    link: str
    neighbour: int


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A link of the host's with a neighbour at its other end (10.97.20.9), in a namespace of its own."""
    sleeper = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    try:
        apart([sleeper.pid])
        with netlink.Route() as route, ExitStack() as stack:
            route.commit(netlink.veth("covelan0", peer="eth0", pid=sleeper.pid))
            # The kernel takes namespaces apart some time after their last process: the next test needs the name now.
            stack.callback(lambda: route.commit([netlink.delete("covelan0")]))
            with inside(sleeper.pid), netlink.Route() as theirs:
                index = socket.if_nametoindex("eth0")
                theirs.commit([netlink.add_address(index, "10.97.20.9", 24), netlink.up("eth0"), netlink.up("lo")])
            with inside(sleeper.pid):
                stack.enter_context(socket.create_server(("", 80)))
            yield Lan("covelan0", sleeper.pid)
    finally:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()


def apart(pids: list[int]) -> None:
    """Wait until they are in namespaces of their own."""
    here = os.readlink("/proc/thread-self/ns/net")
    assert eventually(lambda: all(os.readlink(f"/proc/{pid}/ns/net") != here for pid in pids), pause=0.01)
