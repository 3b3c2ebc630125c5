"""What those limits do that have no flag of `docker run`: burst, idle, memory.high and low, huge pages; and pressure.

Measured in bundles run by `cove-oci`, by what the kernel counts, never by the clock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
MIB = 1 << 20
version_2 = pytest.mark.skipif(not UNIFIED, reason="exists only with cgroup v2")


def group_of(bundle: Bundle, name: str, controller: str) -> Path:
    """The directory of a container's control group."""
    for line in Path(f"/proc/{bundle.pid(name)}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if (UNIFIED and not names) or controller in names.split(","):
            return Path("/sys/fs/cgroup") / ("" if UNIFIED else controller) / path.strip("/")
    pytest.fail(f"{name} has no control group of {controller}")


def counted(file: Path, key: str) -> int:
    return next((int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == key), 0)


def limited(content: dict[str, Any], **resources: Any) -> dict[str, Any]:
    content["linux"]["resources"] |= resources
    return content


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── CPU ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("burst", [0, 20_000])
def test_what_was_not_used_of_a_quota_may_be_used_later_if_bursts_are_granted(bundle: Bundle, burst: int) -> None:
    """A fifth of a CPU, for a program that rests and then wants more than that for a moment."""
    script = "while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; usleep 400000; done"
    content = limited(config("sh", "-c", script), cpu={"quota": 20_000, "period": 100_000, "burst": burst})
    with bundle.living(content) as name:
        stat = group_of(bundle, name, "cpu") / "cpu.stat"
        if "nr_bursts" not in stat.read_text():
            pytest.skip("this kernel counts no bursts (before 5.15)")
        assert eventually(lambda: counted(stat, "nr_bursts" if burst else "nr_throttled") > 0, 90)
        assert (counted(stat, "nr_bursts") > 0) is (burst > 0)


def test_an_idle_container_gets_what_others_leave(bundle: Bundle) -> None:
    """The idle one is made and started beside one that leaves nothing: only its program is idle."""
    busy = ("sh", "-c", "while :; do :; done")
    cpus = str(min(os.sched_getaffinity(0)))
    with (
        bundle.living(limited(config(*busy), cpu={"cpus": cpus, "mems": "0"})) as ordinary,
        bundle.living(limited(config(*busy), cpu={"cpus": cpus, "mems": "0", "idle": 1})) as idle,
    ):
        pids = [bundle.pid(name) for name in (ordinary, idle)]
        before = [cpu_seconds(pid) for pid in pids]
        assert eventually(lambda: cpu_seconds(pids[0]) - before[0] > 1, 90)
        used = [cpu_seconds(pid) - then for pid, then in zip(pids, before, strict=True)]
    assert used[0] > 5 * used[1], f"ordinary and idle used {used} seconds"


@pytest.fixture
def realtime() -> Iterator[str]:
    """A group whose containers may have realtime."""
    if not Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists():
        pytest.skip("this kernel gives no realtime to control groups: that takes cgroup v1 and RT_GROUP_SCHED")
    name = f"/cove-realtime-{os.getpid()}"
    yield name
    for directory in Path("/sys/fs/cgroup").glob(f"*{name}"):
        directory.rmdir()


def test_realtime_is_had_for_its_runtime_in_each_period(bundle: Bundle, realtime: str) -> None:
    """A program before all others runs, and waits for the next period, as the kernel counts both.

    Each container begins as soon as the one before has ended, in a group that has just enough for one.
    """
    for share in (90_000, 10_000, 90_000):
        content = limited(
            config("sh", "-c", "while :; do :; done"), cpu={"realtimeRuntime": share, "realtimePeriod": 100_000}
        )
        content["process"]["scheduler"] = {"policy": "SCHED_FIFO", "priority": 1}
        for names in content["process"]["capabilities"].values():
            names.append("CAP_SYS_NICE")
        content["linux"]["cgroupsPath"] = f"{realtime}/own"
        with bundle.living(content) as name:
            counts = Path(f"/proc/{bundle.pid(name)}/schedstat")
            times = lambda counts=counts: [int(each) / 1e9 for each in counts.read_text().split()[:2]]  # noqa: E731
            assert eventually(lambda times=times: sum(times()) > 0.6)
            ran, waited = times()
        assert ran > 2 * waited if share == 90_000 else waited > 2 * ran, f"ran {ran} s, waited {waited} s"


def test_memory_lies_on_the_nodes_that_are_granted(bundle: Bundle) -> None:
    """Of a pipeline one of whose processes keeps 20 MB."""
    nodes = sorted(each.name.removeprefix("node") for each in Path("/sys/devices/system/node").glob("node[0-9]*"))
    if len(nodes) < 2:
        pytest.skip("this host has one memory node: the guest of `make test-guest` has two")
    if not UNIFIED:
        pytest.skip("which node a group's memory lies on is read from files of cgroup v2")
    script = "head -c 20000000 /dev/zero | tail -c 20000000 | sleep 600"
    for node in nodes:
        with bundle.living(limited(config("sh", "-c", script), cpu={"mems": node})) as name:
            stat = group_of(bundle, name, "memory") / "memory.numa_stat"

            def anonymous(stat: Path = stat) -> dict[str, int]:
                words = next(line for line in stat.read_text().splitlines() if line.startswith("anon ")).split()[1:]
                return {where[1:]: int(size) for where, _, size in (each.partition("=") for each in words)}

            assert eventually(lambda anonymous=anonymous: sum(anonymous().values()) > 16 * MIB)
            found = anonymous()
        assert all(size > 16 * MIB if where == node else size < MIB for where, size in found.items()), found


@version_2
def test_the_pressure_of_a_throttled_container_is_told(bundle: Bundle) -> None:
    content = limited(config("sh", "-c", "while :; do :; done"), cpu={"quota": 10_000, "period": 100_000})
    with bundle.living(content) as name:

        def waited() -> dict[str, Any]:
            told = json.loads(bundle.call("events", "--stats", name).stdout)["data"]
            assert {"cpu", "memory", "blkio"} <= {kind for kind, value in told.items() if "psi" in value}
            return told["cpu"]["psi"]  # type: ignore[no-any-return]

        assert eventually(lambda: waited()["some"]["total"] > 200_000)
        assert set(waited()["full"]) == {"avg10", "avg60", "avg300", "total"}


# ── memory ────────────────────────────────────────────────────────────────────────────────────────


@version_2
def test_beyond_memory_high_pages_are_taken_back_and_nobody_is_killed(bundle: Bundle) -> None:
    script = "dd if=/dev/zero of=/tmp/large bs=1M count=48 && rm /tmp/large && exec sleep 600"
    content = limited(config("sh", "-c", script), unified={"memory.high": str(16 * MIB)})
    with bundle.living(content) as name:
        group = group_of(bundle, name, "memory")
        assert eventually(lambda: Path(f"/proc/{bundle.pid(name)}/comm").read_text() == "sleep\n")
        assert counted(group / "memory.events", "high") > 0
        assert counted(group / "memory.events", "oom_kill") == 0
        if (group / "memory.peak").exists():
            assert int((group / "memory.peak").read_text()) < 40 * MIB


@pytest.fixture
def parent() -> Iterator[str]:
    """A group that may use 64 MiB, for containers to share."""
    name = f"/cove-shared-{os.getpid()}"
    place = Path(f"/sys/fs/cgroup{name}")
    place.mkdir()
    (place / "memory.max").write_text(str(64 * MIB))
    yield name
    place.rmdir()


@version_2
@pytest.mark.parametrize("kept", [True, False])
def test_a_reservation_keeps_its_memory_when_a_neighbour_wants_it(bundle: Bundle, parent: str, kept: bool) -> None:
    """Files that were read: the one who has a reservation keeps them in memory, the other one loses them."""
    for name, size in (("mine", 24), ("theirs", 96)):
        with (bundle.rootfs / "tmp" / name).open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mine = config("sh", "-c", "cat /tmp/mine > /dev/null; exec sleep 600")
    mine["linux"]["cgroupsPath"] = f"{parent}/mine"
    limited(mine, memory={"reservation": 32 * MIB} if kept else {})
    theirs = config("sh", "-c", "for i in 1 2; do cat /tmp/theirs > /dev/null; done")
    theirs["linux"]["cgroupsPath"] = f"{parent}/theirs"
    try:
        with bundle.living(mine) as name:
            assert eventually(lambda: Path(f"/proc/{bundle.pid(name)}/comm").read_text() == "sleep\n")
            stat = group_of(bundle, name, "memory") / "memory.stat"
            assert counted(stat, "file") > 20 * MIB
            bundle.out(theirs)
            assert (counted(stat, "file") > 20 * MIB) is kept
    finally:
        for left in ("mine", "theirs"):
            (bundle.rootfs / "tmp" / left).unlink()


# ── huge pages ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pages() -> Iterator[None]:
    """Eight huge pages of 2 MiB."""
    number = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    controllers = Path("/sys/fs/cgroup/cgroup.controllers") if UNIFIED else Path("/sys/fs/cgroup/hugetlb")
    if not (controllers.exists() and number.exists()) or (UNIFIED and "hugetlb" not in controllers.read_text()):
        pytest.skip("this host limits no huge pages: it has them not, or not the controller hugetlb")
    if not UNIFIED and not controllers.is_mount():
        pytest.skip("this host limits no huge pages: the controller hugetlb is not mounted")
    before = number.read_text()
    number.write_text("8")
    try:
        if int(number.read_text()) < 8:
            pytest.skip("this host has no room for eight huge pages")
        yield
    finally:
        number.write_text(before)


@pytest.mark.usefixtures("pages")
def test_huge_pages_end_at_their_limit_and_are_counted(bundle: Bundle) -> None:
    script = "fallocate -l 4194304 /mnt/one && ! fallocate -l 2097152 /mnt/two && echo refused; exec sleep 600"
    content = limited(config("sh", "-c", script), hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}])
    (bundle.rootfs / "mnt").mkdir(exist_ok=True)
    content["mounts"].append(
        {"destination": "/mnt", "type": "hugetlbfs", "source": "none", "options": ["pagesize=2M"]}
    )
    with bundle.living(content) as name:
        assert eventually(lambda: Path(f"/proc/{bundle.pid(name)}/comm").read_text() == "sleep\n")
        assert "refused" in (bundle.path / "said").read_text()
        if UNIFIED:
            told = json.loads(bundle.call("events", "--stats", name).stdout)["data"]["hugetlb"]["2MB"]
            assert (told["usage"], told["max"]) == (4 * MIB, 4 * MIB)
            assert told["failcnt"] > 0
