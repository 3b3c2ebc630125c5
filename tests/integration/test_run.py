"""Running containers as a user does, through `cove` and through the unmodified `docker` client alike."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Daemon, eventually

Client = Callable[..., "object"]


@pytest.fixture(params=["cove", "docker"])
def client(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Callable[..., object]]:
    """The same demand through each command."""
    yield getattr(daemon, request.param)


def test_output_and_exit_code_are_the_programs_own(client) -> None:
    done = client("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_signal_death_is_128_plus_signal(client) -> None:
    assert client("run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$", check=False).returncode == 137


def test_unknown_command_is_127_and_named(client) -> None:
    done = client("run", "--rm", "busybox", "no-such-program", check=False)
    assert done.returncode == 127
    assert "no-such-program" in done.stderr
    assert "not found" in done.stderr


def test_what_cannot_be_executed_is_126(client) -> None:
    done = client("run", "--rm", "busybox", "/etc/passwd", check=False)
    assert done.returncode == 126
    assert "permission denied" in done.stderr


def test_stdin_reaches_the_program_and_ends(client) -> None:
    done = client("run", "--rm", "-i", "busybox", "cat", input="first\nsecond\n")
    assert done.stdout == "first\nsecond\n"


def test_detached_life(client) -> None:
    identity = client("run", "-d", "--name", "life", "busybox", "sh", "-c", "echo up; exec sleep 60").stdout.strip()
    try:
        assert len(identity) == 64
        assert "life" in client("ps", "--format", "{{.Names}}").stdout.split()
        assert eventually(lambda: client("logs", "life").stdout == "up\n")
        assert client("exec", "life", "echo", "inside").stdout == "inside\n"
        assert client("exec", "life", "sh", "-c", "exit 3", check=False).returncode == 3
        assert client("exec", "-i", "life", "cat", input="through\n").stdout == "through\n"
        client("pause", "life")
        assert client("inspect", "-f", "{{.State.Status}}", "life").stdout.strip() == "paused"
        client("unpause", "life")
        client("rename", "life", "lives")
        client("stop", "-t", "0", "lives")
        assert client("wait", "lives").stdout.strip() == "137"
        state = json.loads(client("inspect", "lives").stdout)[0]["State"]
        assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 137, False)
        client("start", "lives")
        assert client("inspect", "-f", "{{.State.Running}}", "lives").stdout.strip() == "true"
    finally:
        client("rm", "-f", "life", "lives", check=False)


def test_environment_user_workdir_hostname(client) -> None:
    script = "id -u; id -G; pwd; hostname; echo $COLOUR"
    words = ("-e", "COLOUR=blue", "-u", "worker", "-w", "/var/new", "--hostname", "box")
    done = client("run", "--rm", *words, "busybox", "sh", "-c", script)
    assert done.stdout == "1000\n1000 2000\n/var/new\nbox\nblue\n"


def test_volumes_binds_tmpfs_and_read_only_root(client, tmp_path) -> None:
    (tmp_path / "given").write_text("from the host\n")
    script = (
        "cat /in/given; touch /in/x 2>/dev/null || echo in-ro; touch /x 2>/dev/null || echo root-ro; "
        "touch /t/x && echo t-rw"
    )
    words = ("--read-only", "--tmpfs", "/t", "-v", f"{tmp_path}:/in:ro")
    done = client("run", "--rm", *words, "busybox", "sh", "-c", script)
    assert done.stdout == "from the host\nin-ro\nroot-ro\nt-rw\n"


def test_a_named_volume_keeps_its_data(client) -> None:
    try:
        client("run", "--rm", "-v", "kept:/data", "busybox", "sh", "-c", "echo remembered > /data/f")
        assert client("run", "--rm", "-v", "kept:/data", "busybox", "cat", "/data/f").stdout == "remembered\n"
    finally:
        client("volume", "rm", "kept")


def test_copy_both_ways(client, tmp_path) -> None:
    (tmp_path / "note").write_text("carried\n")
    client("create", "--name", "copied", "busybox", "sleep", "60")
    try:
        client("cp", str(tmp_path / "note"), "copied:/tmp/note")
        client("start", "copied")
        assert client("exec", "copied", "cat", "/tmp/note").stdout == "carried\n"
        client("exec", "copied", "sh", "-c", "echo back > /tmp/back")
        client("cp", "copied:/tmp/back", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "back\n"
        assert "A /tmp/back" in client("diff", "copied").stdout
    finally:
        client("rm", "-f", "copied")


def test_limits_reach_the_kernel(client) -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    done = client("run", "--rm", "--memory", "64m", "busybox", "sh", "-c", script, check=False)
    assert done.stdout.split() == [str(64 << 20)]


def test_memory_limit_kills_and_says_so(client) -> None:
    try:
        done = client(
            "run", "--name", "greedy", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c",
            "x=a; while :; do x=$x$x; done", check=False,
        )  # fmt: skip
        state = json.loads(client("inspect", "greedy").stdout)[0]["State"]
        assert done.returncode == 137
        assert state["OOMKilled"] is True
    finally:
        client("rm", "-f", "greedy")


def test_namespaces_are_its_own(client) -> None:
    import os

    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    inside = client("run", "--rm", "busybox", "sh", "-c", script).stdout.split()
    assert len(inside) == len(kinds)
    assert not {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds} & set(inside)


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("run", "--rm", "--pull", "never", "no-such-image", "true"), 125, "no-such-image"),
        (("run", "--rm", "--name", "bad name", "busybox", "true"), 125, "Invalid container name"),
        (("run", "--rm", "-m", "1", "busybox", "true"), 125, "emory"),
        (("run", "--rm", "-v", "relative/path:/x", "busybox", "true"), 125, "relative/path"),
        (("run", "--rm", "--cpus", "10000", "busybox", "true"), 125, "CPUs"),
        (("run", "--rm", "BusyBox", "true"), 125, "lowercase"),
        (("rm", "no-such-container"), 1, "No such container"),
        (("rmi", "no-such-image"), 1, "No such image"),
    ],
)
def test_bad_input_is_one_sentence(client, words, status, sentence) -> None:
    done = client(*words, check=False)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_in_use_is_refused_and_its_owner_named(client) -> None:
    identity = client("create", "--name", "taken", "busybox", "true").stdout.strip()
    try:
        done = client("create", "--name", "taken", "busybox", "true", check=False)
        assert done.returncode != 0
        assert identity in done.stderr
    finally:
        client("rm", "taken")


def test_export_of_a_running_container(client, tmp_path) -> None:
    client(
        "run",
        "-d",
        "--name",
        "exported",
        "-v",
        f"{tmp_path}:/mounted",
        "busybox",
        "sh",
        "-c",
        "echo x > /new; sleep 60",
    )
    try:
        client("exec", "exported", "sh", "-c", "until test -e /new; do :; done")
        client("export", "-o", str(tmp_path / "tree.tar"), "exported")
        with tarfile.open(tmp_path / "tree.tar") as archive:
            names = archive.getnames()
        assert {"new", "bin/busybox"} <= {name.removeprefix("./") for name in names}
        assert not any("tree.tar" in name for name in names)
    finally:
        client("rm", "-f", "exported")


def test_copied_files_belong_to_the_containers_user(client, tmp_path) -> None:
    (tmp_path / "note").write_text("mine\n")
    client("run", "-d", "--name", "owned", "-u", "1000:1000", "busybox", "sleep", "60")
    try:
        client("cp", "-a", str(tmp_path / "note"), "owned:/tmp/note")
        assert client("exec", "owned", "stat", "-c", "%u:%g", "/tmp/note").stdout == "1000:1000\n"
    finally:
        client("rm", "-f", "owned")
