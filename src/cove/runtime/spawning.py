"""A supervisor as a process: how one is begun, and begun early.

Imports little: a daemon begins its supervisor before it loads itself, so that both interpreters start side by side.
Whether the supervisor answers, and what is said to it, is `runtime.client`'s.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cove.kernel import mounts
from cove.paths import Instance, RunRoot

Supervisor = subprocess.Popen[bytes]


def spawn(run: RunRoot) -> Supervisor:
    """Begin the supervisor of a run root, in a session of its own: it outlives who begins it. Raises OSError."""
    run.containers.mkdir(mode=0o700, parents=True, exist_ok=True)
    parent = Instance.of(run).cgroup_parent
    words = ["-m", "cove.runtime.supervisor", "--run-root", str(run.root), "--cgroup-parent", parent]
    # Containers are born of this process: executed from a read-only mount, its interpreter is beyond the reach
    # of a container that finds it at /proc/self/exe.
    interpreter = mounts.readonly_file(sys.executable)
    try:
        return subprocess.Popen(
            [sys.executable, *words],
            executable=f"/proc/self/fd/{interpreter}",
            pass_fds=(interpreter,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(interpreter)


class Early:
    """A supervisor that was begun before anybody could speak with it, until `taken`."""

    def __init__(self, process: Supervisor | None) -> None:
        self._process = process

    def taken(self) -> Supervisor | None:
        """The process, once: from here on its taker answers for it. None when there was no need for one."""
        process, self._process = self._process, None
        return process


@contextmanager
def begun(run: RunRoot) -> Iterator[Early]:
    """Begin one where none has left its socket; it is ended again unless somebody takes it.

    A socket that nobody serves is for `runtime.client` to find out.
    """
    early = Early(None if run.supervisor_socket.exists() else spawn(run))
    try:
        yield early
    finally:
        if (process := early.taken()) is not None:
            process.kill()
            process.wait()
            run.supervisor_socket.unlink(missing_ok=True)
