"""The stricter defaults, the security options and the devices that a user chooses, seen from inside a container."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Daemon


def out(daemon: Daemon, *words: str) -> str:
    return daemon.cove("run", "--rm", *words).stdout


def status(daemon: Daemon, *words: str) -> dict[str, str]:
    text = out(daemon, *words, "busybox", "cat", "/proc/self/status")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


# ── the stricter defaults ─────────────────────────────────────────────────────────────────────────


def test_hardened_is_the_table(daemon: Daemon) -> None:
    usual, strict = status(daemon), status(daemon, "--security", "hardened")
    dropped = int(usual["CapBnd"], 16) & ~int(strict["CapBnd"], 16)
    assert dropped == 1 << 27 | 1 << 13 | 1 << 29  # MKNOD, NET_RAW, AUDIT_WRITE
    assert (usual["NoNewPrivs"], strict["NoNewPrivs"]) == ("0", "1")
    assert strict["Seccomp"] == "2"
    script = "touch /x 2>/dev/null || echo read-only; touch /tmp-of-mine/x && echo tmp; readlink /proc/self/ns/time"
    done = out(daemon, "--security", "hardened", "--tmpfs", "/tmp-of-mine", "busybox", "sh", "-c", script)
    assert done.split()[:2] == ["read-only", "tmp"]
    assert done.split()[2] != os.readlink("/proc/self/ns/time")


def test_hardened_limits_processes_and_publishes_on_loopback(daemon: Daemon) -> None:
    words = ("--name", "strict", "--security", "hardened", "-p", "80", "busybox", "sleep", "60")
    daemon.cove("run", "-d", *words)
    try:
        shown = json.loads(daemon.docker("inspect", "strict").stdout)[0]
        assert shown["HostConfig"]["PidsLimit"] == 2048
        assert shown["HostConfig"]["ReadonlyRootfs"] is True
        assert shown["HostConfig"]["UsernsMode"] == "auto"
        root = int(Path(f"/proc/{shown['State']['Pid']}/uid_map").read_text().split()[1])
        assert root > 0
        assert Path(f"/proc/{shown['State']['Pid']}").stat().st_uid == root
        assert [each["HostIp"] for each in shown["NetworkSettings"]["Ports"]["80/tcp"]] == ["127.0.0.1"]
        pid = daemon.cove("inspect", "-f", "{{.State.Pid}}", "strict").stdout.strip()
        inside = daemon.cove(
            "exec", "strict", "sh", "-c", "grep NoNewPrivs /proc/self/status; readlink /proc/self/ns/time"
        )
        assert inside.stdout.split()[:2] == ["NoNewPrivs:", "1"]
        assert inside.stdout.split()[2] == os.readlink(f"/proc/{pid}/ns/time")
    finally:
        daemon.cove("rm", "-f", "strict")


def test_twin_what_a_user_says_in_words_stays(daemon: Daemon) -> None:
    words = ("--security", "hardened", "--cap-add", "NET_RAW", "--security-opt", "no-new-privileges=false")
    strict = status(daemon, *words)
    assert int(strict["CapBnd"], 16) >> 13 & 1
    assert strict["NoNewPrivs"] == "0"
    done = daemon.docker("run", "--rm", "--security-opt", "security=hardened", "busybox", "touch", "/x", check=False)
    assert "Read-only" in done.stderr


def test_hardened_and_privileged_contradict_each_other(daemon: Daemon) -> None:
    done = daemon.cove("run", "--rm", "--security", "hardened", "--privileged", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "contradict each other" in done.stderr


# ── security options ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("client", ["cove", "docker"])
def test_a_seccomp_profile_in_dockers_format(daemon: Daemon, tmp_path: Path, client: str) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        ],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    script = "mkdir /tmp/d; chmod 700 /tmp; touch /tmp/f && echo fine"
    words = ("--security-opt", f"seccomp={tmp_path}/profile.json")
    run = getattr(daemon, client)
    done = run("run", "--rm", *words, "busybox", "sh", "-c", script)
    assert done.stdout == "fine\n"
    assert "Function not implemented" in done.stderr
    assert "not permitted" in done.stderr
    admin = run("run", "--rm", "--cap-add", "SYS_ADMIN", *words, "busybox", "chmod", "700", "/tmp")
    assert admin.returncode == 0


def test_seccomp_can_be_left_out(daemon: Daemon) -> None:
    assert status(daemon)["Seccomp"] == "2"
    assert status(daemon, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"


def test_system_paths(daemon: Daemon) -> None:
    script = "stat -c %t:%T /proc/keys; grep -c ' /proc/sys ' /proc/mounts"
    assert out(daemon, "busybox", "sh", "-c", script).split() == ["1:3", "1"]
    done = daemon.cove(
        "run", "--rm", "--security-opt", "systempaths=unconfined", "busybox", "sh", "-c", script, check=False
    )
    assert done.stdout.split() == ["0:0", "0"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("apparmor=no-such-profile", "AppArmor"),
        ("seccomp=/no/such/file", "/no/such/file"),
        ("seccomp=/etc/hostname", "no valid profile"),
        ("security=iron", "invalid --security-opt"),
        ("no-new-privileges=perhaps", "invalid --security-opt"),
        ("nonsense", "invalid --security-opt"),
    ],
)
def test_what_cannot_be_honoured_is_refused(daemon: Daemon, option: str, sentence: str) -> None:
    done = daemon.cove("run", "--rm", "--security-opt", option, "busybox", "true", check=False)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(Path("/sys/fs/cgroup/cgroup.controllers").exists(), reason="this host has cgroup v2")
def test_writable_cgroups_need_version_2(daemon: Daemon) -> None:
    done = daemon.cove("run", "--rm", "--security-opt", "writable-cgroups", "busybox", "true", check=False)
    assert "needs cgroup v2" in done.stderr


@pytest.mark.skipif(not Path("/sys/fs/cgroup/cgroup.controllers").exists(), reason="this host has cgroup v1")
def test_a_container_may_divide_its_own_group(daemon: Daemon) -> None:
    script = "mkdir /sys/fs/cgroup/part && echo divided"
    assert out(daemon, "--security-opt", "writable-cgroups", "busybox", "sh", "-c", script) == "divided\n"
    done = daemon.cove("run", "--rm", "busybox", "sh", "-c", script, check=False)
    assert done.stdout == ""


# ── devices and privilege ─────────────────────────────────────────────────────────────────────────


def test_a_device_by_path_and_the_access_it_gives(daemon: Daemon) -> None:
    script = "stat -c %t:%T /dev/mine; (: < /dev/mine) && echo read; (: > /dev/mine)"
    done = daemon.cove("run", "--rm", "--device", "/dev/fuse:/dev/mine:r", "busybox", "sh", "-c", script, check=False)
    assert done.stdout == "a:e5\nread\n"
    assert "not permitted" in done.stderr


def test_a_directory_of_devices(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name, minor in (("one", 3), ("below/two", 5)):
        subprocess.run(["mknod", tmp_path / name, "c", "1", str(minor)], check=True)
    script = "stat -c %t:%T /dev/many/one /dev/many/below/two"
    assert out(daemon, "--device", f"{tmp_path}:/dev/many", "busybox", "sh", "-c", script) == "1:3\n1:5\n"


def test_a_device_rule_without_a_node(daemon: Daemon) -> None:
    script = "mknod /tmp/fuse c 10 229; (: < /tmp/fuse) && echo opened"
    assert daemon.cove("run", "--rm", "busybox", "sh", "-c", script, check=False).stdout == ""
    assert out(daemon, "--device-cgroup-rule", "c 10:229 rwm", "busybox", "sh", "-c", script) == "opened\n"


def test_privileged_has_everything(daemon: Daemon) -> None:
    free = status(daemon, "--privileged")
    host = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert int(free["CapEff"], 16) == int(host["CapBnd"].strip(), 16) & int(free["CapEff"], 16)
    assert free["Seccomp"] == "0"
    script = (
        "test -c /dev/fuse && echo devices; mount -t tmpfs none /tmp && echo mounts; test -w /proc/sys && echo sys"
    )
    assert out(daemon, "--privileged", "busybox", "sh", "-c", script).split() == ["devices", "mounts", "sys"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--device", "/dev/no-such"), "no such file"),
        (("--device", "/etc/hostname"), "not a device node"),
        (("--device", "/dev/null:/dev/x:rz"), "rz"),
        (("--device-cgroup-rule", "c 1"), "invalid device cgroup rule"),
    ],
)
def test_wrong_devices_are_refused(daemon: Daemon, words: tuple[str, ...], sentence: str) -> None:
    done = daemon.cove("run", "--rm", *words, "busybox", "true", check=False)
    assert done.returncode == 125
    assert sentence in done.stderr
