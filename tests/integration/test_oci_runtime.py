"""`cove-oci`, command by command, as engines call it: the lifecycle, its refusals, and what a command takes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import bundles
from tests.integration.bundles import Bundle, config

pytestmark = pytest.mark.root

SLEEP = ("sh", "-c", "trap 'exit 9' TERM; while true; do sleep 0.05; done")


@pytest.fixture(scope="module")
def bundle(archive: Path) -> Iterator[Bundle]:
    with bundles.made(archive) as made:
        yield made


@pytest.fixture
def name(bundle: Bundle) -> Iterator[str]:
    given = bundle.name()
    yield given
    bundle.call("delete", "--force", given)


def create(bundle: Bundle, name: str, content: dict[str, Any], *flags: str, **options: Any) -> Path:
    """Create a container whose output goes to the file that is returned."""
    bundle.write(content)
    output, errors = bundle.path / f"{name}.out", bundle.path / f"{name}.err"
    with output.open("wb") as file, errors.open("wb") as told:
        done = bundle.call(
            "create",
            "--bundle",
            str(bundle.path),
            *flags,
            name,
            **({"capture_output": False, "stdout": file, "stderr": told} | options),
        )
    assert done.returncode == 0, errors.read_text()
    return output


def good(bundle: Bundle, *words: str) -> str:
    done = bundle.call(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def refused(bundle: Bundle, *words: str, code: int = 1) -> str:
    """What the failed command says: one sentence."""
    done = bundle.call(*words)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("cove-oci: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def status(bundle: Bundle, name: str) -> str:
    return str(json.loads(good(bundle, "state", name))["status"])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within ten seconds"
        time.sleep(0.01)


def groups_of(name: str) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"*/cove-oci/{name}"), *Path("/sys/fs/cgroup").glob(f"cove-oci/{name}")]


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


def test_bad_command_lines(bundle: Bundle) -> None:
    assert "-colour" in refused(bundle, "create", "--colour", "x")
    assert "unknown command" in refused(bundle, "invent", code=3)
    assert "exactly 1 argument" in refused(bundle, "start")
    assert "exactly 1 argument" in refused(bundle, "state", "a", "b")
    assert "needs an argument" in refused(bundle, "create", "--bundle")
    assert "invalid container id" in refused(bundle, "create", "--bundle", str(bundle.path), "a/b")
    assert "invalid container id" in refused(bundle, "delete", "..")
    assert "unknown signal" in refused(bundle, "kill", "x", "SIGNOTHING")
    assert "checkpoint is not supported" in refused(bundle, "checkpoint", "x")
    assert "restore is not supported" in refused(bundle, "restore", "x")
    assert "rootless" in refused(bundle, "--rootless", "maybe", "list")


def test_errors_are_logged_for_the_caller(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    refused(bundle, "--log", str(log), "--log-format", "json", "start", "nobody")
    entry = json.loads(log.read_text())
    assert entry["level"] == "error" and "does not exist" in entry["msg"] and entry["time"].endswith("Z")


# ── what create may be asked ──────────────────────────────────────────────────────────────────────


def test_pid_file(bundle: Bundle, name: str) -> None:
    file = bundle.path / "pid"
    create(bundle, name, config(*SLEEP), "--pid-file", str(file))
    assert int(file.read_text()) == bundle.pid(name)


def test_console_socket(bundle: Bundle, name: str) -> None:
    content = config("sh", "-c", "tty; stty size; read word; echo got $word")
    content["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 77}}
    path = bundle.path / "console.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)
        create(bundle, name, content, "--console-socket", str(path))
        connection, _ = listener.accept()
        with connection:
            _, (master, *_), _, _ = socket.recv_fds(connection, 4096, 1)
    path.unlink()
    good(bundle, "start", name)
    said = b""
    while b"33 77" not in said:
        said += os.read(master, 4096)
    os.write(master, b"it\n")
    while b"got it" not in said:
        said += os.read(master, 4096)
    assert b"/dev/pts/0" in said
    os.close(master)


def test_a_terminal_needs_somebody_to_serve_it(bundle: Bundle) -> None:
    content = config("true")
    content["process"]["terminal"] = True
    bundle.write(content)
    assert "--console-socket" in refused(bundle, "create", "--bundle", str(bundle.path), bundle.name())
    bundle.write(config("true"))
    flags = ("--console-socket", "/nowhere", "--bundle", str(bundle.path))
    assert "terminal" in refused(bundle, "create", *flags, bundle.name())


def test_nothing_of_the_callers_pipes_is_held_with_a_terminal(bundle: Bundle, name: str) -> None:
    """containerd waits for the end of what `create` wrote before it goes on."""
    content = config(*SLEEP)
    content["process"]["terminal"] = True
    path = bundle.path / "held.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        bundle.write(content)
        done = bundle.call("create", "--bundle", str(bundle.path), "--console-socket", str(path), name, timeout=10)
    assert done.returncode == 0, done.stderr


def test_preserved_descriptors(bundle: Bundle, name: str) -> None:
    content = config("sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd")
    bundle.write(content)
    reads = []
    for text in (b"three ", b"four "):
        read, write = os.pipe()
        os.write(write, text)
        os.close(write)
        reads.append(fcntl.fcntl(read, fcntl.F_DUPFD, 100))
        os.close(read)
    command = f"exec 3<&{reads[0]} 4<&{reads[1]}; exec $0 --root $1 run --preserve-fds 2 --bundle $2 $3"
    words = [str(bundles.BIN / "cove-oci"), str(bundle.state), str(bundle.path), name]
    done = subprocess.run(["bash", "-c", command, *words], pass_fds=reads, capture_output=True, timeout=20)
    for fd in reads:
        os.close(fd)
    assert done.stdout.decode().split() == ["three", "four", "0", "1", "2", "3", "4", "5"], done.stderr
    assert "descriptor 3" in refused(bundle, "run", "--preserve-fds", "1", "--bundle", str(bundle.path), name)


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
        until(lambda: Path(f"/proc/{bundle.pid(name)}/comm").read_text() == "sh\n")
        time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 9
    assert not (bundle.state / name).exists() and not groups_of(name)


def test_run_with_keep_and_with_another_configuration(bundle: Bundle, name: str) -> None:
    (bundle.path / "other.json").write_text(json.dumps(config("echo", "other")))
    done = bundle.call("run", "--config", "other.json", "--bundle", str(bundle.path), "--keep", name)
    assert done.stdout == "other\n"
    assert status(bundle, name) == "stopped"


def test_a_configuration_is_read_once(bundle: Bundle, name: str) -> None:
    output = create(bundle, name, config("echo", "first"))
    bundle.write(config("echo", "second"))
    good(bundle, "start", name)
    until(lambda: status(bundle, name) == "stopped")
    assert output.read_text() == "first\n"


# ── what may be asked of a running one ────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def living(bundle: Bundle) -> Iterator[str]:
    with bundle.living(config(*SLEEP)) as name:
        yield name


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


def test_update_changes_the_limits(bundle: Bundle, living: str) -> None:
    good(bundle, "update", "--memory", "64m", "--pids-limit", "99", living)
    stats = json.loads(good(bundle, "events", "--stats", living))["data"]
    assert stats["memory"]["usage"]["limit"] == 64 << 20
    assert stats["pids"]["limit"] == 99
    done = bundle.call("update", "--resources", "-", living, stdin=None, input=json.dumps({"pids": {"limit": 77}}))
    assert done.returncode == 0, done.stderr
    stats = json.loads(good(bundle, "events", "--stats", living))["data"]
    assert (stats["pids"]["limit"], stats["memory"]["usage"]["limit"]) == (77, 64 << 20)
    assert "RDT" in refused(bundle, "update", "--l3-cache-schema", "x", living)


def test_kill_reaches_one_or_all(bundle: Bundle, name: str) -> None:
    create(bundle, name, config("sh", "-c", "sleep 100 & wait"))
    good(bundle, "start", name)
    until(lambda: len(json.loads(good(bundle, "ps", "-f", "json", name))) == 2)
    good(bundle, "kill", "--all", name, "SIGKILL")
    until(lambda: status(bundle, name) == "stopped")


# ── hooks ─────────────────────────────────────────────────────────────────────────────────────────


def hook(log: Path, word: str, *, fails: bool = False) -> dict[str, Any]:
    script = f"echo {word} $(cat) >> {log}; exit {int(fails)}"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}


def test_hooks_run_in_their_order_and_read_the_state(bundle: Bundle, name: str) -> None:
    log = bundle.path / "hooks.log"
    content = config("true")
    stages = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    content["hooks"] = {stage: [hook(log, stage)] for stage in stages}
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "cat > /started"], "env": ["PATH=/bin"]}
    content["hooks"]["startContainer"] = [inside]
    content["annotations"] = {"org.example": "yes"}
    create(bundle, name, content)
    assert not (bundle.rootfs / "started").exists()
    good(bundle, "start", name)
    until(lambda: status(bundle, name) == "stopped")
    good(bundle, "delete", name)
    told = [line.split(" ", 1) for line in log.read_text().splitlines()]
    assert [word for word, _ in told] == list(stages)
    states = [json.loads(state) for _, state in told]
    assert [state["status"] for state in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert all(state["id"] == name and state["annotations"] == {"org.example": "yes"} for state in states)
    assert json.loads((bundle.rootfs / "started").read_text())["status"] == "created"
    (bundle.rootfs / "started").unlink()


def test_a_hook_that_fails_ends_the_creation(bundle: Bundle) -> None:
    log, name = bundle.path / "failed.log", bundle.name()
    for stage in ("prestart", "createRuntime", "createContainer"):
        content = config("true")
        content["hooks"] = {stage: [hook(log, stage, fails=True)], "poststop": [hook(log, "poststop")]}
        bundle.write(content)
        assert stage in refused(bundle, "create", "--bundle", str(bundle.path), name)
        assert not (bundle.state / name).exists() and not groups_of(name)
    assert [line.split()[0] for line in log.read_text().splitlines()][1::2] == ["poststop"] * 3


def test_a_hook_that_takes_too_long_is_ended(bundle: Bundle) -> None:
    content = config("true")
    content["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}
    bundle.write(content)
    assert "within 1 seconds" in refused(bundle, "run", "--bundle", str(bundle.path), bundle.name())


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


# ── what other runtimes' callers rely on ──────────────────────────────────────────────────────────


def test_hooks_find_the_root_where_the_bundle_has_it(bundle: Bundle) -> None:
    """Hooks that add devices or libraries look at what is mounted below root.path; createContainer's begin there."""
    content = config("cat", "/added")
    (bundle.rootfs / "added").touch()
    script = f"test -e {bundle.rootfs}/proc/self && mount --bind /etc/hostname ./added"
    content["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    assert bundle.out(content) == Path("/etc/hostname").read_text()
    (bundle.rootfs / "added").unlink()
    assert str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text()


def test_a_poststart_hook_that_fails_deletes_the_container(bundle: Bundle, name: str) -> None:
    content = config(*SLEEP)
    content["hooks"] = {"poststart": [{"path": "/bin/false"}]}
    create(bundle, name, content)
    assert "poststart" in refused(bundle, "start", name)
    assert "does not exist" in refused(bundle, "state", name)


def test_the_hosts_devices_keep_their_owner(bundle: Bundle) -> None:
    content = config("true")
    content["process"]["user"] = {"uid": 1234, "gid": 1234}
    done = bundle.run(content, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert Path("/dev/null").stat().st_uid == 0


def test_exec_in_a_group_below(bundle: Bundle, living: str) -> None:
    absent = "/nope below its own failed: no such file or directory"
    assert absent in refused(bundle, "exec", "--cgroup", "nope", living, "true", code=255)
    for outside in ("..", "below/../../..", "cpu:.."):
        assert "bad sub cgroup path" in refused(bundle, "exec", "--cgroup", outside, living, "true", code=255)
    directories = json.loads((bundle.state / living / "state.json").read_text())["cgroup_directories"]
    if len(directories) == 1:
        pytest.skip("on version 2 a group with processes of its own has none below it that takes any")
    for directory in directories:
        Path(directory, "below").mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):
        (below,) = (Path(each, "below", file) for each in directories if "cpuset" in each)
        below.write_text((below.parent.parent / file).read_text())
    done = bundle.call("exec", "--cgroup", "below", living, "cat", "/proc/self/cgroup")
    assert "/below" in done.stdout, done
    words = ("exec", "--cgroup", "pids:below", "--cgroup", "memory:/", living, "cat", "/proc/self/cgroup")
    groups = dict(line.split(":")[1:] for line in good(bundle, *words).splitlines())
    assert groups["pids"].endswith("/below") and not groups["memory"].endswith("/below")
    assert "unknown controller nope" in refused(bundle, "exec", "--cgroup", "nope:/", living, "true", code=255)
    for directory in directories:
        Path(directory, "below").rmdir()


def test_sockets_of_activation_are_announced(bundle: Bundle) -> None:
    bundle.write(config("sh", "-c", "echo $LISTEN_PID $LISTEN_FDS"))
    environment = os.environ | {"LISTEN_FDS": "1"}
    done = bundle.call("run", "--bundle", str(bundle.path), bundle.name(), env=environment)
    assert done.stdout == "1 1\n", done


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


def test_without_a_cgroup_namespace_only_the_own_group_is_seen(bundle: Bundle) -> None:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("version 2 shows its tree to whoever is in the host's cgroup namespace")
    content = config("sh", "-c", "ls -d /sys/fs/cgroup/memory/*/ ; cat /sys/fs/cgroup/pids/cgroup.procs")
    content["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]})
    content["linux"]["namespaces"] = [each for each in content["linux"]["namespaces"] if each["type"] != "cgroup"]
    done = bundle.run(content)
    assert "1" in done.stdout.split() and "cove" not in done.stdout, done


def test_a_namespace_of_another_kind_is_refused_at_once(bundle: Bundle) -> None:
    content, name = config("true"), bundle.name()
    content["linux"]["namespaces"].append({"type": "user", "path": "/proc/self/ns/uts"})
    bundle.write(content)
    refused(bundle, "create", "--bundle", str(bundle.path), name)
    assert not (bundle.state / name).exists() and not groups_of(name)
