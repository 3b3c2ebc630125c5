"""More descriptors than select(2) can count (1024), as a daemon of many containers has: the firewall works on."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

_PROGRAM = """
import os
from cove.network.firewall import Firewall
from cove.network.ruleset import Ruled
firewall = Firewall("cove-many")
for _ in range(1100):
    os.open("/dev/null", os.O_RDONLY)
firewall.add_bridge(Ruled(link="lo", subnets=("10.9.8.0/24",)))
firewall.remove()
"""


def test_the_first_bridge_comes_when_many_descriptors_are_open() -> None:
    command = ["unshare", "--net", sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
