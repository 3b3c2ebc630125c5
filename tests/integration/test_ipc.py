"""Memory that containers share: /dev/shm goes with the System V IPC that one container lends another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root

_USERS = pytest.mark.parametrize("users", [(), ("--userns", "auto")], ids=["plain", "userns"])


@pytest.fixture
def lender(daemon: Daemon) -> Iterator[str]:
    script = "echo lent >/dev/shm/file; exec sleep 300"
    daemon.docker("run", "-d", "--name", "lender", "--ipc", "shareable", "busybox", "sh", "-c", script)
    daemon.docker("exec", "lender", "sh", "-c", "until [ -s /dev/shm/file ]; do :; done")
    try:
        yield "lender"
    finally:
        daemon.docker("rm", "-f", "lender", check=False)


@_USERS
def test_both_see_what_either_writes(daemon: Daemon, lender: str, users: tuple[str, ...]) -> None:
    script = (
        "cat /dev/shm/file; echo back >/dev/shm/answer; readlink /proc/self/ns/ipc; ls /; df -k /dev/shm | tail -1"
    )
    mode = daemon.cove("exec", lender, "stat", "-c", "%a", "/dev/shm").stdout.strip()
    assert mode == "1777"
    told = daemon.cove("run", "--rm", *users, "--ipc", f"container:{lender}", "busybox", "sh", "-c", script).stdout
    assert told.startswith("lent\n") and " 65536 " in told
    assert daemon.cove("exec", lender, "cat", "/dev/shm/answer").stdout == "back\n"
    assert daemon.cove("exec", lender, "readlink", "/proc/self/ns/ipc").stdout in told


def test_a_joiner_lends_on_and_sees_nothing_else(daemon: Daemon, lender: str) -> None:
    daemon.docker("run", "-d", "--name", "joiner", "--ipc", f"container:{lender}", "busybox", "sleep", "300")
    try:
        look = ("--rm", "--ipc", "container:joiner", "-v", "/etc/hostname:/h:ro", "busybox", "sh", "-c")
        assert (
            daemon.cove("run", *look, "cat /dev/shm/file && test -s /h && grep -c ' /dev/shm ' /proc/mounts").stdout
            == "lent\n1\n"
        )
        daemon.docker("restart", "-t", "0", "joiner")
        assert daemon.docker("exec", "joiner", "cat", "/dev/shm/file").stdout == "lent\n"
    finally:
        daemon.docker("rm", "-f", "joiner", check=False)


@pytest.mark.parametrize("mode", [(), ("--ipc", "private"), ("--ipc", "none")], ids=["default", "private", "none"])
def test_what_is_private_is_not_lent(daemon: Daemon, mode: tuple[str, ...]) -> None:
    daemon.docker("run", "-d", "--name", "keeper", *mode, "busybox", "sleep", "300")
    try:
        words = ("run", "--rm", "--ipc", "container:keeper", "busybox", "true")
        for command in (daemon.docker, daemon.cove):
            done = command(*words, check=False)
            assert done.returncode == 125 and "non-shareable IPC" in done.stderr
    finally:
        daemon.docker("rm", "-f", "keeper", check=False)


def test_the_hosts_memory_and_none(daemon: Daemon) -> None:
    look = "grep ' /dev/shm ' /proc/mounts | wc -l; readlink /proc/self/ns/ipc"
    host = daemon.cove("run", "--rm", "--ipc", "host", "busybox", "sh", "-c", look).stdout.split()
    none = daemon.cove("run", "--rm", "--ipc", "none", "busybox", "sh", "-c", look).stdout.split()
    assert host[0] == "1" and none[0] == "0" and host[1] != none[1]


def test_a_lender_that_put_a_link_in_its_place_lends_nothing(daemon: Daemon) -> None:
    swap = "umount /dev/shm && rmdir /dev/shm && ln -s /etc /dev/shm && exec sleep 300"
    words = ("--privileged", "--ipc", "shareable", "busybox", "sh", "-c", swap)
    daemon.docker("run", "-d", "--name", "swapper", *words)
    daemon.docker("exec", "swapper", "sh", "-c", "until [ -L /dev/shm ]; do :; done")
    try:
        done = daemon.docker("run", "--rm", "--ipc", "container:swapper", "busybox", "ls", "/dev/shm", check=False)
        assert done.returncode == 125 and "/dev/shm" in done.stderr and not done.stdout
    finally:
        daemon.docker("rm", "-f", "swapper", check=False)
