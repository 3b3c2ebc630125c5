"""Exhibits of user namespaces: a container's root that meets the host's files, devices and kernel; with twins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon


def out(daemon: Daemon, *words: str, check: bool = True) -> str:
    done = daemon.cove("run", "--rm", "--network", "none", "--userns", "auto", *words, check=check)
    return done.stdout + done.stderr


@pytest.fixture
def host_files(tmp_path: Path) -> Iterator[Path]:
    """What only root of the host may read or change."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("the host's own")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    yield tmp_path


# ── root inside is nobody outside ─────────────────────────────────────────────────────────────────


def test_a_bound_directory_of_the_host_is_not_its_own(daemon: Daemon, host_files: Path) -> None:
    script = "cat /h/secret; chmod 777 /h/secret; chown 0 /h/secret; rm -f /h/secret; touch /h/new"
    found = out(daemon, "-v", f"{host_files}:/h", "busybox", "sh", "-c", script, check=False)
    assert "the host's own" not in found and "denied" in found
    assert (host_files / "secret").stat().st_mode & 0o777 == 0o600 and not (host_files / "new").exists()


def test_twin_a_mapped_directory_is(daemon: Daemon, host_files: Path) -> None:
    script = "cat /h/secret; touch /h/new && chown 5 /h/new"
    assert "the host's own" in out(daemon, "-v", f"{host_files}:/h:idmap", "busybox", "sh", "-c", script)
    assert (host_files / "new").stat().st_uid == 5


def test_a_set_user_id_program_left_behind_gives_nobody_root(daemon: Daemon, host_files: Path) -> None:
    script = "cp /bin/busybox /h/open/sh; chmod 4755 /h/open/sh"
    out(daemon, "-v", f"{host_files}:/h", "busybox", "sh", "-c", script)
    left = (host_files / "open/sh").stat()
    assert left.st_mode & 0o4000 and left.st_uid >= 1 << 30


def test_twin_a_volume_of_its_own_keeps_the_bit_and_the_owner(daemon: Daemon) -> None:
    script = "cp /bin/busybox /v/sh; chmod 4755 /v/sh; stat -c '%u %a' /v/sh; mount | grep -c ' / .*nosuid'"
    try:
        found = out(daemon, "-v", "museum-suid:/v", "busybox", "sh", "-c", f"{script}; true")
        assert found.split() == ["0", "4755", "0"]
    finally:
        daemon.cove("volume", "rm", "-f", "museum-suid")


# ── CVE-2022-0492, CVE-2022-0185: rights in a new user namespace that reach the kernel ────────────


@pytest.mark.parametrize(
    "command",
    [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs none /tmp",
        "mount -t cgroup -o rdma cgroup /tmp",
        "mknod /tmp/disk b 8 0",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo b > /proc/sysrq-trigger",
        "chroot /proc/1/root sh -c 'exit 1'",
        "hostname owned",
    ],
)
def test_rights_inside_reach_nothing(daemon: Daemon, command: str) -> None:
    done = daemon.cove("run", "--rm", "--userns", "auto", "busybox", "sh", "-c", command, check=False)
    assert done.returncode != 0


def test_more_capabilities_are_rights_over_its_own_namespaces_only(daemon: Daemon) -> None:
    unconfined = [word for kind in ("seccomp", "systempaths") for word in ("--security-opt", f"{kind}=unconfined")]
    everything = ("--cap-add", "ALL", *unconfined)
    script = (
        "mount -t tmpfs none /tmp && echo mounted; echo 0 > /proc/sys/vm/swappiness; dmesg -n 1; "
        "mknod /tmp/disk b 8 0; insmod /none.ko; cat /proc/kcore | head -c1"
    )
    before = Path("/proc/sys/vm/swappiness").read_text()
    found = out(daemon, *everything, "busybox", "sh", "-c", script, check=False)
    assert "mounted" in found and Path("/proc/sys/vm/swappiness").read_text() == before
    assert found.count("ermitted") + found.count("denied") >= 3


def test_twin_a_container_with_ids_of_its_own_has_its_usual_rights(daemon: Daemon) -> None:
    script = "chown 5:6 /tmp; mkdir /x; chroot / true; mknod /tmp/pipe p; echo a > /dev/null; su worker -c 'id -u'"
    assert out(daemon, "busybox", "sh", "-c", script) == "1000\n"


# ── CVE-2021-21284: a remapped root that gets at the layers through the data directory ───────────


def test_the_data_directory_is_closed_to_the_ids_of_containers(daemon: Daemon) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid((1 << 30) + 65536)
            os.setuid((1 << 30) + 65536)
            os._exit(0 if not os.access(daemon.data / "layers", os.R_OK | os.X_OK) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_links_owner_in_a_volume_stays_inside(daemon: Daemon) -> None:
    """What a container leaves in a volume is owned on disk as inside: another one sees the same, the host no root."""
    try:
        out(daemon, "-v", "museum-users:/v", "busybox", "sh", "-c", "ln -s /etc/shadow /v/link; chown -h 9 /v/link")
        assert out(daemon, "-v", "museum-users:/v", "busybox", "stat", "-c", "%u", "/v/link") == "9\n"
    finally:
        daemon.cove("volume", "rm", "-f", "museum-users")


# ── processes of two containers ───────────────────────────────────────────────────────────────────


def test_two_containers_cannot_touch_each_others_processes(daemon: Daemon) -> None:
    """Even in one pid namespace: their roots are different users, and neither is the other's."""
    daemon.cove("run", "-d", "--name", "museum-a", "--userns", "auto", "--network", "none", "busybox", "sleep", "60")
    try:
        script = "kill -9 1; ls -l /proc/1/root 2>&1; cat /proc/1/environ 2>&1"
        found = out(daemon, "--pid", "container:museum-a", "busybox", "sh", "-c", script, check=False)
        assert found.count("ermi") >= 3
        assert daemon.docker("inspect", "-f", "{{.State.Running}}", "museum-a").stdout == "true\n"
        shared = ("--userns", "container:museum-a", "--pid", "container:museum-a")
        done = daemon.cove("run", "--rm", "--network", "none", *shared, "busybox", "ps")
        assert "sleep 60" in done.stdout
    finally:
        daemon.cove("rm", "-f", "museum-a")
