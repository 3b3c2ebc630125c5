"""`cove-oci` as programs and people meet it: help, version, and a bad configuration or command line.

Each refusal is one sentence with the reference's code, and leaves nothing: no state, no control group, no process.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

pytestmark = pytest.mark.root

COMMANDS = "create start state kill delete run exec ps pause resume update events list spec features".split()


def called(*words: str, program: str | Path = BIN / "cove-oci") -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


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
    done = bundle.run(content)
    assert int(done.stdout.split()[1], 16) == 1 << 5
    assert "can't raise ambient capability CAP_CHOWN" in done.stderr and "CAP_KILL" not in done.stderr


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
