"""The units of packaging/, as a package would install them: Cove under systemd, begun by its socket."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import BIN, eventually
from tests.guest.inside import only_inside, run

pytestmark = [pytest.mark.root, only_inside]

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = ("cove.service", "cove.socket")
SOCKET = "unix:///run/cove/cove.sock"
SETTINGS = Path("/etc/cove/daemon.toml")
COUNTING = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.3; done"


def docker(*words: str, check: bool = True) -> CompletedProcess[str]:
    return run("docker", "-H", SOCKET, *words, check=check)


def shown(unit: str, *names: str) -> list[str]:
    """Properties of a unit, in the order asked for."""
    lines = run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    return [found[name] for name in names]


def main_pid() -> int:
    return int(shown("cove.service", "MainPID")[0])


@pytest.fixture(scope="module")
def installed(archive: Path) -> Iterator[None]:
    """Cove where the units look for it, its socket listening, and busybox:latest in its store."""
    program, units = Path("/usr/bin/cove"), Path("/etc/systemd/system")
    program.symlink_to(BIN / "cove")
    SETTINGS.parent.mkdir()
    for unit in UNITS:
        shutil.copy(PACKAGING / unit, units)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", "cove.socket")
    try:
        yield
    finally:
        if names := docker("ps", "-aq", check=False).stdout.split():
            docker("rm", "-f", *names)
        run("systemctl", "disable", "--now", "cove.socket", "cove.service")
        for unit in UNITS:
            (units / unit).unlink()
        run("systemctl", "daemon-reload")
        for directory in (SETTINGS.parent, Path("/var/lib/cove"), Path("/run/cove")):
            shutil.rmtree(directory, ignore_errors=True)
        program.unlink()


@pytest.fixture
def image(installed: None, archive: Path) -> str:
    if "busybox" not in docker("images").stdout:
        docker("import", str(archive), "busybox:latest")
    return "busybox"


@pytest.fixture
def container(image: str) -> Iterator[str]:
    """One that counts into its log, and serves a page on port 18099 of every address."""
    script = f"mkdir /www; echo here > /www/index.html; httpd -p 80 -h /www; {COUNTING}"
    identity = docker("run", "-d", "-p", "18099:80", image, "sh", "-c", script).stdout.strip()
    assert eventually(lambda: fetched() == "here")
    yield identity
    docker("rm", "-f", identity)


def fetched() -> str:
    try:
        with urllib.request.urlopen("http://127.0.0.1:18099/", timeout=5) as page:
            return str(page.read().decode().strip())
    except OSError:
        return ""


def pid_of(container: str) -> str:
    return docker("inspect", "-f", "{{.State.Pid}}", container).stdout.strip()


def counted(container: str) -> int:
    """How far it has counted; each number is in its log, once and in order."""
    numbers = [int(line) for line in docker("logs", container).stdout.splitlines()]
    assert numbers == list(range(len(numbers)))
    return len(numbers)


# ── beginning ─────────────────────────────────────────────────────────────────────────────────────


def test_systemd_finds_nothing_to_complain_about(installed: None) -> None:
    done = run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in UNITS), check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_first_call_begins_the_daemon(installed: None) -> None:
    run("systemctl", "stop", "cove.service")
    assert shown("cove.socket", "ActiveState", "SubState") == ["active", "listening"]
    assert shown("cove.service", "ActiveState") == ["inactive"]
    assert os.stat("/run/cove/cove.sock").st_mode & 0o777 == 0o660
    assert docker("version", "--format", "{{.Server.Version}}").stdout.strip()
    assert shown("cove.service", "ActiveState", "SubState") == ["active", "running"]
    assert Path(f"/proc/{main_pid()}/comm").exists()


def test_it_counts_as_begun_when_it_serves_and_says_what(installed: None) -> None:
    run("systemctl", "stop", "cove.service")
    run("systemctl", "start", "cove.service")
    assert shown("cove.service", "Type", "NotifyAccess") == ["notify", "main"]
    assert shown("cove.service", "StatusText")[0].endswith("on /var/lib/cove and /run/cove")


def test_the_cove_command_needs_no_more(installed: None) -> None:
    run("systemctl", "stop", "cove.service")
    assert run("/usr/bin/cove", "ps", "-aq").returncode == 0
    assert shown("cove.service", "ActiveState") == ["active"]


# ── containers do not belong to the service ───────────────────────────────────────────────────────


def test_a_restart_is_nothing_to_a_container(container: str) -> None:
    before, pid, daemon = counted(container), pid_of(container), main_pid()
    run("systemctl", "restart", "cove.service")
    assert main_pid() != daemon
    assert pid_of(container) == pid
    assert docker("exec", container, "echo", "inside").stdout == "inside\n"
    assert fetched() == "here"
    assert eventually(lambda: counted(container) > before)


def test_it_runs_on_logged_and_published_while_the_service_is_stopped(container: str) -> None:
    pid = pid_of(container)
    run("systemctl", "stop", "cove.service")
    assert shown("cove.service", "ActiveState", "Result") == ["inactive", "success"]
    assert Path(f"/proc/{pid}").exists()
    assert fetched() == "here"
    time.sleep(1)
    assert shown("cove.service", "ActiveState") == ["inactive"]
    assert pid_of(container) == pid, "the socket begins another daemon, and it knows the container"
    assert counted(container) > 5


def test_an_exit_while_the_service_was_stopped_is_known(image: str) -> None:
    script = "while [ ! -e /go ]; do usleep 100000; done; exit 7"
    identity = docker("run", "-d", image, "sh", "-c", script).stdout.strip()
    pid = pid_of(identity)
    run("systemctl", "stop", "cove.service")
    Path(f"/proc/{pid}/root/go").touch()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert docker("inspect", "-f", "{{.State.ExitCode}}", identity).stdout.strip() == "7"
    docker("rm", identity)


@pytest.mark.parametrize("whom", ["main", "all"])
def test_a_daemon_that_was_killed_comes_back(container: str, whom: str) -> None:
    """Alone, and with all that is in its group: the supervisor, the forker, the resolver."""
    pid, daemon = pid_of(container), main_pid()
    run("systemctl", "kill", f"--kill-whom={whom}", "--signal=KILL", "cove.service")
    assert eventually(lambda: main_pid() not in (0, daemon))
    assert pid_of(container) == pid
    assert docker("exec", container, "echo", "inside").stdout == "inside\n"
    assert fetched() == "here"


def test_nothing_that_the_service_is_given_reaches_a_container(container: str) -> None:
    pid = pid_of(container)
    assert Path(f"/proc/{main_pid()}/oom_score_adj").read_text() == "-500\n"
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
    assert docker("exec", container, "cat", "/proc/self/oom_score_adj").stdout == "0\n"
    names = {word.partition(b"=")[0] for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
    assert not names & {b"NOTIFY_SOCKET", b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES", b"INVOCATION_ID"}
    assert "cove.service" not in Path(f"/proc/{pid}/cgroup").read_text()
    assert shown("cove.service", "Delegate", "KillMode", "TasksMax") == ["yes", "process", "infinity"]


def test_a_stopped_service_with_no_container_has_no_process(image: str) -> None:
    docker("run", "--rm", image, "true")
    run("systemctl", "stop", "cove.service")
    group = Path("/sys/fs/cgroup/system.slice/cove.service/cgroup.procs")
    assert not group.exists() or group.read_text() == ""


# ── the configuration ─────────────────────────────────────────────────────────────────────────────


def labels() -> list[str]:
    return list(json.loads(docker("info", "--format", "{{json .Labels}}").stdout))


@pytest.fixture
def settings(image: str) -> Iterator[Path]:
    yield SETTINGS
    SETTINGS.unlink(missing_ok=True)
    run("systemctl", "restart", "cove.service")


def test_reload_reads_the_configuration_and_refuses_one_with_errors(settings: Path) -> None:
    daemon = main_pid()
    settings.write_text('labels = ["rack=7"]\n')
    run("systemctl", "reload", "cove.service")
    assert eventually(lambda: labels() == ["rack=7"])
    settings.write_text('label = ["rack=8"]\n')
    assert run("systemctl", "reload", "cove.service", check=False).returncode != 0
    said = run("journalctl", "-u", "cove.service", "-n", "20", "-o", "cat").stdout
    assert "/etc/cove/daemon.toml is refused: there is no key `label`" in said
    assert (main_pid(), labels()) == (daemon, ["rack=7"])


def test_hosts_of_the_configuration_are_served_beside_the_socket(settings: Path, tmp_path: Path) -> None:
    settings.write_text(f'hosts = ["unix://{tmp_path}/more.sock"]\n')
    run("systemctl", "restart", "cove.service")
    assert run("docker", "-H", f"unix://{tmp_path}/more.sock", "ps", "-q").returncode == 0
    assert docker("ps", "-q").returncode == 0


def test_scopes_of_systemd_outlive_the_service_too(settings: Path) -> None:
    settings.write_text('cgroup_driver = "systemd"\n')
    run("systemctl", "restart", "cove.service")
    identity = docker("run", "-d", "--cgroup-parent", "covetest.slice", "busybox", "sleep", "600").stdout.strip()
    pid = pid_of(identity)
    try:
        scope = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("/")[2]
        assert shown(scope, "ActiveState", "Slice") == ["active", "covetest.slice"]
        run("systemctl", "stop", "cove.service")
        assert shown(scope, "ActiveState") == ["active"]
        assert pid_of(identity) == pid
    finally:
        docker("rm", "-f", identity)
        run("systemctl", "stop", "covetest.slice")
