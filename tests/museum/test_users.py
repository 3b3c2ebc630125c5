"""Exhibits of users and groups: what an image says of them is read with care, and nobody is root by accident.

CVE-2016-3697 (a user named like a number), CVE-2024-40635 (numbers out of range), CVE-2026-30892; CVE-2024-9676
(passwd as a FIFO, a link or without end); CVE-2022-36109, CVE-2023-25173 (supplementary groups).
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.museum.images import SH, image

_IDS = "id -u; id -g; id -G; grep Groups /proc/self/status"


def test_a_number_is_a_number_whatever_passwd_calls_it(daemon: Daemon, tmp_path: Path) -> None:
    passwd = b"root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n1001:x:0:0::/:/bin/sh\n"
    group = b"root:x:0:\n2000:x:0:\n"
    with image(daemon, tmp_path, ("etc/passwd", passwd), ("etc/group", group)) as name:
        assert daemon.cove("run", "--rm", "-u", "1000", name, SH, "-c", "id -u").stdout == "1000\n"
        assert daemon.cove("run", "--rm", "-u", "1001:2000", name, SH, "-c", "id -u; id -g").stdout == "1001\n2000\n"
        done = daemon.cove("run", "--rm", "-u", "1002", "--group-add", "2000", name, SH, "-c", "id -G").stdout
        assert "2000" in done.split()


@pytest.mark.parametrize(
    "line",
    [
        b"worker:x:4294967296:1::/:\n",
        b"worker:x:-1:1::/:\n",
        b"worker:x:0x0:1::/:\n",
        b"worker:x::1::/:\n",
        b"worker\n",
    ],
)
def test_a_line_that_is_none_makes_nobody_root(daemon: Daemon, tmp_path: Path, line: bytes) -> None:
    with image(daemon, tmp_path, ("etc/passwd", line)) as name:
        done = daemon.cove("run", "--rm", "-u", "worker", name, SH, "-c", "id -u", check=False)
        assert done.returncode != 0
        assert done.stdout == ""
        assert "worker" in done.stderr


def test_twin_names_of_the_image_work(daemon: Daemon, tmp_path: Path) -> None:
    passwd, group = b"odd-name_1:x:70000:70001::/:\n", b"more:x:70002:odd-name_1\n"
    with image(daemon, tmp_path, ("etc/passwd", passwd), ("etc/group", group)) as name:
        done = daemon.cove("run", "--rm", "-u", "odd-name_1", name, SH, "-c", "id -u; id -g; id -G")
        assert done.stdout == "70000\n70001\n70001 70002\n"


# ── passwd itself ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["fifo", "link out", "link to a device", "directory", "endless"])
def test_passwd_cannot_hold_or_feed_the_daemon(daemon: Daemon, tmp_path: Path, form: str) -> None:
    prepare = {
        "fifo": "rm /etc/passwd; mkfifo /etc/passwd",
        "link out": "ln -sf ../../../../../../../../etc/shadow /etc/passwd",
        "link to a device": "ln -sf /dev/zero /etc/passwd",
        "directory": "rm /etc/passwd; mkdir /etc/passwd",
        "endless": "truncate -s 10G /etc/passwd",
    }[form]
    daemon.cove("run", "-d", "--name", "bad-passwd", "busybox", "sh", "-c", f"{prepare}; sleep 60")
    try:
        began = time.monotonic()
        daemon.cove(
            "exec", "bad-passwd", "sh", "-c", "until ! test -f /etc/passwd || test -s /etc/passwd; do :; done"
        )
        done = daemon.cove("exec", "-u", "nobody-here", "bad-passwd", "id", "-u", check=False, timeout=20)
        assert done.returncode != 0
        assert done.stdout == ""
        done = daemon.cove("exec", "-u", "1234", "bad-passwd", "/bin/busybox", "true", check=False, timeout=20)
        assert done.returncode == 0
        assert time.monotonic() - began < 15
    finally:
        daemon.cove("rm", "-f", "bad-passwd")


def test_twin_an_image_without_passwd_runs_numbers(daemon: Daemon, tmp_path: Path) -> None:
    daemon.cove("run", "--name", "no-passwd", "busybox", "rm", "/etc/passwd", "/etc/group")
    daemon.cove("commit", "no-passwd", "no-passwd")
    try:
        assert daemon.cove("run", "--rm", "-u", "1234:5678", "no-passwd", "id", "-u").stdout == "1234\n"
        assert daemon.cove("run", "--rm", "no-passwd", "id", "-u").stdout == "0\n"
    finally:
        daemon.cove("rm", "-f", "no-passwd")
        daemon.cove("rmi", "-f", "no-passwd")


# ── groups ────────────────────────────────────────────────────────────────────────────────────────


def groups(text: str) -> list[set[str]]:
    *_, listed, status = text.splitlines()
    return [set(listed.split()), set(status.split()[1:])]


@pytest.mark.parametrize("words", [("-u", "worker"), ("-u", "1000"), ("-u", "worker:extra"), ("-u", "1000:2000")])
def test_nobody_keeps_roots_groups(daemon: Daemon, words: tuple[str, ...]) -> None:
    done = daemon.cove("run", "--rm", *words, "busybox", "sh", "-c", _IDS).stdout
    assert all("0" not in found for found in groups(done))


def test_a_groups_member_cannot_shed_the_group(daemon: Daemon, tmp_path: Path) -> None:
    """A file that a group is denied stays denied: the primary group is among the supplementary ones."""
    (tmp_path / "denied").write_text("secret\n")
    subprocess.run(["chown", "0:1000", tmp_path / "denied"], check=True)
    (tmp_path / "denied").chmod(0o604)
    words = ("-v", f"{tmp_path}:/given", "-u", "worker")
    script = f"cat /given/denied; {_IDS}"
    done = daemon.cove("run", "--rm", *words, "busybox", "sh", "-c", script, check=False)
    assert "secret" not in done.stdout
    assert all("1000" in found for found in groups(done.stdout))
    daemon.cove("run", "-d", "--name", "grouped", *words, "busybox", "sleep", "60")
    try:
        inside = daemon.cove("exec", "grouped", "sh", "-c", script, check=False)
        assert "secret" not in inside.stdout
        assert groups(inside.stdout) == groups(done.stdout)
    finally:
        daemon.cove("rm", "-f", "grouped")


def test_twin_groups_of_the_image_and_added_ones(daemon: Daemon) -> None:
    done = daemon.cove("run", "--rm", "-u", "worker", "--group-add", "3000", "busybox", "sh", "-c", _IDS).stdout
    assert groups(done)[0] == {"1000", "2000", "3000"}
