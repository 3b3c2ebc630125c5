"""`cove-oci` as engines call it: a container's life from `create` to `delete`, `run`, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, catches
from tests.integration import bundles
from tests.integration.bundles import (
    SLEEP,
    Bundle,
    bundle,
    config,
    create,
    good,
    groups_of,
    name,
    refused,
    status,
    until,
)

__all__ = ["bundle", "name"]

pytestmark = pytest.mark.root


# ── the lifecycle ─────────────────────────────────────────────────────────────────────────────────


def test_created_started_stopped_deleted(bundle: Bundle, name: str) -> None:
    output = create(bundle, name, config("sh", "-c", "echo it runs; exit 3"))
    state = json.loads(good(bundle, "state", name))
    assert (state["status"], state["id"], state["bundle"]) == ("created", name, str(bundle.path))
    assert Path(f"/proc/{state['pid']}").exists()
    assert output.read_text() == ""
    good(bundle, "start", name)
    until(lambda: status(bundle, name) == "stopped")
    assert output.read_text() == "it runs\n"
    assert json.loads(good(bundle, "state", name))["pid"] == 0
    good(bundle, "delete", name)
    assert "does not exist" in refused(bundle, "state", name)
    assert not (bundle.state / name).exists() and not groups_of(name)


def test_nobody_stays_between_create_and_start(bundle: Bundle, name: str) -> None:
    create(bundle, name, config(*SLEEP))
    state = bundle.state / name
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(state) not in listed
    members = Path(f"/proc/{bundle.pid(name)}/task").iterdir()
    assert len(list(members)) == 1


def test_what_is_not_allowed_in_a_state(bundle: Bundle, name: str) -> None:
    create(bundle, name, config(*SLEEP))
    assert "already exists" in refused(bundle, "create", "--bundle", str(bundle.path), name)
    assert "not paused" in refused(bundle, "resume", name)
    good(bundle, "start", name)
    assert "already running" in refused(bundle, "start", name)
    assert "not stopped" in refused(bundle, "delete", name)
    assert status(bundle, name) == "running"
    good(bundle, "kill", name, "KILL")
    until(lambda: status(bundle, name) == "stopped")
    assert "stopped" in refused(bundle, "start", name)
    assert "not running" in refused(bundle, "kill", name)
    assert "not running" in refused(bundle, "pause", name)
    assert "stopped" in refused(bundle, "exec", name, "true", code=255)


def test_what_was_created_may_be_deleted(bundle: Bundle, name: str) -> None:
    create(bundle, name, config(*SLEEP))
    pid = bundle.pid(name)
    good(bundle, "delete", name)
    until(lambda: not Path(f"/proc/{pid}/ns/mnt").exists())
    assert not groups_of(name)


def test_forced_deletion_ends_what_runs_and_forgives_what_is_not(bundle: Bundle, name: str) -> None:
    create(bundle, name, config(*SLEEP))
    good(bundle, "start", name)
    good(bundle, "pause", name)
    good(bundle, "delete", "--force", name)
    assert not (bundle.state / name).exists() and not groups_of(name)
    good(bundle, "delete", "--force", name)
    assert "does not exist" in refused(bundle, "delete", name)


def test_a_create_that_is_killed_leaves_something_deletable(bundle: Bundle, name: str) -> None:
    content = config("true")
    hook = {"path": "/bin/sleep", "args": ["sleep", "5"]}
    content["hooks"] = {"createRuntime": [hook]}
    bundle.write(content)
    command = [str(bundles.BIN / "cove-oci"), "--root", str(bundle.state), "create", "-b", str(bundle.path), name]
    making = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: (bundle.state / name / "state.json").exists())
    making.kill()
    making.wait()
    until(lambda: status(bundle, name) == "stopped")
    good(bundle, "delete", name)
    assert not groups_of(name)


def test_an_ended_processs_number_means_nobody_else(bundle: Bundle, name: str) -> None:
    create(bundle, name, config(*SLEEP))
    file = bundle.state / name / "state.json"
    record = json.loads(file.read_text())
    os.kill(record["pid"], signal.SIGKILL)
    bystander = subprocess.Popen(["sleep", "100"])
    file.write_text(json.dumps(record | {"pid": bystander.pid}))
    assert status(bundle, name) == "stopped"
    good(bundle, "delete", "--force", name)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_configuration_is_read_once(bundle: Bundle, name: str) -> None:
    output = create(bundle, name, config("echo", "first"))
    bundle.write(config("echo", "second"))
    good(bundle, "start", name)
    until(lambda: status(bundle, name) == "stopped")
    assert output.read_text() == "first\n"


# ── bad input: one sentence, and nothing left ─────────────────────────────────────────────────────


def test_bad_bundles(bundle: Bundle, tmp_path: Path) -> None:
    name = bundle.name()
    assert "/nowhere" in refused(bundle, "create", "--bundle", "/nowhere", name)
    assert "no config.json" in refused(bundle, "create", "--bundle", str(tmp_path), name)
    bad = config("true")
    bad["process"]["user"]["uid"] = "root"
    bundle.write(bad)
    assert "$.process.user.uid" in refused(bundle, "create", "--bundle", str(bundle.path), name)
    (bundle.path / "config.json").write_text("{")
    assert "config.json" in refused(bundle, "run", "--bundle", str(bundle.path), name)
    bad = config("true")
    bad["linux"]["namespaces"].append({"type": "zone"})
    bundle.write(bad)
    assert "zone" in refused(bundle, "create", "--bundle", str(bundle.path), name)
    bad = config("true") | {"root": {"path": "elsewhere"}}
    bundle.write(bad)
    assert "elsewhere" in refused(bundle, "create", "--bundle", str(bundle.path), name)
    bundle.write(config("no-such-program"))
    assert "executable file not found in $PATH" in refused(bundle, "create", "--bundle", str(bundle.path), name)
    assert not (bundle.state / name).exists() and not groups_of(name)


def test_a_namespace_of_another_kind_is_refused_at_once(bundle: Bundle) -> None:
    content, name = config("true"), bundle.name()
    content["linux"]["namespaces"].append({"type": "user", "path": "/proc/self/ns/uts"})
    bundle.write(content)
    refused(bundle, "create", "--bundle", str(bundle.path), name)
    assert not (bundle.state / name).exists() and not groups_of(name)


def test_bad_command_lines(bundle: Bundle) -> None:
    assert "-colour" in refused(bundle, "create", "--colour", "x")
    assert "unknown command" in refused(bundle, "invent", code=3)
    assert "exactly 1 argument" in refused(bundle, "start")
    assert "exactly 1 argument" in refused(bundle, "state", "a", "b")
    assert "needs an argument" in refused(bundle, "create", "--bundle")
    assert "invalid character in container ID" in refused(bundle, "create", "--bundle", str(bundle.path), "a/b")
    assert "invalid character in container ID" in refused(bundle, "delete", "..")
    assert "unknown signal" in refused(bundle, "kill", "x", "SIGNOTHING")
    assert "checkpoint is not supported" in refused(bundle, "checkpoint", "x")
    assert "restore is not supported" in refused(bundle, "restore", "x")
    assert "rootless" in refused(bundle, "--rootless", "maybe", "list")


def test_errors_are_logged_for_the_caller(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    refused(bundle, "--log", str(log), "--log-format", "json", "start", "nobody")
    entry = json.loads(log.read_text())
    assert entry["level"] == "error" and "does not exist" in entry["msg"] and entry["time"].endswith("Z")


# ── run ───────────────────────────────────────────────────────────────────────────────────────────


def test_run_ends_with_the_programs_code(bundle: Bundle) -> None:
    done = bundle.run(config("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert bundle.run(config("sh", "-c", "kill -9 $$")).returncode in (137, 0)


def test_run_passes_signals_on_and_cleans_up(bundle: Bundle, name: str) -> None:
    bundle.write(config(*SLEEP))
    command = [str(bundles.BIN / "cove-oci"), "--root", str(bundle.state), "run", "-b", str(bundle.path), name]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as running:
        until(lambda: (bundle.state / name / "state.json").exists() and status(bundle, name) == "running")
        until(lambda: catches(bundle.pid(name), signal.SIGTERM))
        running.send_signal(signal.SIGTERM)
        assert running.wait(60 * PATIENCE) == 9
    assert not (bundle.state / name).exists() and not groups_of(name)


def test_run_with_keep_and_with_another_configuration(bundle: Bundle, name: str) -> None:
    (bundle.path / "other.json").write_text(json.dumps(config("echo", "other")))
    done = bundle.call("run", "--config", "other.json", "--bundle", str(bundle.path), "--keep", name)
    assert done.stdout == "other\n"
    assert status(bundle, name) == "stopped"


# ── spec and features ─────────────────────────────────────────────────────────────────────────────


def test_the_example_runs(bundle: Bundle, name: str, tmp_path: Path) -> None:
    good(bundle, "spec", "--bundle", str(tmp_path))
    assert "exists already" in refused(bundle, "spec", "--bundle", str(tmp_path))
    content = json.loads((tmp_path / "config.json").read_text())
    content["process"] |= {"args": ["hostname"], "terminal": False}
    assert bundle.out(content) == "cove\n"


def test_features(bundle: Bundle) -> None:
    found = json.loads(good(bundle, "features"))
    assert "user" in found["linux"]["namespaces"] and found["linux"]["seccomp"]["enabled"]
