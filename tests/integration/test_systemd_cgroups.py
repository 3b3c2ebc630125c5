"""Control groups made by systemd: `--exec-opt native.cgroupdriver=systemd` and `cove-oci --systemd-cgroup`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, BUSYBOX, Daemon, eventually, stocked

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/run/systemd/system"), reason="systemd is not this host's init; `make test-guest` has it"
)
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()


@pytest.fixture(scope="module")
def systemd(archive: Path) -> Iterator[Daemon]:
    with stocked(archive, "--exec-opt", "native.cgroupdriver=systemd") as daemon:
        yield daemon


@pytest.fixture
def container(systemd: Daemon) -> Iterator[str]:
    words = ("--memory", "64m", "--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "30")
    identity = systemd.cove("run", "-d", *words, "busybox", "sleep", "600").stdout.strip()
    yield identity
    systemd.cove("rm", "-f", identity, check=False)


def group_of(daemon: Daemon, identity: str) -> Path:
    """The container's group of the memory controller, or of them all."""
    pid = daemon.cove("inspect", "-f", "{{.State.Pid}}", identity).stdout.strip()
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    wanted = "" if UNIFIED else "memory"
    path = next(path for _, names, path in (line.split(":", 2) for line in lines) if wanted in names.split(","))
    return Path("/sys/fs/cgroup") / wanted / path.strip("/")


def shown(unit: str, *names: str) -> dict[str, str]:
    words = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def forgotten(unit: str) -> bool:
    """systemd collects a unit that has stopped a moment later."""
    return eventually(lambda: shown(unit, "LoadState")["LoadState"] == "not-found")


def test_a_container_is_a_scope_with_its_limits(systemd: Daemon, container: str) -> None:
    assert systemd.cove("info", "-f", "{{.CgroupDriver}}").stdout.strip() == "systemd"
    group = group_of(systemd, container)
    assert group.parent.name == "system.slice"
    assert group.name.endswith(f"-{container}.scope")
    unit = shown(group.name, "ActiveState", "Delegate", "TasksMax", "Slice", "CPUQuotaPerSecUSec")
    assert unit == {
        "ActiveState": "active",
        "Delegate": "yes",
        "TasksMax": "30",
        "Slice": "system.slice",
        "CPUQuotaPerSecUSec": "500ms",
    }
    limit = "memory.max" if UNIFIED else "memory.limit_in_bytes"
    assert (group / limit).read_text().strip() == str(64 << 20)


def test_limits_survive_a_reload_of_systemd(systemd: Daemon, container: str) -> None:
    systemd.cove("update", "--memory", "96m", "--memory-swap", "192m", "--pids-limit", "40", container)
    group = group_of(systemd, container)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    limit = "memory.max" if UNIFIED else "memory.limit_in_bytes"
    assert (group / limit).read_text().strip() == str(96 << 20)
    assert shown(group.name, "TasksMax") == {"TasksMax": "40"}
    assert systemd.cove("exec", container, "cat", "/dev/null").stdout == ""
    assert systemd.cove("exec", container, "sh", "-c", "mknod /d b 7 0 && cat /d", check=False).returncode != 0


def test_exec_stats_pause_and_top_find_the_scope(systemd: Daemon, container: str) -> None:
    assert systemd.cove("exec", container, "cat", "/proc/self/cgroup").stdout.splitlines()[-1].endswith(":/")
    assert systemd.cove("stats", "--no-stream", "--format", "{{.PIDs}}", container).stdout.strip() == "1"
    assert "sleep 600" in systemd.cove("top", container).stdout
    systemd.cove("pause", container)
    systemd.cove("unpause", container)


def test_the_end_of_a_container_is_the_end_of_its_scope(systemd: Daemon, container: str) -> None:
    group = group_of(systemd, container)
    systemd.cove("rm", "-f", container)
    assert not group.exists()
    assert forgotten(group.name)


def test_a_slice_may_be_chosen_and_only_a_slice(systemd: Daemon) -> None:
    words = ("--cgroup-parent", "covetest-deep.slice")
    identity = systemd.cove("run", "-d", *words, "busybox", "sleep", "600").stdout.strip()
    try:
        group = group_of(systemd, identity)
        assert [parent.name for parent in (group.parent.parent, group.parent)] == [
            "covetest.slice",
            "covetest-deep.slice",
        ]
    finally:
        systemd.cove("rm", "-f", identity)
        subprocess.run(["systemctl", "stop", "covetest.slice"], check=True)
    done = systemd.cove("run", "--cgroup-parent", "/plain", "busybox", "true", check=False)
    assert 'valid slice named as "xxx.slice"' in done.stderr


def test_another_driver_later_still_finds_the_container(systemd: Daemon, container: str) -> None:
    systemd.stop()
    systemd.extra = ()
    try:
        systemd.start()
        assert systemd.cove("info", "-f", "{{.CgroupDriver}}").stdout.strip() == "cgroupfs"
        assert systemd.cove("stats", "--no-stream", "--format", "{{.PIDs}}", container).stdout.strip() == "1"
        systemd.cove("rm", "-f", container)
    finally:
        systemd.stop()
        systemd.extra = ("--exec-opt", "native.cgroupdriver=systemd")
        systemd.start()


def test_cove_oci_asks_systemd(tmp_path: Path) -> None:
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy2(BUSYBOX, tmp_path / "rootfs/bin/sh")
    subprocess.run([BIN / "cove-oci", "spec"], cwd=tmp_path, check=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "cat /proc/1/cgroup"]}
    config["linux"]["cgroupsPath"] = "machine.slice:judge:box"
    config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "cgroup"]
    config["linux"]["resources"] = {"pids": {"limit": 20}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = [BIN / "cove-oci", "--root", tmp_path / "run", "--systemd-cgroup", "run", "--bundle", tmp_path, "box"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/machine.slice/judge-box.scope" in done.stdout
    assert forgotten("judge-box.scope")
