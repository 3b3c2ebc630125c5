"""Hooks of a runtime configuration: their order, what they read, where they begin, and what their failure ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
