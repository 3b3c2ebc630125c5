"""Programs of the host that a build needs: none of what one begins outlives it, alive or as a zombie.

What a program leaves behind becomes the daemon's child, which has asked for orphans (prctl(2),
PR_SET_CHILD_SUBREAPER). So each runs in a process group of its own, and the group ends with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cove.errors import Unavailable


def run(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Its exit code and output as text. Unavailable when it does not end in `seconds`."""
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
    )
    with process:
        try:
            output, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{words[0]} did not end within {seconds:.0f} seconds, and was ended") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            _bury(process.pid)
    return subprocess.CompletedProcess(words, process.returncode, output, complaint)


def _bury(group: int) -> None:
    """End and reap what is left of a group whose leader is gone. As long as anything is, the number is its own."""
    while True:
        try:
            os.waitid(os.P_PGID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            os.killpg(group, signal.SIGKILL)
            os.waitid(os.P_PGID, group, os.WEXITED)
        except (ChildProcessError, ProcessLookupError):
            return
