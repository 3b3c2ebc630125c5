"""Many descriptors: more than select(2) can count (1024), as many containers need; and as many as it may."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, eventually, new_daemon

pytestmark = pytest.mark.root

_PROGRAM = """
import os, sys
from pathlib import Path
from cove.network.firewall import Firewall
from cove.network.forwarding import Forwarding
from cove.network.ruleset import Ruled
firewall = Firewall("cove-many", Forwarding(Path(sys.argv[1])))
for _ in range(1100):
    os.open("/dev/null", os.O_RDONLY)
firewall.add_bridge(Ruled(link="lo", subnets=("10.9.8.0/24",)))
firewall.remove()
"""


def test_the_first_bridge_comes_when_many_descriptors_are_open(tmp_path: Path) -> None:
    command = ["unshare", "--net", sys.executable, "-c", _PROGRAM, str(tmp_path / "forwarding.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 * PATIENCE)
    assert done.returncode == 0, done.stderr


def test_a_daemon_without_descriptors_says_so_and_lives_on(archive: Path) -> None:
    """Neither containers nor clients take the last ones; clients that cannot be let in wait, and no log tells it
    thousands of times."""
    daemon = new_daemon()
    daemon.around = ("prlimit", "--nofile=72:72")
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        refusals: list[str] = []
        while not refusals:
            done = daemon.cove("run", "-d", "busybox", "sleep", "600", check=False)
            refusals += [done.stderr] if done.returncode else []
        assert "no descriptors for another container" in refusals[0]
        running = daemon.cove("ps", "-q").stdout.split()
        assert daemon.cove("exec", running[0], "echo", "there").stdout == "there\n"
        before = len(daemon.log())
        with ExitStack() as clients:
            for _ in range(100):
                clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(daemon.run / "cove.sock"))
            assert eventually(lambda: "out of system resource" in daemon.log())
        assert daemon.cove("exec", running[0], "echo", "there").stdout == "there\n"
        assert (daemon.root / "daemon.log").stat().st_size - before < 100_000
        daemon.cove("rm", "-f", running[0])
        daemon.cove("run", "--rm", "busybox", "true")
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)
