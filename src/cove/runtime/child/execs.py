"""The life of an exec'd process between clone3 and execve: it joins a container and drops to its rights.

    supervisor: with namespaces.children_in(target pidfd): clone3 ──▶ this module, already in the pid namespace
      │── one packet on gate (in the cgroup) ─▶│ joins the other namespaces through the target's pidfd
      │◀─ pty master on gate ──────────────────│ when stdio.console
      │                                        │ waits on sync ◀── Go ── daemon; then as in cove.runtime.child.init

From the first join on, this process is among others that may be hostile: it is not dumpable and holds no
descriptor that is not its own.
"""

from __future__ import annotations

import os
from typing import NoReturn

from cove.kernel import mounts, namespaces, operations, process
from cove.oci.spec import Process
from cove.runtime import support
from cove.runtime.child import affinity, credentials, devices, filters, idmaps, labels
from cove.runtime.child.common import ORDINARY, Child, ChildStdio, Failure, Manner
from cove.runtime.child.init import become
from cove.runtime.child.stub import Stub
from cove.runtime.messages import ExecLaunch, Go

_SHARED = process.CLONE_NEWNS | process.CLONE_NEWNET | process.CLONE_NEWIPC | process.CLONE_NEWUTS
_SHARED |= process.CLONE_NEWCGROUP


def run(
    launch: ExecLaunch,
    *,
    target_pidfd: int,
    sync_fd: int,
    gate_fd: int,
    stdio: ChildStdio,
    seccomp: bytes = b"",
    manner: Manner = ORDINARY,
) -> NoReturn:
    """Become a further process of the container whose first process `target_pidfd` is. Never returns.

    The descriptors' rules are those of `cove.runtime.child.init.run`.
    """
    child = Child(sync_fd, gate_fd, manner)

    def start() -> NoReturn:
        child.isolate([target_pidfd, *stdio.descriptors()])
        work = Exec(child, launch, target_pidfd, stdio, seccomp)
        work.prepare()
        work.finish(child.wait_for_go())
        raise Failure("the program was not executed")

    child.run(start)


class Exec:
    """One further process: `prepare` needs nobody, `finish` comes after Go."""

    def __init__(self, child: Child, launch: ExecLaunch, target: int, stdio: ChildStdio, seccomp: bytes) -> None:
        self.child = child
        self.launch = launch
        self.target = target
        self.stdio = stdio
        self.seccomp = seccomp
        self.console: int | None = None

    def prepare(self) -> None:
        """All that can be done before Go."""
        child, launch, wanted = self.child, self.launch, self.launch.process
        with child.stage("spec"):
            support.check_process(wanted)
            self.sets = credentials.masks_of(wanted)
            labels.check(wanted)
            self.filter = filters.prepare(self.seccomp, launch.seccomp, launch.container, {}, "running")
            child.kept = self.filter.listener
        child.wait_for_gate()
        with child.stage("namespaces"):
            child.act(operations.new_session())
            child.act(operations.join_session_keyring(f"_cove.{launch.container[:12]}"))
            root = self._enter()
        if self.stdio.console:
            with child.stage("console"):
                master, self.console = devices.open_console(root, None, wanted.console_size, child.own_proc)
                child.send_master(master)
                os.close(master)
        with child.stage("user"):
            self.identity = credentials.identify(child, root, wanted, launch.user, launch.group_add)
        with child.stage("cwd"):
            child.act(operations.change_directory(credentials.enter_directory(root, wanted.cwd, make=False)))
        with child.stage("stdio"):
            credentials.place_stdio(child, root, self.stdio, self.console, self.identity)
        with child.stage("exec"):
            self.found = credentials.find_program(child, root, wanted, self.identity)

    def descriptors(self) -> list[int]:
        """Those that `finish` needs."""
        return []

    def _enter(self) -> int:
        """Into the container; a descriptor of its root."""
        root = _root_of(self.target) if self.launch.chrooted else -1
        _join(self.child, self.target, self.launch.process, self.stdio)
        os.close(self.target)
        if not self.launch.chrooted:
            return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(root)
        os.chroot(".")
        return root

    def finish(self, _: Go) -> None:
        """From Go to the program."""
        child, wanted = self.child, self.launch.process
        with child.stage("limits"):
            own = (
                mounts.new_filesystem("proc", "proc", ())
                if wanted.oom_score_adj is not None and not child.pid
                else -1
            )
            credentials.apply_limits(wanted, child.seen_in(own), child.pid)
            affinity.after(wanted)
            if labels.wanted(wanted):
                labels.apply(wanted, mounts.new_filesystem("proc", "proc", ()))
        become(
            child,
            wanted,
            self.identity,
            self.sets,
            self.filter,
            found=self.found,
            console=self.console,
            reaper=False,
        )


def _root_of(target: int) -> int:
    return os.open(f"/proc/{process.pid_of(target)}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


_FILES = {"mount": "mnt", "network": "net"}


def _join(child: Child, target: int, wanted: Process, stdio: ChildStdio) -> None:
    """All namespaces of the target but the pid one; its time and user namespaces when they are others than ours."""
    if isinstance(child, Stub):
        _join_stub(child, target, stdio)
        return
    kinds = _SHARED if _shares(target, "time") else _SHARED | process.CLONE_NEWTIME
    if _shares(target, "user"):
        try:
            namespaces.join_process(target, kinds)
        except PermissionError:  # root of a user namespace has no right to those that others own, and is in them
            for kind, flag in namespaces.FLAGS.items():
                if kinds & flag and not _shares(target, _FILES.get(kind, kind)):
                    namespaces.join_process(target, flag)
    else:
        idmaps.lend(stdio.descriptors(), process.pid_of(target))
        if wanted.oom_score_adj is not None:
            credentials.write_oom_score("/proc/self/oom_score_adj", wanted.oom_score_adj)
        namespaces.join_process(target, kinds | process.CLONE_NEWUSER)
        credentials.become_root(child)


def _join_stub(stub: Stub, target: int, stdio: ChildStdio) -> None:
    """The same for a stub; who works for it stays outside of the target's user namespace."""
    if _shares(target, "user"):
        stub.act(operations.setns(target, _SHARED))
    else:
        pid = process.pid_of(target)
        stub.ids = idmaps.ids_of(pid)
        idmaps.lend(stdio.descriptors(), pid)
        stub.act(operations.setns(target, _SHARED | process.CLONE_NEWUSER))
        credentials.become_root(stub)
    stub.follow(_SHARED)


def _shares(target: int, kind: str) -> bool:
    """Whether target and this process are in one namespace of a kind; of one that the kernel lacks, all are.

    Joining one's own user namespace is what fails with EINVAL.
    """
    pid = process.pid_of(target)
    try:
        own, theirs = os.stat(f"/proc/self/ns/{kind}"), os.stat(f"/proc/{pid}/ns/{kind}")
    except FileNotFoundError:
        return True
    return (own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino)
