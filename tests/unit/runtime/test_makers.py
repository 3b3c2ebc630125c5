"""Which processes are stubs, and which do everything by themselves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from tests.conftest import eventually

from cove.oci.spec import Capabilities, Process
from cove.runtime.makers import is_ordinary_exec
from cove.runtime.messages import ExecLaunch

MOUNTS = Capabilities(bounding=("CAP_SYS_ADMIN",))


@pytest.fixture
def apart() -> Iterator[int]:
    """A process in a user namespace of its own."""
    held = subprocess.Popen(["unshare", "--user", "sleep", "60"], stderr=subprocess.DEVNULL)
    try:
        if not eventually(lambda: os.readlink(f"/proc/{held.pid}/ns/user") != os.readlink("/proc/self/ns/user"), 5):
            pytest.skip("this host lets nobody make a user namespace")
        yield held.pid
    finally:
        held.kill()
        held.wait()


def _exec(capabilities: Capabilities | None) -> ExecLaunch:
    return ExecLaunch(id="x", container="c", process=Process(cwd="/", capabilities=capabilities))


def test_an_exec_beside_one_that_may_mount_in_a_user_namespace_enters_that(apart: int) -> None:
    assert not is_ordinary_exec(_exec(MOUNTS), apart)
    assert is_ordinary_exec(_exec(Capabilities()), apart)
    assert is_ordinary_exec(_exec(None), apart)
    assert is_ordinary_exec(_exec(MOUNTS), os.getpid())
