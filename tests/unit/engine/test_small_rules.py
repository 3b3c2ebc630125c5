"""The engine's small pure rules: signals, detach keys, restarts, health, ports, words about time, ps."""

from __future__ import annotations

import pytest

from cove.engine.containers import restarts, signals
from cove.engine.containers.files import select, without_managed
from cove.engine.containers.framing import DetachKeys, frame, parse_keys
from cove.engine.containers.health import judged
from cove.engine.containers.records import Facts
from cove.engine.containers.stats import interfaces
from cove.engine.logs.options import log_bounds
from cove.engine.networks.ports import parse_port, port_map
from cove.errors import InvalidArgument
from cove.network.driver import PortBinding
from cove.wire.containers import Change, Health, HealthResult, LogConfig, RestartPolicy
from cove.wire.spans import duration


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("sigkill", 9), ("1", 1), ("RTMIN+3", 37)])
def test_signals(text: str, number: int) -> None:
    assert signals.parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "NONSENSE", "RTMIN+99"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        signals.parse(text)


def test_detach_keys_are_found_across_pieces() -> None:
    keys = DetachKeys(parse_keys(""))
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"\x11rest") == (b"", True)


def test_a_beginning_of_the_keys_is_passed_on_when_it_goes_on_otherwise() -> None:
    keys = DetachKeys(parse_keys("ctrl-p,ctrl-q"))
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"x\x10\x10\x11") == (b"\x10x\x10", True)


def test_other_keys() -> None:
    assert parse_keys("a,ctrl-@,ctrl-[") == b"a\x00\x1b"
    with pytest.raises(InvalidArgument):
        parse_keys("ctrl-")


def test_frames() -> None:
    assert frame(2, b"hey") == b"\x02\0\0\0\0\0\0\x03hey"


@pytest.mark.parametrize(
    ("policy", "facts", "code", "expected"),
    [
        ("no", Facts(wanted="running"), 1, None),
        ("always", Facts(wanted="running"), 0, 0.1),
        ("always", Facts(wanted="stopped"), 0, None),
        ("unless-stopped", Facts(wanted="running", restarts=3), 1, 0.8),
        ("on-failure", Facts(wanted="running"), 0, None),
        ("on-failure", Facts(wanted="running", restarts=2), 1, None),
        ("always", Facts(wanted="running", restarts=99), 1, 60.0),
    ],
)
def test_restart_policies(policy: str, facts: Facts, code: int, expected: float | None) -> None:
    count = 2 if policy == "on-failure" else 0
    asked = RestartPolicy(name=policy, maximum_retry_count=count)
    assert restarts.pause(asked, facts, exit_code=code, ran=0.5) == expected


def test_a_long_run_forgets_the_pause() -> None:
    facts = Facts(wanted="running", restarts=9)
    assert restarts.pause(RestartPolicy(name="always"), facts, exit_code=1, ran=11) == restarts.FIRST_PAUSE


def test_health_needs_several_failures() -> None:
    bad = HealthResult(start="", end="", exit_code=1, output="")
    health = Health(status="starting")
    for expected in ("starting", "starting", "unhealthy"):
        health = judged(health, bad, retries=3, starting=False)
        assert health.status == expected
    good = HealthResult(start="", end="", exit_code=0, output="")
    assert judged(health, good, retries=3, starting=False).failing_streak == 0


def test_failures_in_the_start_period_do_not_count() -> None:
    bad = HealthResult(start="", end="", exit_code=1, output="")
    assert judged(Health(status="starting"), bad, retries=1, starting=True).status == "starting"


def test_ports() -> None:
    assert parse_port("80") == (80, "tcp")
    with pytest.raises(InvalidArgument):
        parse_port("80/xyz")
    shown = port_map(["80/tcp", "90/udp"], [PortBinding(container_port=80, host_ip="0.0.0.0", host_port=8080)])
    bound = shown["80/tcp"]
    assert bound and bound[0].host_port == "8080" and shown["90/udp"] is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (90, "About a minute"),
        (600, "10 minutes"),
        (3600, "About an hour"),
        (40 * 3600, "40 hours"),
        (5 * 86400, "5 days"),
        (20 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_words_about_time(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_ps_is_filtered_by_pid() -> None:
    table = "UID   PID CMD\nroot    1 init\nroot   42 sleep 10 20\n"
    assert select(table, {42}).processes == (("root", "42", "sleep 10 20"),)
    with pytest.raises(InvalidArgument):
        select("A B\n1 2\n", {1})


def test_managed_files_are_no_changes() -> None:
    etc, hosts, passwd = (Change(path=path, kind=0) for path in ("/etc", "/etc/hosts", "/etc/passwd"))
    assert without_managed([etc, hosts]) == []
    assert without_managed([etc, hosts, passwd]) == [etc, passwd]


def test_network_counters() -> None:
    text = "Inter-|\n face |\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 0 0 0 0 0 0 20 3 0 0 0 0 0 0\n"
    found = interfaces(text)
    assert set(found) == {"eth0"} and (found["eth0"].rx_bytes, found["eth0"].tx_packets) == (10, 3)


def test_log_sizes() -> None:
    assert log_bounds(LogConfig(config={"max-size": "10m", "max-file": "3"})) == (10 << 20, 3)
    with pytest.raises(InvalidArgument):
        log_bounds(LogConfig(config={"max-size": "huge"}))
