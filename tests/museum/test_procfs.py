"""Exhibits of false and swapped places: /proc, /dev, masks and the console, as an image or a volume makes them.

CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881 (a /proc that is none, so that
what the runtime writes lands elsewhere or nowhere); CVE-2025-31133, CVE-2025-52565 (what a mask or the console is
bound from is swapped); CVE-2026-41579, CVE-2026-47766 (the image's /dev is a link out); CVE-2022-0811 (a sysctl
that carries another one).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.museum.images import SH, image

_REAL = (
    "readlink /proc/self/ns/pid | cut -c1-4; stat -c %t:%T /proc/keys; "
    "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
)
_SEEN = "pid:\n1:3\n0\n"


def test_proc_as_a_link_writes_nowhere_else(daemon: Daemon, tmp_path: Path) -> None:
    members = [
        ("proc", "fake"),
        ("fake", None),
        ("fake/sys/net/ipv4/ping_group_range", b"untouched\n"),
        ("fake/self/attr/exec", b"untouched\n"),
        ("fake/keys", b"untouched\n"),
    ]
    with image(daemon, tmp_path, *members) as name:
        words = ("run", "--name", "fakeproc", name, SH, "-c", _REAL)
        done = daemon.cove(*words, check=False)
        try:
            assert done.returncode != 0 or done.stdout == _SEEN
            shown = daemon.cove("cp", "fakeproc:/fake/sys/net/ipv4/ping_group_range", str(tmp_path), check=False)
            assert shown.returncode or (tmp_path / "ping_group_range").read_text() == "untouched\n"
            assert "attr" not in daemon.cove("diff", "fakeproc").stdout
        finally:
            daemon.cove("rm", "-f", "fakeproc")


def test_proc_as_a_link_to_the_host_is_resolved_inside(daemon: Daemon, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with image(daemon, tmp_path, ("proc", str(outside)), ("sys", "../../../../../.." + str(outside))) as name:
        daemon.cove("run", "--rm", name, SH, "-c", "true", check=False)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/sys", "/proc/self/attr", "/proc/../proc"])
def test_nothing_is_mounted_over_proc(daemon: Daemon, tmp_path: Path, target: str) -> None:
    """A volume there would be written instead of the kernel: refused, or written by nobody."""
    given = tmp_path / "given"
    given.mkdir()
    words = ("--sysctl", "net.ipv4.ip_forward=1", "-v", f"{given}:{target}")
    done = daemon.cove("run", "--rm", *words, "busybox", "cat", "/proc/sys/net/ipv4/ip_forward", check=False)
    written = [path for path in given.rglob("*") if path.is_file() and path.stat().st_size]
    assert not written
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_twin_sysctls_of_its_own_are_written(daemon: Daemon) -> None:
    words = ("--sysctl", "net.ipv4.ip_forward=1", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward")
    assert daemon.cove("run", "--rm", *words).stdout == "1\n"


@pytest.mark.parametrize(
    "sysctl",
    [
        "kernel.core_pattern=|/evil",
        "kernel.shm_rmid_forced=1+kernel.core_pattern=|/evil",
        "kernel.shm_rmid_forced=1\nkernel.core_pattern=|/evil",
        "net.../../kernel/core_pattern=|/evil",
        "net/../kernel/core_pattern=|/evil",
        "fs.mqueue/../../kernel/core_pattern=|/evil",
    ],
)
def test_a_sysctl_cannot_carry_another(daemon: Daemon, sysctl: str) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    done = daemon.cove("run", "--rm", "--sysctl", sysctl, "busybox", "true", check=False)
    assert done.returncode != 0
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


# ── /dev and the console ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["absolute", "dotdot", "to a directory inside"])
def test_dev_as_a_link_makes_no_node_outside(daemon: Daemon, tmp_path: Path, form: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = {
        "absolute": str(outside),
        "dotdot": "../" * 12 + str(outside).lstrip("/"),
        "to a directory inside": "etc",
    }
    with image(daemon, tmp_path, ("dev", target[form])) as name:
        words = ("run", "--name", "devlink", name, SH, "-c", "echo x > /dev/null && stat -c %t:%T /dev/null")
        done = daemon.cove(*words, check=False)
        try:
            assert done.returncode != 0 or done.stdout == "1:3\n"
            assert list(outside.iterdir()) == []
            assert "/etc/null" not in daemon.cove("diff", "devlink").stdout
        finally:
            daemon.cove("rm", "-f", "devlink")


@pytest.mark.parametrize("name", ["console", "ptmx", "pts", "shm", "null", "fd"])
def test_a_link_in_the_images_dev_leads_nowhere(daemon: Daemon, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched\n")
    with image(daemon, tmp_path, ("dev", None), (f"dev/{name}", str(victim))) as made:
        script = "tty >/dev/null; stat -c %t:%T /dev/null; grep -c ' /dev/console devpts' /proc/mounts"
        done = daemon.cove("run", "--rm", "-t", made, SH, "-c", script, check=False)
        assert done.stdout.replace("\r", "").split() == ["1:3", "1"]
    assert victim.read_text() == "untouched\n"


def test_a_device_in_the_place_of_null_is_not_opened(daemon: Daemon) -> None:
    """A device acts when it is opened, and an outfitter may open what the container may not.

    Nothing answers for this device: to open it is another error than to look at it.
    """
    daemon.cove("run", "--rm", "-v", "devices:/given", "busybox", "mknod", "/given/null", "c", "240", "77")
    try:
        words = ("-v", "devices:/dev", "--security-opt", "systempaths=unconfined", "busybox", "true")
        done = daemon.cove("run", "--rm", *words, check=False)
    finally:
        daemon.cove("volume", "rm", "devices")
    assert done.returncode == 125
    assert "is not the null device" in done.stderr


def test_twin_the_null_device_of_a_volume_is_used(daemon: Daemon) -> None:
    daemon.cove("run", "--rm", "-v", "devices:/given", "busybox", "mknod", "/given/null", "c", "1", "3")
    try:
        words = ("-v", "devices:/dev", "busybox", "stat", "-L", "-c", "%t:%T", "/proc/self/fd/0")
        assert daemon.cove("run", "--rm", *words).stdout == "1:3\n"
    finally:
        daemon.cove("volume", "rm", "devices")


def test_the_console_is_a_terminal_of_its_own_devpts(daemon: Daemon) -> None:
    script = (
        "stat -c %t /dev/console; stat -c %t /dev/pts/0; "
        "test $(stat -c %i /dev/console) = $(stat -c %i /dev/pts/0) && echo same"
    )
    done = daemon.cove("run", "--rm", "-t", "busybox", "sh", "-c", script)
    assert done.stdout.replace("\r", "").split() == ["88", "88", "same"]


def test_twin_terminals_work(daemon: Daemon) -> None:
    done = daemon.cove("run", "--rm", "-t", "busybox", "sh", "-c", "tty; echo typed > /dev/console; ls /dev/pts")
    assert done.stdout.replace("\r", "").split() == ["/dev/pts/0", "typed", "0", "ptmx"]
