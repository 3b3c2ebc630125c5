"""The life of a container's first process between clone3 and execve.

    supervisor                              init (this module)                      daemon
      │── clone3(flags_for(spec)) ───────────▶│ close_range: keeps only its own fds
      │   cgroup v1: writes the pid           │
      │   user namespace: writes the id maps  │
      │── one packet on gate ────────────────▶│ session, keyring, cgroup namespace,
      │                                       │ mounts, /dev, masks, pivot_root
      │◀─ pty master (SCM_RIGHTS) on gate ────│ when stdio.console
      │                                       │ waits on sync ◀──────────────── Go ──│
      │                                       │ interfaces, sysctls, user, limits,
      │                                       │ capabilities, seccomp, execve ─▶ EOF on sync ─▶│
      │                                       │ or Failed(stage, errno, message) ─────────────▶│

The mounts are made before the barrier, while the daemon prepares the network: both sides work at once.
A failure before Go is sent on sync all the same and waits there for the daemon (whose Go may then meet
EPIPE: it shall read on).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from cove.oci.spec import Spec
from cove.runtime.messages import Launch


@dataclass(frozen=True, slots=True)
class ChildStdio:
    """What becomes descriptors 0, 1 and 2; None is the container's /dev/null.

    `console`: all three are a pty of the container's own devpts instead; its master is sent to the
    supervisor on the gate, with the packet b"pty".
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    console: bool = False


def flags_for(spec: Spec) -> int:
    """The CLONE_NEW* flags that clone3 takes for `spec` (cgroup and time namespaces are made later, by init)."""
    raise NotImplementedError


def run(launch: Launch, *, sync_fd: int, gate_fd: int, stdio: ChildStdio, seccomp: bytes = b"") -> NoReturn:
    """Become the container's first process; called in the child right after clone3. Never returns.

    `sync_fd`: SEQPACKET to the daemon. The supervisor closes its own copy right after clone3, so that
    execve (or exit) is end of file there.
    `gate_fd`: SEQPACKET to the supervisor, which sends one packet (any content) when the process is in its
    cgroup and its id maps are written; end of file instead makes init exit. The pty master comes back on it.
    `seccomp`: the compiled filter (cove.kernel.seccomp.compile), empty for none.

    The gate also ends (EOF) at execve or exit. For a terminal the supervisor answers Created when the master
    or EOF has arrived on the gate, without blocking on it.
    """
    raise NotImplementedError
