"""What swap and the weights of block I/O do, measured: both need a machine's swap and schedulers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.guest.inside import only_inside, run
from tests.integration.test_resources import MIB, control_file, running

pytestmark = [pytest.mark.root, only_inside]

HOLDING = "head -c {0} /dev/zero | tail -c {0} | sleep 600"
"""A pipeline one of whose processes keeps that many bytes, until another one would read them."""


@pytest.fixture(scope="module")
def swap() -> Iterator[None]:
    """128 MiB of the guest's disk."""
    file = Path("/var/swap")
    with file.open("wb") as content:
        content.write(bytes(128 * MIB))
    file.chmod(0o600)
    run("mkswap", str(file))
    run("swapon", str(file))
    yield
    run("swapoff", str(file))
    file.unlink()


def counted(file: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == key)


@pytest.mark.usefixtures("swap")
def test_memory_beyond_its_limit_is_swapped_as_far_as_that_is_granted(daemon: Daemon) -> None:
    words = ("--memory", "24m", "--memory-swap", "64m", "busybox", "sh", "-c", HOLDING.format(40 * 10**6))
    with running(daemon.docker, *words) as identity:
        swapped = control_file(daemon, identity, "", "memory.swap.current")
        events = control_file(daemon, identity, "", "memory.events")
        assert eventually(lambda: int(swapped.read_text()) > 14 * MIB)
        assert int((events.parent / "memory.current").read_text()) <= 24 * MIB
        assert counted(events, "oom_kill") == 0
        daemon.docker("update", "--memory", "64m", "--memory-swap", "64m", identity)
        assert (events.parent / "memory.swap.max").read_text() == "0\n"


@pytest.mark.usefixtures("swap")
def test_more_than_memory_and_swap_together_is_death(daemon: Daemon) -> None:
    script = "head -c 80000000 /dev/zero | tail -c 80000000 > /dev/null; exit $?"
    try:
        words = ("--name", "swapped", "--memory", "16m", "--memory-swap", "32m", "busybox", "sh", "-c", script)
        assert daemon.docker("run", *words, check=False).returncode == 137
        assert json.loads(daemon.docker("inspect", "swapped").stdout)[0]["State"]["OOMKilled"]
    finally:
        daemon.docker("rm", "-f", "swapped")


@pytest.mark.usefixtures("swap")
def test_without_a_word_on_swap_there_is_as_much_as_memory_and_without_a_limit_all(daemon: Daemon) -> None:
    for words, expected in (((), "25165824"), (("--memory-swap", "-1"), "max")):
        with running(daemon.docker, "--memory", "24m", *words, "busybox", "sleep", "600") as identity:
            assert control_file(daemon, identity, "", "memory.swap.max").read_text().strip() == expected


# ── block I/O ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def slow() -> Iterator[str]:
    """A disk that takes five milliseconds for each request, one after another, and keeps nothing."""
    words = ("queue_mode=2", "irqmode=2", "completion_nsec=5000000", "hw_queue_depth=1", "submit_queues=1")
    run("modprobe", "null_blk", "nr_devices=1", "gb=4", *words)
    yield "/dev/nullb0"
    assert eventually(lambda: run("modprobe", "-r", "null_blk", check=False).returncode == 0)


def number(device: str) -> str:
    found = os.stat(device).st_rdev
    return f"{os.major(found)}:{os.minor(found)}"


@pytest.fixture(params=["bfq", "io.cost"])
def divided(request: pytest.FixtureRequest, slow: str) -> Iterator[str]:
    """The disk, divided among control groups by BFQ, or by the model of what its requests cost."""
    if request.param == "bfq":
        run("modprobe", "bfq")
        queue = Path(f"/sys/block/{Path(slow).name}/queue")
        (queue / "scheduler").write_text("bfq")
        (queue / "iosched/low_latency").write_text("0")  # else whoever is new has the disk first
        (queue / "iosched/strict_guarantees").write_text("1")  # and this quick disk is divided for its throughput
        yield slow
        (queue / "scheduler").write_text("none")
        return
    root = Path("/sys/fs/cgroup")
    costs = " ".join(f"{way}bps=2000000 {way}seqiops=100 {way}randiops=100" for way in "rw")
    (root / "io.cost.model").write_text(f"{number(slow)} ctrl=user model=linear {costs}")
    (root / "io.cost.qos").write_text(f"{number(slow)} enable=1 ctrl=user min=100.00 max=100.00")
    yield slow
    (root / "io.cost.qos").write_text(f"{number(slow)} enable=0")


def read_bytes(group: Path, device: str) -> int:
    for line in (group / "io.stat").read_text().splitlines():
        name, *pairs = line.split()
        if name == device:
            return int(dict(pair.split("=") for pair in pairs)["rbytes"])
    return 0


@pytest.mark.parametrize("of_a_device", [False, True])
def test_a_disk_is_divided_by_weight(daemon: Daemon, divided: str, of_a_device: bool) -> None:
    """Eight times the weight reads far more of the same disk in the same time."""
    loop = f"while :; do dd if={divided} of=/dev/null bs=32k iflag=direct 2>/dev/null; done"
    several = f"for i in 1 2 3; do ({loop}) & done; wait"  # one of them always waits for the disk

    def words(weight: int) -> tuple[str, ...]:
        asked = ("--blkio-weight-device", f"{divided}:{weight}") if of_a_device else ("--blkio-weight", str(weight))
        return (*asked, "--device", divided, "busybox", "sh", "-c", several)

    with running(daemon.docker, *words(80)) as small, running(daemon.docker, *words(640)) as large:
        groups = [control_file(daemon, each, "", "io.stat").parent for each in (small, large)]
        device = number(divided)
        before = [read_bytes(group, device) for group in groups]
        assert eventually(lambda: read_bytes(groups[1], device) - before[1] > 6 * MIB)
        used = [read_bytes(group, device) - then for group, then in zip(groups, before, strict=True)]
    assert used[1] > 2.5 * used[0], f"small and large read {used} bytes"


def test_a_weight_changes_while_a_container_runs(daemon: Daemon, divided: str) -> None:
    with running(daemon.docker, "--blkio-weight", "100", "busybox", "sleep", "600") as identity:
        daemon.docker("update", "--blkio-weight", "500", identity)
        group = control_file(daemon, identity, "", "io.weight").parent
        assert "default 4950" in (group / "io.weight").read_text()
        if (group / "io.bfq.weight").exists():
            assert "500" in (group / "io.bfq.weight").read_text()


def test_a_weight_without_effect_is_told_of(daemon: Daemon, slow: str) -> None:
    words = ("run", "--rm", "--blkio-weight", "500", "busybox", "true")
    assert "The block I/O weight has no effect until a disk" in daemon.docker(*words).stderr
    run("modprobe", "bfq")
    Path("/sys/block/nullb0/queue/scheduler").write_text("bfq")
    assert daemon.docker(*words).stderr == ""


def test_a_weight_for_a_disk_that_nobody_divides_is_refused(daemon: Daemon, slow: str) -> None:
    words = ("--blkio-weight-device", f"{slow}:500", "busybox", "true")
    done: subprocess.CompletedProcess[str] = daemon.docker("run", "--rm", *words, check=False)
    assert done.returncode == 125
    assert f"as the weight of device {number(slow)}" in done.stderr
