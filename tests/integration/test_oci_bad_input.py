"""`cove-oci` and what cannot be: one sentence, the reference's exit code, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN
from tests.integration.bundles import Bundle, bundle, config
from tests.integration.test_oci_command_line import called, ended, left, refused

__all__ = ["bundle"]

pytestmark = pytest.mark.root


def ids(*numbers: int) -> list[dict[str, int]]:
    """Mappings, each of them three numbers: inside, outside, how many."""
    names = ("containerID", "hostID", "size")
    return [dict(zip(names, numbers[at : at + 3], strict=True)) for at in range(0, len(numbers), 3)]


MEMBERS: list[tuple[str, Any, str]] = [
    ("ociVersion", "2.0.0", "ociVersion 2.0.0"),
    ("process", None, "no process"),
    ("process.args", [], "args is empty"),
    ("process.args", "true", "$.process.args"),
    ("process.args", ["no-such-program"], "executable file not found in $PATH"),
    ("process.args", ["/etc"], "is a directory"),
    ("process.cwd", None, "`cwd`"),
    ("process.cwd", "tmp", "absolute path"),
    ("process.user.uid", "root", "$.process.user.uid"),
    ("process.user.uid", -1, "out of range"),
    ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "RLIMIT_X"),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}], "above the hard limit"),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2, "RLIMIT_CORE twice"),
    ("process.oomScoreAdj", 2000, "-1000 to 1000"),
    ("process.user.additionalGids", list(range(1, 70000)), "65536"),
    ("process.consoleSize", {"height": -1, "width": 80}, "consoleSize.height"),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 30}, "0 to 7"),
    ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 99}, "-20 to 19"),
    ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 1000}, "from 1 to 99"),
    (
        "process.scheduler",
        {"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 5, "period": 3},
        "runtime 9 must be between",
    ),
    ("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 9000, "deadline": 5000}, "<= deadline 5000"),
    ("process.execCPUAffinity", {"initial": "first"}, "no list of numbers"),
    ("hostname", "x" * 65, "at most 64 bytes"),
    ("domainname", "x" * 65, "at most 64 bytes"),
    ("process.apparmorProfile", "no-such-profile", "no-such-profile"),
    ("root", None, "no root"),
    ("root.path", "/nowhere", "/nowhere"),
    ("root.path", "/etc/passwd", "is no directory"),
    ("mounts", [{"destination": "/x", "type": "nofs", "source": "x"}], "no file system nofs"),
    ("mounts", [{"destination": "/x", "type": "bind", "source": "/nowhere"}], "/nowhere"),
    ("mounts", [{"type": "tmpfs"}], "`destination`"),
    ("mounts", [{"destination": "/x", "type": "cgroup", "source": "c", "options": ["odd"]}], "odd"),
    ("hooks", {"prestart": [{"path": "true"}]}, "true is no absolute path"),
    ("hooks", {"createContainer": [{"path": "/nowhere"}]}, "/nowhere cannot be run"),
    ("linux", None, "linux section"),
    ("linux.namespaces", [{"type": "invented"}], "invented"),
    ("linux.namespaces", [{"type": "mount"}, {"type": "pid"}, {"type": "pid"}], "twice"),
    ("linux.namespaces", [{"type": "mount"}], "uts"),
    ("linux.namespaces", [{"type": kind} for kind in ("mount", "pid", "uts", "user")], "linux.uidMappings"),
    (
        "linux.namespaces",
        [{"type": "mount"}, {"type": "pid", "path": "/nowhere"}],
        "pid namespace /nowhere cannot be",
    ),
    ("linux.uidMappings", ids(0, 300000, 10), "linux.namespaces has none"),
    ("linux.timeOffsets", {"monotonic": {"secs": 5}}, "linux.namespaces has none"),
    ("linux.resources", {"memory": {"limit": "1g"}}, "memory.limit"),
    ("linux.resources", {"memory": {"limit": 4096}}, "limit"),
    ("linux.resources", {"cpu": {"cpus": "4000"}}, "CPUs"),
    ("linux.sysctl", {"vm.swappiness": "1"}, "vm.swappiness"),
    ("linux.rootfsPropagation", "odd", "odd"),
    ("linux.devices", [{"path": "/dev/x", "type": "q", "major": 1, "minor": 1}], "/dev/x"),
    ("linux.devices", [{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}], "major number of /dev/x"),
    ("linux.devices", [{"path": "/dev/x", "type": "c", "major": 1, "minor": 1 << 20}], "minor number of /dev/x"),
    ("linux.devices", [{"path": "/dev/x", "type": "c", "major": 1, "minor": 1, "uid": -1}], "uid of /dev/x"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ODD"}, "SCMP_ACT_ODD"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99999}, "0 to 4095"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["ODD"]}, "unknown architecture 'ODD'"),
]


def changed(member: str, value: Any) -> dict[str, Any]:
    """A configuration with one member replaced, or left out (None)."""
    content = config("true")
    within = content
    *above, name = member.split(".")
    for each in above:
        within = within[each]
    if value is None:
        del within[name]
    else:
        within[name] = value
    return content


def one_sentence(bundle: Bundle, verb: str) -> str:
    """How the command fails; nothing is left of the container."""
    name = bundle.name()
    said = refused(bundle, verb, "--bundle", str(bundle.path), name)
    assert not left(bundle, name)
    return said


@pytest.mark.parametrize(("member", "value", "reason"), MEMBERS)
def test_a_member_that_cannot_be(bundle: Bundle, member: str, value: Any, reason: str) -> None:
    bundle.write(changed(member, value))
    for verb in ("create", "run"):
        assert reason in one_sentence(bundle, verb)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nowhere", "no such file or directory"),
        ("/etc/passwd", "the file is no namespace"),
        ("/dev/null", "the file is no namespace"),
        ("OTHER", "it is a "),
    ],
)
@pytest.mark.parametrize("kind", "user pid network ipc uts mount cgroup time".split())
def test_a_path_that_is_no_such_namespace(bundle: Bundle, kind: str, path: str, reason: str) -> None:
    content = config("true")
    path = path.replace("OTHER", f"/proc/self/ns/{'net' if kind == 'uts' else 'uts'}")
    listed = [each for each in content["linux"]["namespaces"] if each["type"] != kind]
    content["linux"]["namespaces"] = [*listed, {"type": kind, "path": path}]
    bundle.write(content)
    said = one_sentence(bundle, "create")
    assert f"the {kind} namespace {path} cannot be joined: {reason}" in said


def test_the_own_user_namespace_by_its_path(bundle: Bundle) -> None:
    """The kernel refuses it with the errno of everything else (setns(2))."""
    content = config("true")
    content["linux"]["namespaces"].append({"type": "user", "path": "/proc/self/ns/user"})
    bundle.write(content)
    assert "leave `user` out of linux.namespaces" in one_sentence(bundle, "create")


@pytest.mark.parametrize(
    ("mappings", "reason"),
    [
        (ids(0, 300000, 10, 5, 400000, 10), "overlap"),
        (ids(0, 300000, 10, 20, 300005, 10), "overlap"),
        (ids(0, 300000, 0), "no such ids"),
        (ids(0, -1, 1), "no such ids"),
        (ids(0, 4294967290, 10), "no such ids"),
        (ids(1, 300000, 10), "has no id 0"),
        ([each for at in range(341) for each in ids(at, 300000 + at, 1)], "340 at most"),
    ],
)
def test_mappings_that_no_kernel_takes(bundle: Bundle, mappings: list[dict[str, int]], reason: str) -> None:
    content = config("true")
    content["linux"]["namespaces"].append({"type": "user"})
    for good, bad in (("uidMappings", "gidMappings"), ("gidMappings", "uidMappings")):
        content["linux"] |= {good: ids(0, 300000, 100), bad: mappings}
        bundle.write(content)
        said = one_sentence(bundle, "create")
        assert f"linux.{bad}" in said and reason in said


@pytest.mark.parametrize(
    ("offsets", "reason"),
    [
        ({"realtime": {"secs": 5}}, "no clock 'realtime'"),
        ({"boottime": {"secs": 1, "nanosecs": 2 * 10**9}}, "0 to 999999999"),
        ({"boottime": {"secs": -(10**12)}}, "boottime -1000000000000 s"),
    ],
)
def test_offsets_that_no_clock_has(bundle: Bundle, offsets: dict[str, Any], reason: str) -> None:
    content = config("true")
    content["linux"]["namespaces"].append({"type": "time"})
    content["linux"]["timeOffsets"] = offsets
    bundle.write(content)
    assert reason in one_sentence(bundle, "create")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\0\1", b'{"ociVersion": "1.0.0\\u0000"}', b"\xff"]
)
def test_no_configuration(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "config.json").write_bytes(content)
    assert "is no valid configuration" in one_sentence(bundle, "create")


def test_no_bundle(bundle: Bundle, tmp_path: Path) -> None:
    for path, reason in (("/nowhere", "is no directory"), (str(tmp_path), "has no config.json")):
        name = bundle.name()
        assert reason in refused(bundle, "create", "--bundle", path, name)
        assert not left(bundle, name)


@pytest.mark.parametrize("verb", "state start kill pause resume update events ps delete exec".split())
def test_a_container_that_is_not_there(bundle: Bundle, verb: str) -> None:
    words = [verb, "nobody", *(["true"] if verb == "exec" else [])]
    assert "container does not exist" in refused(bundle, *words, code=255 if verb == "exec" else 1)


def test_steps_out_of_turn(bundle: Bundle) -> None:
    def refuse(*words: str, code: int = 1) -> str:
        return refused(bundle, *words, code=code)

    with bundle.living(config("sleep", "60")) as name:
        taken: Callable[[], str] = lambda: refuse("create", "--bundle", str(bundle.path), name)  # noqa: E731
        assert "already running" in refuse("start", name) and "already exists" in taken()
        assert "not stopped" in refuse("delete", name) and "not paused" in refuse("resume", name)
        assert bundle.call("pause", name).returncode == 0
        assert "paused" in refuse("pause", name) and "paused" in refuse("exec", name, "true", code=255)
        assert "not stopped" in refuse("delete", name)
        assert bundle.call("kill", name, "KILL").returncode == 0, "a paused container dies at once"
        assert ended(bundle, name)
        assert "stopped" in refuse("start", name) and "not running" in refuse("kill", name, "KILL")
        assert "stopped" in refuse("exec", name, "true", code=255) and "stopped" in refuse("pause", name)
        assert "not running" in refuse("update", name, "--pids-limit", "5") and "stopped" in refuse("events", name)
        assert "already exists" in taken()
        assert bundle.call("delete", name).returncode == 0
        assert "does not exist" in refuse("delete", name) and bundle.call("delete", "--force", name).returncode == 0
        assert not left(bundle, name)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    done = called("--log", str(tmp_path / "no/log"), "list")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr
    log = tmp_path / "log"
    assert called("--log", str(log), "--root", str(tmp_path), "list").returncode == 0 and log.read_text() == ""


def test_an_example_says_what_other_runtimes_want_said(tmp_path: Path) -> None:
    assert called("spec", "--bundle", str(tmp_path)).returncode == 0
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_a_user_namespace_in_a_chroot(bundle: Bundle, tmp_path: Path) -> None:
    """The kernel makes none there (user_namespaces(7)), which its errno alone does not tell."""
    content = config("true")
    content["linux"]["namespaces"].append({"type": "user"})
    content["linux"]["uidMappings"] = content["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 300000, "size": 1000}
    ]
    bundle.write(content)
    command = f"{BIN}/cove-oci --root {bundle.state} run --bundle {bundle.path} {bundle.name()}"
    script = f"mount --rbind / {tmp_path} && exec chroot {tmp_path} {command}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done
    assert "no process with new namespaces (user, pid, " in done.stderr
    assert "chroot" in done.stderr
    assert not list(bundle.state.glob("*")), "nothing is left"
