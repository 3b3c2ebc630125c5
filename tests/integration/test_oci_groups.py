"""The control group of `cove-oci`'s containers: limits changed, idleness, groups below it, its view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bundles import SLEEP, Bundle, bundle, config, create, good, living, name, refused

__all__ = ["bundle", "living", "name"]

pytestmark = pytest.mark.root


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


def test_without_a_cgroup_namespace_only_the_own_group_is_seen(bundle: Bundle) -> None:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("version 2 shows its tree to whoever is in the host's cgroup namespace")
    content = config("sh", "-c", "ls -d /sys/fs/cgroup/memory/*/ ; cat /sys/fs/cgroup/pids/cgroup.procs")
    content["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]})
    content["linux"]["namespaces"] = [each for each in content["linux"]["namespaces"] if each["type"] != "cgroup"]
    done = bundle.run(content)
    assert "1" in done.stdout.split() and "cove" not in done.stdout, done


# ── idleness ──────────────────────────────────────────────────────────────────────────────────────


def idle_config() -> dict[str, Any]:
    content = config(*SLEEP)
    content["linux"]["resources"]["cpu"] = {"idle": 1}
    return content


def idleness(bundle: Bundle, name: str) -> str:
    """What the kernel says of the container's group."""
    directories = json.loads((bundle.state / name / "state.json").read_text())["cgroup_directories"]
    (file,) = (file for each in directories if (file := Path(each, "cpu.idle")).exists())
    return file.read_text().strip()


def test_a_container_is_idle_from_its_program_on(bundle: Bundle, name: str) -> None:
    """Its creation is somebody's wait, and would not end on a host that has no time to spare."""
    create(bundle, name, idle_config())
    assert idleness(bundle, name) == "0"
    good(bundle, "start", name)
    assert idleness(bundle, name) == "1"
    with bundle.living(idle_config()) as other:
        assert idleness(bundle, other) == "1"


def test_idleness_may_be_changed_before_the_program_and_after(bundle: Bundle, name: str) -> None:
    create(bundle, name, idle_config())
    good(bundle, "update", "--cpu-idle", "0", name)
    good(bundle, "start", name)
    assert idleness(bundle, name) == "0"
    good(bundle, "update", "--cpu-idle", "1", name)
    assert idleness(bundle, name) == "1"


def test_nothing_is_idler_than_idle(bundle: Bundle) -> None:
    content = idle_config()
    content["linux"]["resources"]["cpu"]["idle"] = 2
    assert "0 or 1" in bundle.refusal(content)
