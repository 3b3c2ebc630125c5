"""`cove-oci` as programs and people meet it: help, version, and a bad configuration or command line.

Each refusal is one sentence with the reference's code, and leaves nothing: no state, no control group, no process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, eventually
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

pytestmark = pytest.mark.root

COMMANDS = "create start state kill delete run exec ps pause resume update events list spec features".split()


def called(*words: str, program: str | Path = BIN / "cove-oci") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *words], capture_output=True, text=True, timeout=120 * PATIENCE, stdin=subprocess.DEVNULL
    )


def refused(bundle: Bundle, *words: str, code: int = 1) -> str:
    """What the failed command says: one sentence."""
    done = bundle.call(*words)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("cove-oci: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def ended(bundle: Bundle, name: str) -> bool:
    """Whether the container stops."""
    return eventually(lambda: json.loads(bundle.call("state", name).stdout)["status"] == "stopped")


def left(bundle: Bundle, name: str) -> list[str]:
    """What there still is of a container."""
    groups = [str(found) for found in Path("/sys/fs/cgroup").glob(f"*/cove-oci/{name}")]
    return groups + [str(each) for each in bundle.state.glob("*") if each.name == name]


# ── help ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_begins_with_the_name(flag: str) -> None:
    whole = called(flag)
    assert whole.returncode == 0 and whole.stdout.splitlines()[:2] == [
        "NAME:",
        "   cove-oci - Open Container Initiative runtime",
    ]
    for command in COMMANDS:
        assert f"   {command} " in whole.stdout
        told = called(command, flag)
        assert told.returncode == 0 and told.stdout.startswith(f"NAME:\n   cove-oci {command} - "), told.stdout
    assert called("help", "exec").stdout == called("exec", "--help").stdout
    assert called("help").stdout == called().stdout == whole.stdout


def test_the_version_as_engines_read_it() -> None:
    lines = called("--version").stdout.splitlines()
    assert [line.rsplit(" ", 1)[0] for line in lines] == ["cove-oci version", "commit:", "spec:"]


def test_it_is_called_by_the_name_that_it_was_installed_under(tmp_path: Path) -> None:
    (tmp_path / "runc").symlink_to(BIN / "cove-oci")
    assert called("--version", program=tmp_path / "runc").stdout.startswith("runc version ")
    assert "runc - Open Container" in called("--help", program=tmp_path / "runc").stdout


def test_an_engine_that_asks_for_checkpoints_is_told_no() -> None:
    asked = called("checkpoint", "--help")
    assert asked.returncode == 1 and "checkpoint is not supported" in asked.stderr


def test_an_unknown_command() -> None:
    for words in (("invent",), ("invent", "-h"), ("help", "invent")):
        done = called(*words)
        assert done.returncode == 3 and "No help topic for 'invent'" in done.stderr and not done.stdout


# ── what the reference does too ───────────────────────────────────────────────────────────────────


def test_a_destination_may_be_written_as_the_hosts_path(bundle: Bundle) -> None:
    content = config("cat", "/mnt/said")
    (bundle.path / "said").write_text("hello\n")
    content["mounts"].append(
        {"source": str(bundle.path), "destination": f"{bundle.rootfs}/mnt", "options": ["bind", "ro"]}
    )
    assert bundle.out(content) == "hello\n"


def test_unknown_letters_of_a_device_rule_are_told(bundle: Bundle) -> None:
    content = config("true")
    rule = {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rwa"}
    content["linux"].setdefault("resources", {})["devices"] = [rule]
    done = bundle.run(content)
    assert done.returncode == 0 and "unknown letters in the device access 'rwa'" in done.stderr
    content["linux"]["resources"]["devices"] = [rule | {"access": "x"}]
    assert "it is of r, w and m" in bundle.refusal(content)


def test_a_container_begins_on_every_processor_of_its_group(bundle: Bundle) -> None:
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        pytest.skip("one processor cannot be told from another")
    content = config("nproc")
    bundle.write(content)
    bound = {"preexec_fn": lambda: os.sched_setaffinity(0, {min(every)})}
    done = bundle.call("run", "--bundle", str(bundle.path), bundle.name(), **bound)
    assert int(done.stdout) >= len(every)
    with bundle.living(config("sleep", "60")) as name:
        assert int(bundle.call("exec", name, "nproc", **bound).stdout) >= len(every)


def test_a_capability_that_cannot_be_ambient_is_told(bundle: Bundle) -> None:
    content = config("grep", "CapAmb", "/proc/self/status")
    names = ["CAP_KILL", "CAP_CHOWN"]
    sets = dict.fromkeys(("bounding", "effective", "permitted", "ambient"), names)
    content["process"]["capabilities"] = sets | {"inheritable": ["CAP_KILL"]}
    assert not bundle.run(content).stderr, "root loses nothing by it"
    content["process"]["user"]["uid"] = 1000
    done = bundle.run(content)
    assert int(done.stdout.split()[1], 16) == 1 << 5
    assert "can't raise ambient capability CAP_CHOWN" in done.stderr and "CAP_KILL" not in done.stderr


def test_a_capability_that_the_runtime_does_not_have_is_told(bundle: Bundle) -> None:
    content = config("grep", "CapEff", "/proc/self/status")
    names = ["CAP_KILL", "CAP_SYS_TIME"]
    content["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    bundle.write(content)
    command = [str(BIN / "cove-oci"), "--root", str(bundle.state), "run", "--bundle", str(bundle.path), bundle.name()]
    done = subprocess.run(["setpriv", "--bounding-set=-sys_time", *command], capture_output=True, text=True)
    assert int(done.stdout.split()[1], 16) == 1 << 5
    assert "CAP_SYS_TIME cannot be given" in done.stderr and "CAP_KILL" not in done.stderr


def test_a_hybrid_hosts_unified_tree_has_the_group_too(bundle: Bundle) -> None:
    tree = Path("/sys/fs/cgroup/unified")
    if not (tree / "cgroup.procs").exists():
        pytest.skip("this host has control groups of one version only")
    with bundle.living(config("sleep", "60")) as name:
        own = Path(f"/proc/{bundle.pid(name)}/cgroup").read_text().splitlines()[-1]
        assert own == f"0::/cove-oci/{name}"
        assert bundle.call("exec", name, "tail", "-n1", "/proc/self/cgroup").stdout.startswith("0::/")
        assert '"psi"' in bundle.call("events", "--stats", name).stdout
    assert not left(bundle, name)


def test_systemds_own_tree_has_the_group_too(bundle: Bundle) -> None:
    """By which systemd knows that a process is not of the session or service that made the container."""
    if not Path("/sys/fs/cgroup/systemd/cgroup.procs").exists():
        pytest.skip("this host has no tree of systemd's of version 1")
    with bundle.living(config("sleep", "60")) as name:
        own = Path(f"/proc/{bundle.pid(name)}/cgroup").read_text()
        assert f":name=systemd:/cove-oci/{name}\n" in own
    assert not left(bundle, name)


def test_a_pidfd_goes_to_a_socket(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        bundle.write(config("sleep", "60"))
        name = bundle.name()
        flags = ("--pidfd-socket", str(path), "--bundle", str(bundle.path))
        quiet = {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        assert bundle.call("run", "--detach", *flags, name, **quiet).returncode == 0
        connection, _ = listener.accept()
        with connection:
            said, (pidfd,), _, _ = socket.recv_fds(connection, 64, 1)
        assert said == b"pidfd"
        pid = bundle.pid(name)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        assert not Path(f"/proc/{pid}").exists() or ended(bundle, name)
    bundle.call("delete", "--force", name)
    assert "--pidfd-socket" in refused(bundle, "run", "--pidfd-socket", "/nowhere", "--bundle", str(bundle.path), "x")


def test_a_created_container_ends_at_sigterm(bundle: Bundle) -> None:
    bundle.write(config("true"))
    name = bundle.name()
    quiet = {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert bundle.call("create", "--bundle", str(bundle.path), name, **quiet).returncode == 0
    assert bundle.call("kill", name, "TERM").returncode == 0
    assert ended(bundle, name)
    assert bundle.call("delete", name).returncode == 0


def test_the_mode_that_a_tmpfs_with_a_copy_is_given(bundle: Bundle) -> None:
    content = config("stat", "-c", "%a %u", "/there", "/new")
    (bundle.rootfs / "there").mkdir(mode=0o711, exist_ok=True)
    os.chown(bundle.rootfs / "there", 7, 7)
    for place, options in (("/there", ["tmpcopyup", "mode=1770"]), ("/new", ["tmpcopyup", "mode=1700", "uid=5"])):
        content["mounts"].append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
    assert bundle.out(content).splitlines() == ["1770 7", "1700 5"]


def test_a_root_that_follows_the_hosts_mounts(bundle: Bundle) -> None:
    """linux.rootfsPropagation "rslave": what the host mounts below the root later appears, never the other way."""
    script = "mkdir -p /tmp/own && mount -t tmpfs t /tmp/own; read x; ls /mnt"
    content = config("sh", "-c", script)
    content["linux"]["rootfsPropagation"] = "rslave"
    bundle.write(content)
    (bundle.rootfs / "mnt").mkdir(exist_ok=True)
    outer = f"""
        mount --bind {bundle.path} {bundle.path} && mount --make-shared {bundle.path} || exit 1
        cd {bundle.path}; mkfifo go; exec 3<>go
        {BIN}/cove-oci --root {bundle.state} run --bundle . {bundle.name()} <&3 &
        until mount -t tmpfs t rootfs/mnt && touch rootfs/mnt/seen; do sleep 0.1; done
        until [ -d rootfs/tmp/own ]; do sleep 0.1; done; sleep 0.2
        grep -c tmp/own /proc/self/mounts; echo >&3; wait; rm go"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", outer], capture_output=True, text=True, timeout=120 * PATIENCE, stdin=-3
    )
    assert done.stdout.split() == ["0", "seen"], done


def test_a_poststart_hook_that_fails_ends_a_run(bundle: Bundle) -> None:
    content = config("sleep", "60")
    content["hooks"] = {"poststart": [{"path": "/bin/true"}, {"path": "/bin/false"}]}
    assert "error running poststart hook #1: /bin/false failed: exit status 1" in bundle.refusal(content)


def test_list_wants_the_root_that_it_was_given(bundle: Bundle) -> None:
    done = called("--root", "/nowhere/at/all", "list")
    assert done.returncode == 1 and "/nowhere/at/all is no directory" in done.stderr


@pytest.mark.parametrize("confined", [False, True])
def test_a_start_container_hook_is_filtered_as_the_program(bundle: Bundle, confined: bool) -> None:
    content = config("true")
    content["process"]["noNewPrivileges"] = confined
    content["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }
    content["hooks"] = {"startContainer": [{"path": "/bin/mkdir", "args": ["mkdir", "/tmp/by-a-hook"]}]}
    said = bundle.refusal(content)
    assert "error running startContainer hook #0: /bin/mkdir failed" in said and "bad system call" in said
    assert not (bundle.rootfs / "tmp/by-a-hook").exists()
