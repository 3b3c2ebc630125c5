"""The life of an exec'd process between clone3 and execve: it joins a container and drops to its rights.

    supervisor: with namespaces.children_in(target pidfd): clone3 ──▶ this module, already in the pid namespace
      │── one packet on gate (in the cgroup) ─▶│ joins the other namespaces through the target's pidfd
      │◀─ pty master on gate ──────────────────│ when stdio.console
      │                                        │ waits on sync ◀── Go ── daemon; then as in cove.runtime.init
"""

from __future__ import annotations

from typing import NoReturn

from cove.runtime.init import ChildStdio
from cove.runtime.messages import ExecLaunch


def run(
    launch: ExecLaunch, *, target_pidfd: int, sync_fd: int, gate_fd: int, stdio: ChildStdio, seccomp: bytes = b""
) -> NoReturn:
    """Become a further process of the container whose first process `target_pidfd` is. Never returns.

    The descriptors' rules are those of `cove.runtime.init.run`.
    """
    raise NotImplementedError
