"""Processes that somebody traces: their end is the tracer's to see first, and no container's end may hang on that.

A container's own processes may trace each other, with no right but that to be of one user.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.integration.faults_world import pids

pytestmark = pytest.mark.root

_TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(0x4206, int(sys.argv[1]), None, None), flush=True)
sys.stdin.read()
"""


@contextmanager
def _traced(pid: int) -> Iterator[None]:
    """PTRACE_SEIZE, which stops nothing; the tracer never waits for it."""
    tracer = subprocess.Popen(
        [sys.executable, "-c", _TRACER, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert tracer.stdin is not None and tracer.stdout is not None
    try:
        assert tracer.stdout.readline() == b"0\n"
        yield
    finally:
        tracer.stdin.close()
        tracer.wait()
        tracer.stdout.close()


def _asleep(seconds: str) -> int:
    """The process `sleep seconds`."""
    found: list[int] = []

    def look() -> bool:
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and (entry / "cmdline").read_bytes() == f"sleep\0{seconds}\0".encode():
                    found.append(int(entry.name))
        return bool(found)

    assert eventually(look)
    return found[0]


@pytest.mark.parametrize("orphaned", [False, True])
def test_the_end_of_a_traced_process_is_told_and_it_is_buried_later(own_daemon: Daemon, orphaned: bool) -> None:
    """`orphaned`: its supervisor dies meanwhile, and the daemon is to bury it."""
    daemon = own_daemon
    daemon.cove("run", "-d", "--name", "traced", "busybox", "sleep", "1000")
    seconds = f"77{os.getpid()}"
    daemon.cove("exec", "-d", "traced", "sleep", seconds)
    pid = _asleep(seconds)
    with _traced(pid):
        if orphaned:
            (supervisor,) = pids(daemon, "supervisor")
            os.kill(supervisor, signal.SIGKILL)
            assert eventually(lambda: pids(daemon, "supervisor") not in ([], [supervisor]))
            daemon.cove("exec", "traced", "true")
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text())
        assert eventually(lambda: json.loads(daemon.docker("inspect", "traced").stdout)[0]["ExecIDs"] in (None, []))
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    daemon.cove("rm", "-f", "traced")
