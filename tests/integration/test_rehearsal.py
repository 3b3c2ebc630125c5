"""The rehearsal by which the forker learns what a start uses of its memory."""

from __future__ import annotations

import os

import msgspec
import pytest

from cove.oci.spec import Mount
from cove.runtime import rehearsal

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def test_a_rehearsal_goes_all_the_way_and_leaves_nothing() -> None:
    mounts, descriptors, children = _mounts(), os.listdir("/proc/self/fd"), _children()
    learnt = rehearsal.learn()
    assert len(learnt) > 50
    assert _mounts() == mounts
    assert os.listdir("/proc/self/fd") == descriptors
    assert _children() == children


def _children() -> str:
    with open("/proc/thread-self/children", encoding="utf-8") as file:
        return file.read()


def _mounts() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def test_one_that_is_not_allowed_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> tuple[int, int]:
        raise PermissionError("clone3")

    monkeypatch.setattr("cove.kernel.process.clone", refuse)
    assert rehearsal.learn() == []


def test_one_that_fails_midway_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has no such file system, say."""
    whole = rehearsal.LAUNCH
    wanted = (*whole.spec.mounts, Mount(destination="/data", type="nosuchfs"))
    broken = msgspec.structs.replace(whole, spec=msgspec.structs.replace(whole.spec, mounts=wanted))
    monkeypatch.setattr(rehearsal, "LAUNCH", broken)
    assert rehearsal.learn() == []
