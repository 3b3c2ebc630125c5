"""Control groups v2 and systemd for real: a few tests run in an emulated guest. `make test-guest` runs them all.

The guest is made of Debian's packages the first time (build/guest), and needs no network afterwards. Where it is
one test among others, its run was begun with theirs (tests/ahead.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ahead import Beside

PROJECT = Path(__file__).parents[2]
NO_GUEST = 75
"""tools/guest.py's word for a host that cannot have one, or only too slowly."""
LIMITS = "tests/integration/test_resources.py"
SELECTED = (
    "tests/integration/test_cgroups_kernel.py",
    "tests/integration/test_systemd_cgroups.py::test_a_container_is_a_scope_with_its_limits",
    "tests/integration/test_systemd_cgroups.py::test_cove_oci_asks_systemd",
    f"{LIMITS}::test_more_memory_than_the_limit_is_death_told_by_every_door[cove]",
    f"{LIMITS}::test_a_fork_bomb_meets_the_limit_and_more_is_granted_live[cove]",
)
COMMAND = [sys.executable, str(PROJECT / "tools/guest.py"), "--timeout", "1500", *SELECTED]


@pytest.mark.root
@pytest.mark.timeout(3600)
def test_limits_hold_in_a_guest_with_systemd_and_cgroup_v2(beside: Beside | None) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86 is not installed; tools/install-packages guest installs it where it exists")
    done = beside and beside.guest()
    done = done or subprocess.run(COMMAND, capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    if done.returncode == NO_GUEST:
        pytest.skip(f"there is no guest on this host: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert " failed" not in done.stdout
    assert " error" not in done.stdout
