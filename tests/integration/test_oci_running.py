"""What `cove-oci` does with a container that runs: exec, ps, list, events, pause, kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN
from tests.integration import bundles
from tests.integration.bundles import Bundle, bundle, config, create, good, living, name, refused, status, until

__all__ = ["bundle", "living", "name"]

pytestmark = pytest.mark.root


# ── exec ──────────────────────────────────────────────────────────────────────────────────────────


def test_exec(bundle: Bundle, living: str) -> None:
    done = bundle.call("exec", "--env", "A=b", "--cwd", "/bin", living, "sh", "-c", "echo $A; pwd; exit 5")
    assert (done.returncode, done.stdout) == (5, "b\n/bin\n")
    done = bundle.call("exec", "--user", "12:34", "-g", "56", living, "id")
    assert done.stdout == "uid=12 gid=34 groups=56\n", done
    assert "executable file not found" in refused(bundle, "exec", living, "no-such-program", code=255)
    assert "needs a command" in refused(bundle, "exec", living, code=255)
    assert "--user" in refused(bundle, "exec", "--user", "root", living, "id", code=255)


def test_exec_of_a_process_file(bundle: Bundle, living: str) -> None:
    file = bundle.path / "process.json"
    file.write_text(
        json.dumps({"cwd": "/", "args": ["sh", "-c", "id -u"], "user": {"uid": 5, "gid": 5}, "env": None})
    )
    done = bundle.call("exec", "--process", str(file), living)
    assert done.returncode == 127 or done.stdout == "5\n", done
    file.write_text(json.dumps({"cwd": "/", "args": ["sh"], "user": {"uid": "x"}}))
    assert "$.user.uid" in refused(bundle, "exec", "--process", str(file), living, code=255)


def test_exec_detached_with_a_pid_file(bundle: Bundle, living: str) -> None:
    file = bundle.path / "exec.pid"
    quiet = {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    done = bundle.call("exec", "-d", "--pid-file", str(file), living, "sleep", "100", **quiet)
    assert done.returncode == 0
    pid = int(file.read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    assert pid in json.loads(good(bundle, "ps", "--format", "json", living))
    os.kill(pid, signal.SIGKILL)


def test_capabilities_and_new_privileges_of_an_exec(bundle: Bundle, living: str) -> None:
    read = ("grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status")
    before = bundle.call("exec", living, *read).stdout.split()
    after = bundle.call("exec", "--cap", "CAP_NET_RAW", "--no-new-privs", living, *read).stdout.split()
    assert int(after[1], 16) == int(before[1], 16) | 1 << 13
    assert (before[3], after[3]) == ("0", "1")


# ── the others ────────────────────────────────────────────────────────────────────────────────────


def test_pause_stops_and_resume_goes_on(bundle: Bundle, living: str) -> None:
    good(bundle, "pause", living)
    assert status(bundle, living) == "paused"
    assert "paused" in refused(bundle, "exec", living, "true", code=255)
    assert "not running" in refused(bundle, "pause", living)
    good(bundle, "resume", living)
    assert status(bundle, living) == "running"


def test_ps_list_and_events(bundle: Bundle, living: str) -> None:
    pid = bundle.pid(living)
    assert str(pid) in good(bundle, "ps", living)
    assert living in good(bundle, "list", "--quiet").split()
    rows = [each for each in json.loads(good(bundle, "list", "--format", "json")) if each["id"] == living]
    assert rows[0]["pid"] == pid and rows[0]["status"] == "running"
    assert good(bundle, "list").splitlines()[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert "format" in refused(bundle, "list", "--format", "yaml")
    event = json.loads(good(bundle, "events", "--stats", living))
    assert event["type"] == "stats" and event["data"]["pids"]["current"] >= 1
    assert event["data"]["memory"]["usage"]["usage"] > 0


def test_kill_reaches_one_or_all(bundle: Bundle, name: str) -> None:
    create(bundle, name, config("sh", "-c", "sleep 100 & wait"))
    good(bundle, "start", name)
    until(lambda: len(json.loads(good(bundle, "ps", "-f", "json", name))) == 2)
    good(bundle, "kill", "--all", name, "SIGKILL")
    until(lambda: status(bundle, name) == "stopped")


def test_exec_stays_in_the_container_on_a_host_that_is_a_chroot(bundle: Bundle, tmp_path: Path) -> None:
    """Its mount namespace begins with the root of the host outside: joining it alone would lead there."""
    name = bundle.name()
    bundle.write(config(*bundles.SLEEP))
    command = f"{BIN}/cove-oci --root {bundle.state}"
    inside = f"""
        {command} run --detach --bundle {bundle.path} {name} </dev/null >/dev/null 2>&1 || exit 9
        {command} exec {name} ls /
        {command} delete --force {name}
    """
    script = f"mount --rbind / {tmp_path} && exec chroot {tmp_path} sh -c '{inside}'"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done
    assert set(done.stdout.split()) == set(os.listdir(bundle.rootfs)), done
