"""SIGKILL of daemon, supervisor or both: containers run on, no line is lost, no exit code forgotten."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cove.kernel import syscalls
from tests.conftest import BIN, PATIENCE, Daemon, eventually, has_ended
from tests.integration.faults_world import kill, pids
from tests.killed_at import kill_before

COUNTER = (
    "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; usleep 500; done; "
    "while [ ! -e /seen ]; do usleep 10000; done; exit 9"
)
"""It ends only once a successor has been there, however long that takes to come."""


_PR_SET_CHILD_SUBREAPER = 36


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
    assert eventually(lambda: own_daemon.cove("logs", "counter").stdout.count("\n") > 100)
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


def test_last_words_are_kept_while_nobody_lives(own_daemon: Daemon, tmp_path: Path) -> None:
    """A pipe forgets what is in it when its last opener goes: one of ours is left."""
    script = "until [ -e /w/go ]; do usleep 10000; done; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done"
    own_daemon.cove("run", "-d", "--name", "last", "-v", f"{tmp_path}:/w", "busybox", "sh", "-c", script)
    pid = int(own_daemon.cove("inspect", "-f", "{{.State.Pid}}", "last").stdout)
    own_daemon.kill()
    os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
    assert eventually(lambda: bool(pids(own_daemon, "keeper")))
    (tmp_path / "go").touch()
    watched = os.pidfd_open(pid)
    assert select.select([watched], [], [], 30 * PATIENCE)[0], "it ended by itself"
    os.close(watched)
    own_daemon.start()
    own_daemon.cove("wait", "last")
    assert own_daemon.cove("logs", "last").stdout.split() == [str(number) for number in range(1, 3001)]
    assert eventually(lambda: not pids(own_daemon, "keeper")), "whoever kept them is gone"


@contextmanager
def hasty_reaper() -> Iterator[None]:
    """What is nobody's child any more comes to this process, which reaps it at once."""
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.parametrize(("ending", "code"), [("exit 9", "9"), ("kill -KILL $$", "137")])
def test_an_exit_code_is_kept_while_nobody_lives(own_daemon: Daemon, tmp_path: Path, ending: str, code: str) -> None:
    """Whoever adopts the container's first process forgets its code in reaping it: one of ours has looked."""
    script = f"sh -c 'until [ -e /w/go ]; do usleep 10000; done; {ending}'; exit $?"
    with hasty_reaper():
        own_daemon.cove("run", "-d", "--name", "last", "-v", f"{tmp_path}:/w", "busybox", "sh", "-c", script)
        pid = int(own_daemon.cove("inspect", "-f", "{{.State.Pid}}", "last").stdout)
        own_daemon.kill()
        os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
        assert eventually(lambda: bool(pids(own_daemon, "keeper")))
        (tmp_path / "go").touch()
        assert eventually(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid), "it came to us"
    own_daemon.start()
    assert own_daemon.cove("wait", "last").stdout.strip() == code
    assert eventually(lambda: not pids(own_daemon, "keeper"))


def test_a_process_of_a_dead_supervisor_keeps_no_container_alive(own_daemon: Daemon) -> None:
    """Its zombie would be the daemon's to reap, and the first process of a pid namespace waits for that."""
    own_daemon.cove("run", "-d", "--name", "box", "--stop-signal", "KILL", "busybox", "sleep", "600")
    executed: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        command = [BIN / "cove", "exec", "box", "true"]
        executed.append(subprocess.Popen(command, env=os.environ | {"COVE_HOST": own_daemon.host}))

    # Where it has told of the end and not reaped yet.
    assert kill_before(supervisor_pid(own_daemon), ("sendmsg", "waitid"), begin)
    executed[0].wait(30 * PATIENCE)
    own_daemon.cove("stop", "box")
    assert own_daemon.cove("inspect", "-f", "{{.State.Status}}", "box").stdout == "exited\n"


@pytest.mark.parametrize("victim", ["forker", "supervisor"])
def test_the_dead_are_buried(own_daemon: Daemon, victim: str) -> None:
    own_daemon.cove("run", "-d", "--name", "box", "busybox", "sleep", "600")
    before = set(pids(own_daemon, "forker") + pids(own_daemon, "supervisor"))
    kill(own_daemon, (victim,))
    doomed = before - (set(pids(own_daemon, "supervisor")) if victim == "forker" else set())
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in doomed)), "no zombie stays"
    assert eventually(lambda: bool(pids(own_daemon, "forker"))), "and there is another one"
    assert own_daemon.cove("exec", "box", "echo", "there").stdout == "there\n"


def test_stop_and_remove_after_a_new_daemon(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "-d", "--name", "kept", "busybox", "sleep", "600")
    own_daemon.kill()
    own_daemon.start()
    assert own_daemon.cove("ps", "--format", "{{.Names}}").stdout.split() == ["kept"]
    own_daemon.cove("stop", "-t", "0", "kept")
    own_daemon.cove("rm", "kept")
    assert own_daemon.cove("ps", "-aq").stdout == ""


def test_an_exit_nobody_saw_has_a_reason(own_daemon: Daemon, tmp_path: Path) -> None:
    script = "until [ -e /w/go ]; do usleep 10000; done; exit 5"
    own_daemon.cove("run", "-d", "--name", "unseen", "-v", f"{tmp_path}:/w", "busybox", "sh", "-c", script)
    pid = int(own_daemon.cove("inspect", "-f", "{{.State.Pid}}", "unseen").stdout)
    own_daemon.kill()  # first, or it would start another supervisor
    os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert eventually(lambda: has_ended(pid))
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


@pytest.mark.parametrize("removed", ["supervisor.sock", "."])
def test_what_is_removed_of_the_run_root_comes_back(own_daemon: Daemon, removed: str) -> None:
    """A run root that is lost loses no container: the next daemon finds the supervisor and all that it knows."""
    own_daemon.cove("run", "-d", "--name", "kept", "busybox", "sleep", "600")
    pid = own_daemon.cove("inspect", "-f", "{{.State.Pid}}", "kept").stdout
    for path in own_daemon.run.iterdir() if removed == "." else [own_daemon.run / removed]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    own_daemon.kill()
    assert eventually(lambda: (own_daemon.run / "supervisor.sock").exists())
    own_daemon.start()
    assert own_daemon.cove("exec", "kept", "echo", "there").stdout == "there\n"
    assert own_daemon.cove("inspect", "-f", "{{.State.Pid}}", "kept").stdout == pid
    own_daemon.cove("restart", "-t", "0", "kept")
    assert own_daemon.cove("exec", "kept", "echo", "there").stdout == "there\n"


def test_a_container_whose_state_is_damaged_ends_and_starts_again(own_daemon: Daemon) -> None:
    for name in ("hurt", "kept"):
        own_daemon.cove("run", "-d", "--name", name, "busybox", "sleep", "600")
    identity = own_daemon.cove("inspect", "-f", "{{.Id}}", "hurt").stdout.strip()
    (own_daemon.run / "containers" / identity / "state.json").write_bytes(b"{")
    os.kill(supervisor_pid(own_daemon), signal.SIGKILL)
    assert own_daemon.cove("wait", "hurt").stdout == "255\n"
    own_daemon.cove("start", "hurt")
    assert set(own_daemon.cove("ps", "--format", "{{.Names}}").stdout.split()) == {"hurt", "kept"}


def test_a_lost_log_of_the_database_deletes_nothing(own_daemon: Daemon) -> None:
    """A young database is all in its log, which a power failure may take."""
    own_daemon.cove("run", "-d", "--name", "kept", "busybox", "sleep", "600")
    own_daemon.kill()
    log = own_daemon.data / "cove.db-wal"
    whole = log.read_bytes()
    log.write_bytes(b"")
    words = [BIN / "cove", "daemon", "--data-root", own_daemon.data, "--run-root", own_daemon.run]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=120 * PATIENCE)
    assert refused.returncode and "is missing or empty" in refused.stderr
    log.write_bytes(whole)
    own_daemon.start()
    assert own_daemon.cove("exec", "kept", "echo", "there").stdout == "there\n"


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
        refused = subprocess.run(words, capture_output=True, text=True, timeout=120 * PATIENCE)
        assert refused.returncode
        assert "is missing or empty" in refused.stderr
        assert "Traceback" not in refused.stderr
    database.write_bytes(whole)
    own_daemon.start()
    assert own_daemon.cove("cp", "kept:/file", "-").stdout.endswith("\0")
    assert own_daemon.cove("volume", "ls", "-q").stdout == "data\n"
