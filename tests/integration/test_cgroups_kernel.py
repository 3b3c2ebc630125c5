"""Control groups without containers: each field of the specification's resources, and what the kernel makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import InvalidArgument, Unsupported
from cove.kernel.cgroups import Cgroups
from cove.oci.spec import (
    BlockIOLimits,
    CPULimits,
    HugepageLimit,
    InterfacePriority,
    MemoryLimits,
    NetworkLimits,
    Rdma,
    Resources,
    ThrottleDevice,
)
from tests.conftest import PATIENCE, eventually

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
second = pytest.mark.skipif(not UNIFIED, reason="this host has cgroup v1; `make test-guest` has v2")
PATH = f"/cove-kernel-{os.getpid()}/box"


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    made = Cgroups.detect(PATH.split("/")[1])
    made.create(PATH, None)
    yield made
    made.kill(PATH)
    made.remove(PATH)
    made.remove_parent()


@pytest.fixture
def sleeper(cgroups: Cgroups) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    cgroups.attach(PATH, process.pid)
    yield process
    process.kill()
    process.wait()


def content(cgroups: Cgroups, name: str) -> str:
    found = next(path for each in cgroups.directories(PATH) if (path := Path(each, name)).exists())
    return found.read_text().strip()


def has(cgroups: Cgroups, name: str) -> bool:
    return any(Path(each, name).exists() for each in cgroups.directories(PATH))


def test_quota_period_and_burst_change_in_any_direction(cgroups: Cgroups) -> None:
    burst = "cpu.max.burst" if UNIFIED else "cpu.cfs_burst_us"
    for quota, period, more in ((50_000, 100_000, 50_000), (10_000, 20_000, 10_000), (90_000, 200_000, 0)):
        cgroups.update(PATH, Resources(cpu=CPULimits(quota=quota, period=period, burst=more)))
        if UNIFIED:
            assert content(cgroups, "cpu.max") == f"{quota} {period}"
        else:
            assert content(cgroups, "cpu.cfs_quota_us") == str(quota)
            assert content(cgroups, "cpu.cfs_period_us") == str(period)
        assert content(cgroups, burst) == str(more)
    cgroups.update(PATH, Resources(cpu=CPULimits(quota=-1)))
    assert content(cgroups, "cpu.max" if UNIFIED else "cpu.cfs_quota_us").split()[0] == ("max" if UNIFIED else "-1")


def test_idle_and_shares_take_turns(cgroups: Cgroups) -> None:
    cgroups.update(PATH, Resources(cpu=CPULimits(idle=1)))
    assert content(cgroups, "cpu.idle") == "1"
    cgroups.update(PATH, Resources(cpu=CPULimits(idle=0, shares=2048)))
    assert content(cgroups, "cpu.idle") == "0"
    assert content(cgroups, "cpu.weight" if UNIFIED else "cpu.shares") == ("174" if UNIFIED else "2048")


def test_memory_and_swap_rise_and_fall_together(cgroups: Cgroups) -> None:
    limit = "memory.max" if UNIFIED else "memory.limit_in_bytes"
    for size in (64 << 20, 128 << 20, 32 << 20):
        cgroups.update(PATH, Resources(memory=MemoryLimits(limit=size, swap=2 * size, reservation=size // 2)))
        assert content(cgroups, limit) == str(size)
    with pytest.raises(InvalidArgument, match="memory"):
        cgroups.update(PATH, Resources(memory=MemoryLimits(limit=64 << 20, swap=32 << 20)))


def test_pages_devices_and_fabrics(cgroups: Cgroups) -> None:
    suffix = "max" if UNIFIED else "limit_in_bytes"
    pages = Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 << 20),))
    if has(cgroups, f"hugetlb.2MB.{suffix}"):
        cgroups.update(PATH, pages)
        assert content(cgroups, f"hugetlb.2MB.{suffix}") == str(4 << 20)
    else:
        with pytest.raises(InvalidArgument, match=f"no hugetlb.2MB.{suffix} control file"):
            cgroups.update(PATH, pages)
    with pytest.raises(InvalidArgument, match=r"rdma\.max"):  # there is no such device
        cgroups.update(PATH, Resources(rdma={"none0": Rdma(hca_handles=3)}))


def test_weights_of_block_io_are_set_or_refused_by_their_files_names(cgroups: Cgroups) -> None:
    asked = Resources(block_io=BlockIOLimits(weight=500))
    files = {"io.bfq.weight": "500", "io.weight": "4950", "blkio.weight": "500", "blkio.bfq.weight": "500"}
    there = [name for name in files if has(cgroups, name)]
    if there:
        cgroups.update(PATH, asked)
        assert content(cgroups, there[0]).removeprefix("default ") == files[there[0]]
    else:
        with pytest.raises(InvalidArgument, match=r"no (io|blkio\.bfq)\.weight control file"):
            cgroups.update(PATH, asked)
    with pytest.raises((InvalidArgument, Unsupported), match=r"[Ll]eaf|leaf_weight"):
        cgroups.update(PATH, Resources(block_io=BlockIOLimits(leaf_weight=300)))


def test_network_class_and_priority_are_version_1s(cgroups: Cgroups) -> None:
    asked = Resources(
        network=NetworkLimits(class_id=0x100001, priorities=(InterfacePriority(name="lo", priority=5),))
    )
    if UNIFIED:
        with pytest.raises(Unsupported, match="only with cgroup v1"):
            cgroups.update(PATH, asked)
    elif has(cgroups, "net_cls.classid"):
        cgroups.update(PATH, asked)
        assert content(cgroups, "net_cls.classid") == str(0x100001)
        assert "lo 5" in content(cgroups, "net_prio.ifpriomap").splitlines()
    else:
        with pytest.raises(InvalidArgument, match=r"no net_cls\.classid control file"):
            cgroups.update(PATH, asked)


def test_unified_files(cgroups: Cgroups) -> None:
    asked = Resources(unified={"memory.high": "33554432", "cpu.weight": "77", "pids.max": "9"})
    if not UNIFIED:
        with pytest.raises(Unsupported, match=r"cpu\.weight, memory\.high, pids\.max"):
            cgroups.update(PATH, asked)
        return
    cgroups.update(PATH, asked)
    assert [content(cgroups, name) for name in asked.unified] == ["33554432", "77", "9"]
    for name, value, told in (
        ("memory.high", "much", "much as memory.high"),
        ("no.such", "1", "cgroup controller `no` is not available"),
        ("memory.such", "1", "memory.such: no such file or directory"),
        ("memory", "1", "not the form CONTROLLER.VALUE `memory`"),
        ("../cgroup.procs", "1", "not the form CONTROLLER.VALUE"),
    ):
        with pytest.raises(InvalidArgument, match=told):
            cgroups.update(PATH, Resources(unified={name: value}))


def test_a_refusal_names_file_value_and_reason(cgroups: Cgroups) -> None:
    file = "cpuset.cpus"
    with pytest.raises(InvalidArgument, match=rf"4000 as the set of CPUs \(in {file}\): "):
        cgroups.update(PATH, Resources(cpu=CPULimits(cpus="4000")))
    throttle = BlockIOLimits(throttle_read_bps_device=(ThrottleDevice(major=240, minor=77, rate=1),))
    with pytest.raises(InvalidArgument, match=r"rate of device 240:77 .*No such device"):
        cgroups.update(PATH, Resources(block_io=throttle))


def test_stop_go_and_use(cgroups: Cgroups, sleeper: subprocess.Popen[bytes]) -> None:
    cgroups.freeze(PATH, True)
    cgroups.freeze(PATH, False)
    used = cgroups.stats(PATH)
    assert used.pids == 1
    assert used.memory_peak >= used.memory or cgroups.memory_peak(PATH) == 0
    if UNIFIED:
        assert set(used.pressure) == {"cpu", "memory", "io"}
    cgroups.kill(PATH)
    assert sleeper.wait(60 * PATIENCE) == -signal.SIGKILL
    assert cgroups.procs(PATH) == []


@second
def test_a_divided_group_still_takes_processes(cgroups: Cgroups, sleeper: subprocess.Popen[bytes]) -> None:
    """A container's own systemd divides its group, which then takes no process: an exec goes beside the first one."""
    group = Path(cgroups.directories(PATH)[0])
    (group / "init.scope").mkdir()
    (group / "init.scope/cgroup.procs").write_text(str(sleeper.pid))
    (group / "cgroup.subtree_control").write_text("+memory +pids")
    with pytest.raises(OSError, match="busy"):
        (group / "cgroup.procs").write_text(str(sleeper.pid))
    with cgroups.birthplace(PATH, beside=sleeper.pid) as place:
        assert place.directory is not None
        assert os.path.samestat(os.fstat(place.directory), os.stat(group / "init.scope"))


@second
def test_a_kill_for_memory_is_heard(cgroups: Cgroups) -> None:
    from cove.kernel.cgroups import drain_events

    cgroups.update(PATH, Resources(memory=MemoryLimits(limit=16 << 20, swap=16 << 20)))
    events = cgroups.open_oom_events(PATH)
    assert events is not None
    hungry = "import os; os.read(0, 1); x = bytearray(64 << 20)"
    process = subprocess.Popen(["python3", "-c", hungry], stdin=subprocess.PIPE)
    cgroups.attach(PATH, process.pid)
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.close()
    assert process.wait(60 * PATIENCE) == -signal.SIGKILL
    assert eventually(lambda: cgroups.oom_kills(PATH))
    drain_events(events)
    os.close(events)
    assert cgroups.oom_kills(PATH) == 1
