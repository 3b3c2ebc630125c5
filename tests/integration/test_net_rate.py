"""The rate of a container's network and of a whole network: measured, with TCP and UDP, in both directions.

A pair of endpoints on a bridge network sends as fast as it can for a short while; what arrives is compared with
the limit. Frames count with their headers, so that a little less arrives than the limit says; a stream comes in
pieces of up to 64 KiB, of which one more or less may fall into the while. Where others keep the machine from sending
and from looking at the clock in time, it is measured again.
"""

from __future__ import annotations

import json
import math
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Daemon, eventually

MB = 1_000_000
LIMIT = 1 << 20
LEAST, MOST = 0.75 * LIMIT, 1.15 * LIMIT
UNLIMITED = 2.5 * LIMIT
"""What a machine sends that nothing limits, an emulated one included."""

SECONDS = 1.5


def address(daemon: Daemon, name: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return daemon.cove("inspect", "-f", form, name).stdout.strip()


def gateway(daemon: Daemon, name: str) -> str:
    return daemon.cove("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", name).stdout.strip()


def arrived(stream: socket.socket) -> int:
    """Bytes that the kernel took for this end so far (struct tcp_info's tcpi_bytes_received), read or not."""
    return int(struct.unpack_from("=Q", stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 128)[0])


def drained(stream: socket.socket) -> float:
    """Bytes a second of a TCP stream over a while that begins when the queues are full."""

    def drain(seconds: float) -> tuple[float, int]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stream.recv(1 << 16)
        return time.monotonic(), arrived(stream)

    (begin, before), (end, after) = drain(0.3), drain(SECONDS)
    return (after - before) / (end - begin)


def comes_to(least: float, most: float, measure: Callable[[], float]) -> bool:
    """Whether a rate is measured between these two, be it at the third attempt on a busy machine."""
    return eventually(lambda: least < measure() < most, 30)


def sent_by(daemon: Daemon, name: str) -> float:
    """What a container sends to the host by TCP."""
    with socket.create_server((gateway(daemon, name), 0)) as server:
        port = server.getsockname()[1]
        words = ("exec", "-d", name, "sh", "-c", f"nc {gateway(daemon, name)} {port} < /dev/zero")
        daemon.cove(*words)
        server.settimeout(20 * PATIENCE)
        stream, _ = server.accept()
        with stream:
            return drained(stream)


_FLOOD = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect((sys.argv[1], int(sys.argv[2])))
while True:
    sender.send(bytes(1400))
"""


def sent_by_udp(daemon: Daemon, name: str) -> float:
    """What a process in the container's network namespace sends by UDP, however fast it tries."""
    pid = daemon.cove("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((gateway(daemon, name), 0))
        receiver.settimeout(20 * PATIENCE)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # a late reader finds no more than this
        to = (gateway(daemon, name), str(receiver.getsockname()[1]))
        with subprocess.Popen(["nsenter", "-t", pid, "-n", sys.executable, "-c", _FLOOD, *to]) as flood:
            try:
                receiver.recv(1 << 16)
                time.sleep(0.3)
                begin, count = time.monotonic(), 0
                while time.monotonic() < begin + SECONDS:
                    count += len(receiver.recv(1 << 16))
                return count / (time.monotonic() - begin)
            finally:
                flood.kill()


def received_by(daemon: Daemon, name: str, *, udp: bool = False) -> float:
    """What a container receives from the host, by its own interface's counter."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    if not udp:
        daemon.cove("exec", "-d", name, "sh", "-c", "nc -l -p 9000 > /dev/null")
    pid = daemon.cove("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    with socket.socket(socket.AF_INET, kind) as sender:
        assert eventually(lambda: sender.connect_ex((address(daemon, name), 9000)) == 0)
        stop = threading.Event()

        def send() -> None:
            while not stop.is_set():
                try:
                    sender.send(bytes(1400 if udp else 65536))
                except OSError:  # UDP: the port is closed, which does not keep frames from coming
                    time.sleep(0.0001)

        thread = threading.Thread(target=send)
        thread.start()
        time.sleep(0.3)
        begin, before = time.monotonic(), received(pid)
        time.sleep(SECONDS)
        rate = (received(pid) - before) / (time.monotonic() - begin)
        stop.set()
        sender.shutdown(socket.SHUT_RDWR)
        thread.join()
    return rate


def received(pid: str) -> int:
    found = re.search(r"eth0:\s*(\d+)", Path(f"/proc/{pid}/net/dev").read_text())
    assert found is not None
    return int(found[1])


@pytest.fixture
def limited(daemon: Daemon) -> Iterator[str]:
    daemon.cove("run", "-d", "--name", "limited", "--net-rate", "in=1m,out=1m", "busybox", "sleep", "600")
    yield "limited"
    daemon.cove("rm", "-f", "limited")


def test_a_megabyte_a_second_is_one(daemon: Daemon, limited: str) -> None:
    assert comes_to(LEAST, MOST, lambda: sent_by(daemon, limited))
    assert comes_to(LEAST, MOST, lambda: received_by(daemon, limited))


def test_the_same_with_udp(daemon: Daemon, limited: str) -> None:
    assert comes_to(LEAST, MOST, lambda: sent_by_udp(daemon, limited))
    assert comes_to(LEAST, MOST, lambda: received_by(daemon, limited, udp=True))


def test_update_changes_it_at_once_and_takes_it_away(daemon: Daemon, limited: str) -> None:
    daemon.cove("update", "--net-rate", "out=2m", limited)
    assert comes_to(2 * LEAST, 2 * MOST, lambda: sent_by(daemon, limited))
    assert (
        json.loads(daemon.docker("inspect", limited).stdout)[0]["HostConfig"]["NetRate"] == "in=1048576,out=2097152"
    )
    daemon.cove("update", "--net-rate", "in=off,out=off", limited)
    assert comes_to(UNLIMITED, math.inf, lambda: sent_by(daemon, limited))
    assert json.loads(daemon.docker("inspect", limited).stdout)[0]["HostConfig"].get("NetRate", "") == ""


def test_explain_shows_what_the_limit_holds_back(daemon: Daemon, limited: str) -> None:
    received_by(daemon, limited, udp=True)
    found = json.loads(daemon.cove("explain", "--format", "json", limited).stdout)
    row = next(each for each in found["Limits"] if each["Resource"] == "network in")
    assert row["Limit"] == LIMIT
    assert "packets found the queue full" in row["Text"]
    (interface,) = found["Network"]["Interfaces"]
    assert (interface["RateIn"], interface["RateOut"]) == (LIMIT, LIMIT)


def test_stats_show_the_limit(daemon: Daemon, limited: str) -> None:
    shown = daemon.cove("stats", "--no-stream", limited).stdout
    assert "NET LIMIT" in shown
    assert "1MiB/s in / 1MiB/s out" in shown


def test_a_container_with_net_admin_cannot_undo_it(daemon: Daemon) -> None:
    daemon.cove(
        "run", "-d", "--name", "admin", "--cap-add", "NET_ADMIN", "--net-rate", "out=1m", "busybox", "sleep", "60"
    )
    try:
        daemon.cove("exec", "admin", "sh", "-c", "ip link set eth0 txqueuelen 5000; ip link set eth0 mtu 1400")
        assert comes_to(0, MOST, lambda: sent_by(daemon, "admin"))
    finally:
        daemon.cove("rm", "-f", "admin")


def test_members_of_a_network_share_its_rate(daemon: Daemon) -> None:
    daemon.cove("network", "create", "--net-rate", "out=2m", "shared")
    names = ("one", "two")
    try:
        for name in names:
            daemon.cove("run", "-d", "--name", name, "--network", "shared", "busybox", "sleep", "600")
        assert comes_to(2 * LEAST, 2 * MOST, lambda: sent_by(daemon, "one"))

        def fairly_shared() -> bool:
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda name: sent_by(daemon, name), names))
            # The two measurements do not begin at the same moment.
            return sum(found) < 2 * MOST * 1.1 and min(found) > 0.5 * LIMIT

        assert eventually(fairly_shared, 30)
        daemon.cove("network", "update", "--net-rate", "out=off", "shared")
        assert comes_to(UNLIMITED, math.inf, lambda: sent_by(daemon, "two"))
    finally:
        daemon.cove("rm", "-f", *names)
        daemon.cove("network", "rm", "shared")


def test_it_survives_the_daemon(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "-d", "--name", "kept", "--net-rate", "out=1m", "busybox", "sleep", "600")
    before = {name for _, name in socket.if_nameindex() if name.startswith("ifb")}
    own_daemon.kill()
    own_daemon.start()
    assert comes_to(LEAST, MOST, lambda: sent_by(own_daemon, "kept"))
    own_daemon.cove("restart", "-t", "0", "kept")
    assert comes_to(LEAST, MOST, lambda: sent_by(own_daemon, "kept"))
    assert len({name for _, name in socket.if_nameindex() if name.startswith("ifb")}) == len(before)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--network", "host", "--net-rate", "in=1m"), "interface of the container's own"),
        (("--network", "none", "--net-rate", "in=1m"), "interface of the container's own"),
        (("--net-rate", "1m"), "write in=RATE,out=RATE"),
        (("--net-rate", "in=fast"), "is no amount a second"),
        (("--net-rate", "in=1"), "out of bounds"),
    ],
)
def test_what_cannot_be_limited_is_refused(daemon: Daemon, words: tuple[str, ...], sentence: str) -> None:
    done = daemon.cove("run", "--rm", *words, "busybox", "true", check=False)
    assert done.returncode == 125
    assert sentence in done.stderr


def test_other_clients_ask_for_it_in_an_annotation(daemon: Daemon) -> None:
    words = ("--annotation", "cove.net-rate=in=10mbit", "--name", "annotated", "busybox", "true")
    daemon.docker("create", *words)
    daemon.docker("network", "create", "--opt", "cove.net-rate=out=8mbit", "annotated")
    try:
        assert daemon.cove("inspect", "-f", "{{.HostConfig.NetRate}}", "annotated").stdout == "in=1250000\n"
        form = '{{index .Options "cove.net-rate"}}'
        assert daemon.docker("network", "inspect", "-f", form, "annotated").stdout == "out=1000000\n"
    finally:
        daemon.cove("rm", "annotated")
        daemon.cove("network", "rm", "annotated")
