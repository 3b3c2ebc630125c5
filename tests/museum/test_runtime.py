"""Exhibits of the runtime: published escapes, tried harmlessly and refused; each with its legitimate twin."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cove.runtime import makers
from tests.conftest import Daemon


def out(daemon: Daemon, *words: str) -> str:
    return daemon.cove("run", "--rm", *words).stdout


# ── CVE-2024-21626: a leaked descriptor as working directory ──────────────────────────────────────


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9])
def test_a_descriptor_is_no_working_directory(daemon: Daemon, number: int) -> None:
    done = daemon.cove("run", "--rm", "-w", f"/proc/self/fd/{number}", "busybox", "ls", "../..", check=False)
    assert done.returncode != 0
    assert "etc" not in done.stdout.split() or "busybox" in out(daemon, "busybox", "ls", "/bin")


def test_exec_in_a_descriptor_is_refused(daemon: Daemon) -> None:
    daemon.cove("run", "-d", "--name", "fdcwd", "busybox", "sleep", "60")
    try:
        for number in range(3, 12):
            done = daemon.cove("exec", "-w", f"/proc/self/fd/{number}", "fdcwd", "pwd", check=False)
            assert done.returncode != 0
    finally:
        daemon.cove("rm", "-f", "fdcwd")


def test_twin_a_missing_working_directory_is_made(daemon: Daemon) -> None:
    assert out(daemon, "-w", "/made/for/me", "busybox", "pwd") == "/made/for/me\n"


def test_only_three_descriptors_are_open(daemon: Daemon) -> None:
    """CVE-2016-9962: nothing of the host's is inherited. `ls` itself has the directory open as 3."""
    assert out(daemon, "busybox", "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_twin_the_standard_descriptors_can_be_opened_again(daemon: Daemon) -> None:
    script = "echo a > /dev/stdout; echo b > /proc/self/fd/1"
    assert out(daemon, "-u", "worker", "busybox", "sh", "-c", script) == "a\nb\n"


# ── CVE-2019-5736: the runtime's own program, overwritten through /proc/self/exe ──────────────────


def test_the_interpreter_cannot_be_overwritten(daemon: Daemon) -> None:
    interpreter = Path(sys.executable).resolve()
    before = hashlib.sha256(interpreter.read_bytes()).hexdigest()
    script = "for p in /proc/[0-9]*/exe; do (echo x > $p) 2>/dev/null; readlink $p; done"
    seen = out(daemon, "busybox", "sh", "-c", script)
    daemon.cove("run", "-d", "--name", "exe", "busybox", "sh", "-c", f"while :; do {script} >/dev/null; done")
    try:
        for _ in range(20):
            daemon.cove("exec", "exe", "true", check=False)
    finally:
        daemon.cove("rm", "-f", "exe")
    assert "python" not in seen
    assert hashlib.sha256(interpreter.read_bytes()).hexdigest() == before


def test_the_init_cannot_be_overwritten(daemon: Daemon) -> None:
    """Process 1 of a container with an init is a program of the host's, and a privileged one may look at it."""
    if not makers.PROGRAM.exists():
        pytest.skip("Cove was installed without a C compiler: its init is a fork, not a program")
    before = hashlib.sha256(makers.PROGRAM.read_bytes()).hexdigest()
    script = "readlink /proc/1/exe; (echo x > /proc/1/exe) 2>&1; cat /proc/1/exe | head -c 4; exit 7"
    done = daemon.cove("run", "--rm", "--init", "--privileged", "busybox", "sh", "-c", script, check=False)
    assert done.returncode == 7
    assert "Read-only file system" in done.stdout and "\x7fELF" in done.stdout
    assert hashlib.sha256(makers.PROGRAM.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("rights", [(), ("--userns", "auto")])
def test_the_init_is_held_by_the_filter_too(daemon: Daemon, rights: tuple[str, ...]) -> None:
    """Or whoever may trace it would have it do what the filter forbids."""
    words = (
        "--init",
        "--security-opt",
        "no-new-privileges",
        *rights,
        "busybox",
        "grep",
        "Seccomp:",
        "/proc/1/status",
    )
    assert out(daemon, *words).split() == ["Seccomp:", "2"]


def test_twin_a_program_knows_its_own_file(daemon: Daemon) -> None:
    assert out(daemon, "busybox", "readlink", "/proc/self/exe") == "/bin/busybox\n"


# ── CVE-2025-31133, CVE-2025-52881: masks that are swapped, a procfs that is none ─────────────────


def test_masked_paths_are_the_null_device(daemon: Daemon) -> None:
    script = "for p in kcore keys timer_list; do test -e /proc/$p && stat -c '%F %t:%T' /proc/$p; done; true"
    lines = out(daemon, "busybox", "sh", "-c", script).splitlines()
    assert lines
    assert set(lines) == {"character special file 1:3"}


def test_an_image_with_dev_null_as_a_link_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    target = tmp_path / "victim"
    target.write_text("untouched\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").symlink_to(target)
    archive = tmp_path / "evil.tar"
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "dev"], check=True)
    subprocess.run(["tar", "-C", "/", "-rf", archive, "bin/busybox"], check=True)
    daemon.cove("import", str(archive), "evil-null")
    try:
        seen = out(daemon, "evil-null", "/bin/busybox", "stat", "-c", "%F %t:%T", "/proc/keys")
        assert seen == "character special file 1:3\n"
        assert target.read_text() == "untouched\n"
    finally:
        daemon.cove("rmi", "-f", "evil-null")


def test_read_only_paths_of_proc(daemon: Daemon) -> None:
    done = daemon.cove("run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/core_pattern", check=False)
    assert done.returncode != 0
    done = daemon.cove("run", "--rm", "busybox", "sh", "-c", "echo b > /proc/sysrq-trigger", check=False)
    assert done.returncode != 0


def test_twin_its_own_processes_are_readable(daemon: Daemon) -> None:
    assert out(daemon, "busybox", "sh", "-c", "cat /proc/1/comm; cat /proc/sys/kernel/ostype") == "sh\nLinux\n"


# ── CVE-2016-3697, CVE-2024-40635, CVE-2026-30892: user strings that must never be root by accident ─


@pytest.mark.parametrize("user", ["-1", "4294967295", "4294967296", "99999999999999999999", "nobody-here", "0x0"])
def test_a_wrong_user_is_refused(daemon: Daemon, user: str) -> None:
    done = daemon.cove("run", "--rm", "-u", user, "busybox", "id", "-u", check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("user", "ids"),
    [("worker", "1000 1000"), ("1000", "1000 1000"), ("1234", "1234 0"), ("1234:4321", "1234 4321"), ("0:0", "0 0")],
)
def test_twin_names_and_numbers_work(daemon: Daemon, user: str, ids: str) -> None:
    assert out(daemon, "-u", user, "busybox", "sh", "-c", 'echo "$(id -u) $(id -g)"') == f"{ids}\n"


@pytest.mark.parametrize("user", ["-1", "4294967296", "1000x", " 0", "+0", "0x0", "1:nobody-here", "1000:-1"])
def test_an_exec_as_nobody_that_is_is_refused(daemon: Daemon, user: str) -> None:
    """A string that is half a number is no number: read so far as it goes, it may well be 0."""
    name = daemon.cove("run", "-d", "busybox", "sleep", "60").stdout.strip()
    try:
        done = daemon.cove("exec", "-u", user, name, "id", "-u", check=False)
        assert done.returncode != 0
        assert done.stdout == ""
        assert daemon.cove("exec", "-u", "worker", name, "id", "-u").stdout == "1000\n"  # the twin
    finally:
        daemon.cove("rm", "-f", name)


# ── CVE-2022-36109, CVE-2023-25173: a group that denies something, got around ──────────────────────


@pytest.mark.parametrize("how", ["run", "exec"])
def test_the_primary_group_cannot_be_left(daemon: Daemon, how: str) -> None:
    """What group 4321 may not read, its members may not: it stays among the groups of whoever takes another one."""
    given = ("-u", "1234:4321") if how == "run" else ()
    asked = ("grep", "Groups", "/proc/self/status")
    if how == "run":
        found = out(daemon, *given, "busybox", *asked)
    else:
        name = daemon.cove("run", "-d", "busybox", "sleep", "60").stdout.strip()
        found = daemon.cove("exec", "-u", "1234:4321", name, *asked).stdout
        daemon.cove("rm", "-f", name)
    assert found.split() == ["Groups:", "4321"]


def test_twin_groups_are_added_and_count(daemon: Daemon) -> None:
    found = out(daemon, "-u", "1234:4321", "--group-add", "77", "busybox", "grep", "Groups", "/proc/self/status")
    assert sorted(found.split()[1:]) == ["4321", "77"]


# ── CVE-2022-24769, CVE-2022-27649, CVE-2022-27650, CVE-2022-29162: inheritable capabilities ──────


def capabilities(text: str) -> dict[str, str]:
    return {line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.startswith("Cap")}


def test_no_capability_is_inheritable(daemon: Daemon) -> None:
    sets = capabilities(out(daemon, "busybox", "cat", "/proc/self/status"))
    assert int(sets["CapInh"], 16) == int(sets["CapAmb"], 16) == 0
    daemon.cove("run", "-d", "--name", "caps", "busybox", "sleep", "60")
    try:
        inside = capabilities(daemon.cove("exec", "caps", "cat", "/proc/self/status").stdout)
        assert inside == sets
    finally:
        daemon.cove("rm", "-f", "caps")


def test_twin_root_has_the_default_capabilities_and_no_more(daemon: Daemon) -> None:
    sets = capabilities(out(daemon, "busybox", "cat", "/proc/self/status"))
    assert sets["CapEff"] == sets["CapPrm"] == sets["CapBnd"] == "00000000a80425fb"


def test_twin_capabilities_are_added_and_dropped(daemon: Daemon) -> None:
    sets = capabilities(out(daemon, "--cap-drop", "ALL", "--cap-add", "CHOWN", "busybox", "cat", "/proc/self/status"))
    assert int(sets["CapBnd"], 16) == 1


# ── CVE-2022-0492, CVE-2022-0185: more kernel than a container needs ──────────────────────────────


@pytest.mark.parametrize(
    "command", ["unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "chroot / reboot -f"]
)
def test_namespaces_and_mounts_are_refused(daemon: Daemon, command: str) -> None:
    assert daemon.cove("run", "--rm", "busybox", "sh", "-c", command, check=False).returncode != 0


def test_twin_a_privileged_container_may_mount(daemon: Daemon) -> None:
    script = "mount -t tmpfs none /tmp && echo mounted"
    assert out(daemon, "--privileged", "busybox", "sh", "-c", script) == "mounted\n"


def test_devices_of_the_host_cannot_be_opened(daemon: Daemon) -> None:
    device = os.stat("/").st_dev
    node = f"mknod /tmp/disk b {os.major(device)} {os.minor(device)} && head -c1 /tmp/disk | wc -c"
    done = daemon.cove("run", "--rm", "busybox", "sh", "-c", node, check=False)
    assert "1" not in done.stdout.split()


def test_twin_the_usual_devices_work(daemon: Daemon) -> None:
    script = "head -c4 /dev/zero | wc -c; head -c4 /dev/urandom | wc -c; echo x > /dev/null && echo null"
    assert out(daemon, "busybox", "sh", "-c", script).split() == ["4", "4", "null"]
