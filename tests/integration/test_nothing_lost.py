"""SIGKILL of daemon, supervisor or both: containers run on, no line is lost, no exit code forgotten."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import BIN, Daemon

COUNTER = (
    "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; usleep 500; done; "
    "while [ ! -e /seen ]; do usleep 10000; done; exit 9"
)
"""It ends only once a successor has been there, however long that takes to come."""


def supervisor_pid(daemon: Daemon) -> int:
    """The supervisor of this daemon's run root."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"cove.runtime.supervisor" in words and str(daemon.run).encode() in words:
                return int(entry.name)
    raise AssertionError("no supervisor is running")


@pytest.mark.parametrize("victims", [("daemon",), ("supervisor",), ("daemon", "supervisor")])
def test_numbered_lines_survive(own_daemon: Daemon, victims: tuple[str, ...]) -> None:
    own_daemon.cove("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNTER)
    time.sleep(0.5)
    if "supervisor" in victims:
        os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
    if "daemon" in victims:
        own_daemon.kill()
        time.sleep(0.3)
        own_daemon.start()
    assert own_daemon.cove("exec", "counter", "echo", "there").stdout == "there\n"
    own_daemon.cove("exec", "-d", "counter", "touch", "/seen")
    assert own_daemon.cove("wait", "counter").stdout.strip() == "9"
    lines = own_daemon.cove("logs", "counter").stdout.split()
    assert lines == [str(number) for number in range(1, 4001)]


def test_stop_and_remove_after_a_new_daemon(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "-d", "--name", "kept", "busybox", "sleep", "600")
    own_daemon.kill()
    own_daemon.start()
    assert own_daemon.cove("ps", "--format", "{{.Names}}").stdout.split() == ["kept"]
    own_daemon.cove("stop", "-t", "0", "kept")
    own_daemon.cove("rm", "kept")
    assert own_daemon.cove("ps", "-aq").stdout == ""


def test_an_exit_nobody_saw_has_a_reason(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "-d", "--name", "unseen", "busybox", "sh", "-c", "sleep 1; exit 5")
    own_daemon.kill()  # first, or it would start another supervisor
    os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
    time.sleep(1.5)
    own_daemon.start()
    code = own_daemon.cove("wait", "unseen").stdout.strip()
    reason = own_daemon.cove("inspect", "-f", "{{.State.Error}}", "unseen").stdout.strip()
    # Where the host's process 1 is slow to reap, the dead process still tells its code; else nobody knows it.
    assert (code, bool(reason)) in {("255", True), ("5", False)}


@pytest.mark.parametrize("how", ["run", "run -t", "logs"])
@pytest.mark.parametrize("client", ["cove", "docker"])
def test_a_slow_reader_has_all_of_a_container_that_is_gone(daemon: Daemon, client: str, how: str) -> None:
    """More is written than sockets and pipes hold, and read only when nothing of the container is left."""
    program = str(BIN / "cove") if client == "cove" else shutil.which("docker")
    if program is None:
        pytest.skip("the docker client is not installed on this machine")
    script = "echo y; until [ -e /go ]; do usleep 10000; done; head -c 8000000 /dev/zero | tr '\\0' x"
    run = ("run", "--name", "talker", "--rm", *(("-t",) if how == "run -t" else ()))
    run = (*run, *(("-d",) if how == "logs" else ()), "busybox", "sh", "-c", script)
    if how == "logs":
        daemon.cove(*run)
    words = ("logs", "-f", "talker") if how == "logs" else run
    environment = os.environ | {"COVE_HOST": daemon.host, "DOCKER_HOST": daemon.host}
    with subprocess.Popen([program, *words], env=environment, stdout=subprocess.PIPE, bufsize=0) as talking:
        assert talking.stdout is not None and talking.stdout.read(1) == b"y"
        daemon.cove("exec", "talker", "touch", "/go")
        while daemon.cove("ps", "-aq", "--filter", "name=talker").stdout:
            assert talking.poll() is None
        count = 0
        while piece := talking.stdout.read(1 << 16):
            count += piece.count(b"x")
    assert count == 8000000


def test_a_damaged_list_of_images_is_set_aside(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "-d", "--name", "kept", "busybox", "sleep", "600")
    own_daemon.kill()
    listed = own_daemon.data / "image/index.json"
    good = listed.read_bytes()
    listed.write_bytes(good[: len(good) // 2])
    own_daemon.start()
    assert "index.json" in own_daemon.log() and own_daemon.cove("images", "-q").stdout == ""
    assert own_daemon.cove("exec", "kept", "echo", "there").stdout == "there\n"
    own_daemon.kill()
    listed.write_bytes(good)
    listed.with_suffix(".damaged").unlink()
    own_daemon.start()
    assert own_daemon.cove("run", "--rm", "busybox", "echo", "works").stdout == "works\n", "nothing was collected"


def test_a_container_whose_state_is_damaged_ends_and_starts_again(own_daemon: Daemon) -> None:
    for name in ("hurt", "kept"):
        own_daemon.cove("run", "-d", "--name", name, "busybox", "sleep", "600")
    identity = own_daemon.cove("inspect", "-f", "{{.Id}}", "hurt").stdout.strip()
    (own_daemon.run / "containers" / identity / "state.json").write_bytes(b"{")
    os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
    assert own_daemon.cove("wait", "hurt").stdout == "255\n"
    own_daemon.cove("start", "hurt")
    assert set(own_daemon.cove("ps", "--format", "{{.Names}}").stdout.split()) == {"hurt", "kept"}


@pytest.mark.parametrize("loss", ["empty", "missing"])
def test_a_lost_database_deletes_nothing(own_daemon: Daemon, loss: str) -> None:
    """What only the database knew is no leftover: the daemon says what is amiss and touches nothing."""
    own_daemon.cove("run", "--name", "kept", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /file")
    own_daemon.stop()
    database = own_daemon.data / "cove.db"
    whole = database.read_bytes()
    if loss == "empty":
        database.write_bytes(b"")
    else:
        database.unlink()
    for _ in range(2):
        words = [BIN / "cove", "daemon", "--data-root", own_daemon.data, "--run-root", own_daemon.run]
        refused = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert refused.returncode
        assert "is missing or empty" in refused.stderr
        assert "Traceback" not in refused.stderr
    database.write_bytes(whole)
    own_daemon.start()
    assert own_daemon.cove("cp", "kept:/file", "-").stdout.endswith("\0")
    assert own_daemon.cove("volume", "ls", "-q").stdout == "data\n"
