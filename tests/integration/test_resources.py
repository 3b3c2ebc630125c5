"""What each limit does, measured, and where it stands in the kernel; through `cove` and the `docker` client.

Measured is CPU time, never the clock's, but where a limit is a rate; tolerances are wide, for the machine may be
busy or emulated. A limit is also looked up in the container's control group, on version 1 and 2 alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.integration.api_client import Api

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
MIB = 1 << 20
BUSY = ("busybox", "sh", "-c", "while :; do :; done")
SLEEP = ("busybox", "sleep", "600")

Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["cove", "docker"])
def client(request: pytest.FixtureRequest, daemon: Daemon) -> Client:
    """The same demand through each command."""
    return getattr(daemon, request.param)  # type: ignore[no-any-return]


@contextmanager
def running(client: Client, *words: str) -> Iterator[str]:
    """A container of those words, for as long as the block takes."""
    identity = client("run", "-d", *words).stdout.strip()
    try:
        yield identity
    finally:
        client("rm", "-f", identity)


def control_file(daemon: Daemon, identity: str, controller: str, name: str) -> Path:
    """A control file of the container's group; on version 2 the controller does not matter."""
    pid = daemon.cove("inspect", "-f", "{{.State.Pid}}", identity).stdout.strip()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if (UNIFIED and not names) or (not UNIFIED and controller in names.split(",")):
            return Path("/sys/fs/cgroup") / ("" if UNIFIED else controller) / path.strip("/") / name
    pytest.fail(f"{identity} has no control group of {controller}")


def sample(daemon: Daemon, identity: str) -> dict[str, dict[str, object]]:
    """One measurement, as the API has it."""
    import docker

    with_socket = docker.DockerClient(base_url=daemon.host)
    try:
        return with_socket.api.stats(identity, stream=False, one_shot=True)  # type: ignore[no-any-return]
    finally:
        with_socket.close()


def cpu_of(stats: dict[str, dict[str, object]]) -> tuple[float, int, int]:
    """(CPU seconds used, periods of 100 ms of the quota that went by, those in which it was used up)."""
    cpu, counted = stats["cpu_stats"], stats["cpu_stats"]["throttling_data"]
    used = cpu["cpu_usage"]["total_usage"] / 1e9  # type: ignore[index]
    return used, counted["periods"], counted["throttled_periods"]  # type: ignore[index]


def keeps_to(daemon: Daemon, identity: str, quota: float, periods: int = 8) -> bool:
    """Whether so many CPUs are used while periods go by, or fewer where it is others who leave no more."""
    used, begun, full = cpu_of(sample(daemon, identity))
    assert eventually(lambda: cpu_of(sample(daemon, identity))[1] - begun >= periods, 60), "its periods do not go by"
    now, passed, filled = cpu_of(sample(daemon, identity))
    share = (now - used) / ((passed - begun) * 0.1)
    return share < quota + 0.12 and (share > 0.4 * quota or filled == full)


# ── CPU ───────────────────────────────────────────────────────────────────────────────────────────


def test_half_a_cpu_is_half_a_cpu_and_an_update_makes_it_a_tenth(daemon: Daemon) -> None:
    with running(daemon.cove, "--cpus", "0.5", *BUSY) as identity:
        assert eventually(lambda: keeps_to(daemon, identity, 0.5))
        daemon.docker("update", "--cpus", "0.1", identity)
        assert eventually(lambda: keeps_to(daemon, identity, 0.1))
        assert eventually(lambda: cpu_of(sample(daemon, identity))[2] > 0), "it was held back"


def test_shares_divide_a_cpu_between_containers(daemon: Daemon) -> None:
    pinned = ("--cpuset-cpus", "0", "--cpu-shares")
    with (
        running(daemon.cove, *pinned, "2048", *BUSY) as large,
        running(daemon.cove, *pinned, "256", *BUSY) as small,
    ):
        before = [cpu_of(sample(daemon, each))[0] for each in (large, small)]

        def used() -> list[float]:
            return [cpu_of(sample(daemon, each))[0] - then for each, then in zip((large, small), before, strict=True)]

        assert eventually(lambda: sum(used()) > 1.5, 60)
        large_used, small_used = used()
    assert large_used > 2.5 * small_used, f"eight times the shares: {large_used} s beside {small_used} s"


def test_a_cpuset_is_all_a_container_sees(daemon: Daemon) -> None:
    script = "grep Cpus_allowed_list /proc/self/status"
    done = daemon.docker("run", "--rm", "--cpuset-cpus", "0", "--cpuset-mems", "0", "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["Cpus_allowed_list:", "0"]


# ── memory ────────────────────────────────────────────────────────────────────────────────────────


def test_more_memory_than_the_limit_is_death_told_by_every_door(client: Client, daemon: Daemon) -> None:
    since = str(int(time.time()))
    words = ("--name", "greedy", "--memory", "24m", "--memory-swap", "24m")
    try:
        done = client("run", *words, "busybox", "sh", "-c", "x=a; while :; do x=$x$x; done", check=False)
        assert done.returncode == 137
        state = json.loads(client("inspect", "greedy").stdout)[0]["State"]
        assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")
        assert 16 * MIB < state["MemoryPeak"] <= 24 * MIB
        until = str(int(time.time()) + 1)
        words = ("--since", since, "--until", until, "--filter", "container=greedy", "--format", "{{.Action}}")
        events = client("events", *words).stdout.split()
        assert events.index("oom") < events.index("die")
    finally:
        client("rm", "-f", "greedy")


def test_an_oom_of_another_process_lets_the_container_live(daemon: Daemon) -> None:
    script = "x=a; while :; do x=$x$x; done"
    with running(daemon.cove, "--memory", "24m", "--memory-swap", "24m", *SLEEP) as identity:
        assert daemon.cove("exec", identity, "sh", "-c", script, check=False).returncode == 137
        shown = ("inspect", "-f", "{{.State.Running}} {{.State.OOMKilled}}", identity)
        assert eventually(lambda: daemon.cove(*shown).stdout == "true true\n")


def test_memory_in_use_its_limit_and_peak_are_shown(client: Client, daemon: Daemon) -> None:
    script = "head -c 16000000 /dev/zero | tail -c 16000000 | sleep 600"
    with running(client, "--memory", "64m", "busybox", "sh", "-c", script) as identity:
        assert eventually(lambda: sample(daemon, identity)["memory_stats"]["usage"] > 8 * MIB)  # type: ignore[operator]
        memory = sample(daemon, identity)["memory_stats"]
        assert 8 * MIB < memory["usage"] < 64 * MIB  # type: ignore[operator]
        assert memory["limit"] == 64 * MIB
        assert memory["max_usage"] >= memory["usage"]  # type: ignore[operator]
        assert daemon.cove("stats", "--no-stream", "--format", "{{.MemPeak}}", identity).stdout.strip() != "--"
        waits = daemon.cove("stats", "--no-stream", "--format", "{{.Pressure}}", identity).stdout.split()
        assert waits[::2] == (["cpu", "memory", "io"] if UNIFIED else ["--"])
        line = client("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", identity).stdout.split()
        assert "/ 64MiB" in " ".join(line)
        assert int(line[-1]) >= 2


def test_a_new_memory_limit_acts_at_once(daemon: Daemon) -> None:
    hungry = ("sh", "-c", "head -c 40000000 /dev/zero | tail -c 40000000 | wc -c")
    with running(daemon.cove, "--memory", "16m", "--memory-swap", "16m", *SLEEP) as identity:
        assert "40000000" not in daemon.cove("exec", identity, *hungry, check=False).stdout
        daemon.docker("update", "--memory", "96m", "--memory-swap", "96m", identity)
        assert daemon.cove("exec", identity, *hungry).stdout.strip() == "40000000"
        host = json.loads(daemon.cove("inspect", identity).stdout)[0]["HostConfig"]
        assert (host["Memory"], host["MemorySwap"]) == (96 * MIB, 96 * MIB)


# ── processes ─────────────────────────────────────────────────────────────────────────────────────


def test_a_fork_bomb_meets_the_limit_and_more_is_granted_live(client: Client, daemon: Daemon) -> None:
    bomb = "for i in $(seq 40); do sleep 600 & done; wait"
    with running(client, "--pids-limit", "12", "busybox", "sh", "-c", bomb) as identity:
        assert eventually(lambda: "can't fork" in client("logs", identity).stderr)
    with running(client, "--pids-limit", "2", *SLEEP) as identity:
        several = ("sh", "-c", "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait; echo done")
        assert "done" not in client("exec", identity, *several, check=False).stdout
        client("update", "--pids-limit", "20", identity)
        assert client("exec", identity, *several).stdout == "done\n"
        client("update", "--pids-limit", "-1", identity)
        assert control_file(daemon, identity, "pids", "pids.max").read_text() == "max\n"


# ── block I/O ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A loop device of the test's own, of 16 MiB."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this machine gives no loop device: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.parametrize(
    ("limit", "rate", "command", "least"),
    [
        ("--device-write-bps", "1mb", "dd if=/dev/zero of={} bs=128k count=20 oflag=direct", 1.5),
        ("--device-read-bps", "1mb", "dd if={} of=/dev/null bs=128k count=20 iflag=direct", 1.5),
        ("--device-write-iops", "20", "dd if=/dev/zero of={} bs=4k count=40 oflag=direct", 1.2),
        ("--device-read-iops", "20", "dd if={} of=/dev/null bs=4k count=40 iflag=direct", 1.2),
    ],
)
def test_a_device_is_as_slow_as_its_limit(
    daemon: Daemon, disk: str, limit: str, rate: str, command: str, least: float
) -> None:
    """2.6 MB at 1 MB/s, or 40 operations at 20/s: more than two seconds, but for what the first slice gives away."""
    words = ("--device", disk, limit, f"{disk}:{rate}", "busybox", "sh", "-c")
    now = "$(cut -d' ' -f1 /proc/uptime)"
    script = f"begun={now}; {command.format(disk)} 2>/dev/null; echo $begun {now}"
    with running(daemon.cove, *words, script) as identity:
        assert daemon.cove("wait", identity).stdout.strip() == "0"
        begun, ended = map(float, daemon.cove("logs", identity).stdout.split())
    assert least < ended - begun


def test_block_io_is_counted(daemon: Daemon, disk: str) -> None:
    script = f"dd if=/dev/zero of={disk} bs=64k count=32 oflag=direct; sleep 600"
    with running(daemon.cove, "--device", disk, "busybox", "sh", "-c", script) as identity:
        number = os.stat(disk).st_rdev

        def written() -> int:
            entries = sample(daemon, identity)["blkio_stats"]["io_service_bytes_recursive"] or []
            return sum(
                each["value"]
                for each in entries  # type: ignore[attr-defined]
                if (each["major"], each["minor"], each["op"].lower()) == (os.major(number), os.minor(number), "write")
            )

        assert eventually(lambda: written() == 2 * MIB)
        shown = daemon.docker("stats", "--no-stream", "--format", "{{.BlockIO}}", identity).stdout
        assert shown.split("/")[1].strip() == "2.1MB"


# ── every flag, where the kernel keeps it ─────────────────────────────────────────────────────────

FLAGS = [
    ("--cpu-shares", "512", "cpu", ("cpu.shares", "512"), ("cpu.weight", "59")),
    ("--cpus", "0.25", "cpu", ("cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 100000")),
    ("--cpu-quota", "30000", "cpu", ("cpu.cfs_quota_us", "30000"), ("cpu.max", "30000 100000")),
    ("--cpu-period", "50000", "cpu", ("cpu.cfs_period_us", "50000"), ("cpu.max", "max 50000")),
    ("--cpuset-cpus", "0", "cpuset", ("cpuset.cpus", "0"), ("cpuset.cpus", "0")),
    ("--cpuset-mems", "0", "cpuset", ("cpuset.mems", "0"), ("cpuset.mems", "0")),
    ("--memory", "32m", "memory", ("memory.limit_in_bytes", str(32 * MIB)), ("memory.max", str(32 * MIB))),
    ("--memory-reservation", "16m", "memory", ("memory.soft_limit_in_bytes", "16777216"), ("memory.low", "16777216")),
    ("--pids-limit", "77", "pids", ("pids.max", "77"), ("pids.max", "77")),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "value", "controller", "first", "second"), FLAGS, ids=[each[0] for each in FLAGS])
def test_a_flag_of_run_and_update_reaches_its_control_file(
    daemon: Daemon, flag: str, value: str, controller: str, first: tuple[str, str], second: tuple[str, str]
) -> None:
    name, content = second if UNIFIED else first
    with running(daemon.docker, flag, value, *SLEEP) as identity:
        assert control_file(daemon, identity, controller, name).read_text().strip() == content
    with running(daemon.docker, *SLEEP) as identity:
        client = daemon.cove if flag in ("--cpus", "--cpuset-mems") else daemon.docker
        swap = ("--memory-swap", "64m") if flag == "--memory" else ()
        client("update", flag, value, *swap, identity)
        assert control_file(daemon, identity, controller, name).read_text().strip() == content


def test_swap_beside_memory(daemon: Daemon) -> None:
    name = "memory.swap.max" if UNIFIED else "memory.memsw.limit_in_bytes"
    for asked, content in (("48m", 16 * MIB if UNIFIED else 48 * MIB), ("-1", None)):
        with running(daemon.docker, "--memory", "32m", "--memory-swap", asked, *SLEEP) as identity:
            file = control_file(daemon, identity, "memory", name)
            if not file.exists():
                pytest.skip(f"this kernel does not account for swap: it has no {name}")
            found = file.read_text().strip()
            assert found == str(content) if content else found == "max" or int(found) > 1 << 60


@pytest.mark.skipif(UNIFIED, reason="exists only with cgroup v1")
def test_what_only_version_1_has(daemon: Daemon) -> None:
    words = ("--memory", "32m", "--memory-swappiness", "7", "--oom-kill-disable")
    with running(daemon.docker, *words, *SLEEP) as identity:
        assert control_file(daemon, identity, "memory", "memory.swappiness").read_text() == "7\n"
        assert "oom_kill_disable 1" in control_file(daemon, identity, "memory", "memory.oom_control").read_text()


@pytest.mark.skipif(
    not Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists(), reason="this kernel divides no realtime among groups"
)
def test_realtime_is_granted_by_the_groups_above(daemon: Daemon) -> None:
    with running(daemon.docker, "--cpu-rt-runtime", "2000", "--cpu-rt-period", "500000", *SLEEP) as identity:
        assert control_file(daemon, identity, "cpu", "cpu.rt_runtime_us").read_text() == "2000\n"
        assert control_file(daemon, identity, "cpu", "cpu.rt_period_us").read_text() == "500000\n"


@pytest.mark.skipif(not UNIFIED, reason="exists only with cgroup v2")
@pytest.mark.parametrize(
    "words", [("--memory-swappiness", "7"), ("--oom-kill-disable",), ("--cpu-rt-runtime", "1000")]
)
def test_what_version_2_lacks_is_refused_by_name(daemon: Daemon, words: tuple[str, ...]) -> None:
    done = daemon.docker("run", "--rm", "--memory", "32m", *words, "busybox", "true", check=False)
    assert done.returncode == 125
    assert "only with cgroup v1" in done.stderr


def test_throttles_of_devices_stand_in_the_kernel(daemon: Daemon, disk: str) -> None:
    words = [
        word
        for kind in ("bps", "iops")
        for op in ("read", "write")
        for word in (f"--device-{op}-{kind}", f"{disk}:4096")
    ]
    number = os.stat(disk).st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    with running(daemon.docker, *words, *SLEEP) as identity:
        if UNIFIED:
            lines = control_file(daemon, identity, "", "io.max").read_text().splitlines()
            assert f"{name} rbps=4096 wbps=4096 riops=4096 wiops=4096" in lines
            return
        for file in ("read_bps", "write_bps", "read_iops", "write_iops"):
            path = control_file(daemon, identity, "blkio", f"blkio.throttle.{file}_device")
            assert path.read_text().split() == [name, "4096"]


def test_throttles_of_devices_are_updated_and_cleared(daemon: Daemon, disk: str) -> None:
    limit = {"BlkioDeviceReadBps": [{"Path": disk, "Rate": 4096}]}
    number = os.stat(disk).st_rdev
    said = f"{os.major(number)}:{os.minor(number)}"
    with running(daemon.docker, *SLEEP) as identity:
        file = control_file(daemon, identity, "blkio", "io.max" if UNIFIED else "blkio.throttle.read_bps_device")
        for version, asked, there in (
            ("1.54", limit, False),
            ("1.55", limit, True),
            ("1.55", {"BlkioDeviceReadBps": None}, True),
            ("1.55", {"BlkioDeviceReadBps": []}, False),
        ):
            status, reply = Api(daemon, version).call("POST", f"/containers/{identity}/update", asked)
            assert (status, (said in file.read_text())) == (200, there), reply
            _, shown = Api(daemon).call("GET", f"/containers/{identity}/json")
            assert shown["HostConfig"]["BlkioDeviceReadBps"] == (limit["BlkioDeviceReadBps"] if there else [])


@pytest.fixture
def chosen() -> Iterator[str]:
    """A group for groups of containers, which is its maker's to remove."""
    yield "/cove-chosen/deep"
    for top in Path("/sys/fs/cgroup").glob("cove-chosen" if UNIFIED else "*/cove-chosen"):
        (top / "deep").rmdir()
        top.rmdir()


def test_where_a_group_lies_and_what_a_process_may(daemon: Daemon, chosen: str) -> None:
    words = ("--cgroup-parent", chosen, "--shm-size", "8m", "--ulimit", "nofile=256:512", "--oom-score-adj", "300")
    script = "df -k /dev/shm | tail -1; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"
    with running(daemon.docker, *words, *SLEEP) as identity:
        assert f"{chosen}/{identity}/" in str(control_file(daemon, identity, "pids", "pids.max"))
        lines = daemon.docker("exec", identity, "sh", "-c", script).stdout.splitlines()
    assert lines[0].split()[1] == "8192"
    assert lines[1:] == ["256", "512", "300"]


def test_a_group_is_the_root_of_what_its_container_sees_unless_it_shares_the_hosts(daemon: Daemon) -> None:
    shown = [
        daemon.docker("run", "--rm", *words, "busybox", "grep", "pids" if not UNIFIED else "0::", "/proc/self/cgroup")
        for words in ((), ("--cgroupns", "host"))
    ]
    assert [done.stdout.strip().endswith(":/") for done in shown] == [True, False]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--memory", "5m"), "Minimum memory limit allowed is 6MB"),
        (("--memory", "32m", "--memory-swap", "16m"), "Minimum memoryswap limit should be larger"),
        (("--memory-swap", "32m"), "You should always set the Memory limit"),
        (("--cpus", "1000"), "Range of CPUs is from 0.01 to"),
        (("--cpuset-cpus", "900"), "Requested CPUs are not available"),
        (("--cpu-period", "10"), "CPU cfs period"),
        (("--cpu-quota", "10"), "CPU cfs quota"),
        (("--blkio-weight", "5"), "Range of blkio weight is from 10 to 1000"),
        (("--device-read-bps", "/dev/no-such:1mb"), "/dev/no-such does not exist"),
        (("--device-write-iops", "/dev/null:10"), "/dev/null is no block device"),
        (("--cgroup-parent", "../up"), "invalid cgroup parent"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(daemon: Daemon, words: tuple[str, ...], sentence: str) -> None:
    done = daemon.docker("run", "--rm", *words, "busybox", "true", check=False)
    assert done.returncode == 125
    assert sentence in done.stderr


def test_a_limit_that_the_kernel_refuses_names_file_value_and_reason(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--pids-limit", "99999999999", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "refuses 99999999999 as the number of processes (in pids.max): Invalid argument" in done.stderr
