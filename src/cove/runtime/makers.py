"""Who makes the supervisor's children, and which of the two ways a process is made.

    the ordinary way      a stub, told what to do by an outfitter: it costs nothing to fork, and has nothing to drop
    the other way         a fork of the supervisor's, which does everything by itself: for what has to be done in its
                          order by one process (hooks, a joined user namespace, …), and where there are no stubs

Both run the same modules (`cove.runtime.child`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from cove.kernel import mounts
from cove.kernel.mounts import parse_options
from cove.oci.spec import Linux, Mount, Process, Spec
from cove.runtime import rootless
from cove.runtime.child import labels, outside, shared_tree
from cove.runtime.forker import Forker, Newborn, Within, of_children, of_stubs
from cove.runtime.loop import Loop
from cove.runtime.messages import ExecLaunch, Launch
from cove.runtime.outfitters import Outfitter, Outfitters
from cove.runtime.seat import warn

PROGRAM = Path(__file__).parent / "native" / "stub"
"""Compiled when Cove is installed, where there is a compiler."""
_OWNED = {"user", "pid", "network", "mount", "ipc", "uts"}


class Makers:
    """`forker` for children, `stubs` for stubs if there is a program for them, `outfitters` for those."""

    def __init__(self, bereaved: Callable[[], None] = lambda: None) -> None:
        """`bereaved`: what is to be done when the supervisor has ended."""
        self.forker = Forker(of_children(bereaved))
        self.stubs = _stubs()
        self.outfitters = Outfitters(self.forker)

    def start(self) -> None:
        """Begin the processes, while this one is small."""
        self.forker.start()

    def attend(self, loop: Loop) -> None:
        """Make others as soon as one dies."""
        self.forker.attend(loop)
        if self.stubs is None:
            warn("it was installed without its program for stubs, so containers start at half the speed")
        else:
            self.stubs.start()
            self.stubs.attend(loop)
            self.outfitters.attend(loop)

    def child(self, flags: int, within: Within, cgroup: int | None) -> Newborn:
        """A new child that waits for its orders; see `Forker.fork`."""
        return self.forker.fork(flags, within=within, cgroup=cgroup, ordinary=self.stubs is None)

    def outfitter(self) -> Outfitter | None:
        """One that is free to work for a stub; None when children must do everything by themselves."""
        return self.outfitters.take() if self.stubs is not None else None

    def stub(self, flags: int, within: Within, cgroup: int | None) -> Newborn:
        """A new stub, its `gate` the socket for its operations; see `Forker.fork`."""
        assert self.stubs is not None
        return self.stubs.fork(flags, within=within, cgroup=cgroup)

    def replenish(self) -> None:
        """See `Forker.replenish`."""
        for each in (self.stubs, self.forker):
            if each is not None:
                each.replenish()

    def close(self) -> None:
        """End them all."""
        self.outfitters.close()
        for each in (self.stubs, self.forker):
            if each is not None:
                each.close()


def _stubs() -> Forker | None:
    try:
        opened = mounts.readonly_file(str(PROGRAM))
    except OSError:
        return None
    return Forker(of_stubs(_above(opened)))


def _above(fd: int) -> int:
    """The same beyond the descriptors that a new process begins with."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16)
    os.close(fd)
    return moved


# ── which way ─────────────────────────────────────────────────────────────────────────────────────


def is_ordinary(launch: Launch) -> bool:
    """Whether a container's first process can be a stub."""
    spec = launch.spec
    linux = spec.linux
    if linux is None or spec.process is None or spec.hooks is not None:
        return False
    return not (
        _needs_a_helper(spec)
        or shared_tree.is_shared(spec)
        or any(each.type == "time" for each in linux.namespaces)
        or linux.memory_policy is not None
        or (linux.seccomp is not None and linux.seccomp.listener_path)
        or labels.wanted(spec.process)
        or any("tmpcopyup" in each.options for each in spec.mounts)  # which the container's memory is to pay for
        or any(_makes_maps(each, linux) for each in (*spec.mounts, launch.rootfs) if each is not None)
    )


def _needs_a_helper(spec: Spec) -> bool:
    """Whether something outside of init is needed that no outfitter does.

    With a user namespace of its own a container has to own all others, and parameters of the kernel's that are the
    network's: those of others only root of that namespace may open.
    """
    linux = spec.linux
    assert linux is not None
    if not outside.mounts_for(spec):
        return outside.needed(spec)
    own = {each.type for each in linux.namespaces if not each.path}
    return (
        not own >= _OWNED
        or any(each.path for each in linux.namespaces)
        or bool(linux.net_devices or linux.intel_rdt)
        or not all(name.startswith(("net.", "net/")) for name in linux.sysctl)
        or not rootless.may_mount()
    )


def _makes_maps(mount: Mount, linux: Linux) -> bool:
    """Whether a mount maps ids by another user namespace than the container's, which has to be made for it."""
    if not (mount.uid_mappings or mount.gid_mappings):
        return parse_options(mount.options).idmap and not linux.uid_mappings
    return (mount.uid_mappings, mount.gid_mappings) != (linux.uid_mappings, linux.gid_mappings)


def is_ordinary_exec(launch: ExecLaunch, pid: int) -> bool:
    """Whether a further process can be one, beside the container's first one, which is `pid`."""
    listens = launch.seccomp is not None and launch.seccomp.listener_path
    if listens or launch.chrooted or labels.wanted(launch.process) or launch.process.exec_cpu_affinity is not None:
        return False
    return _shares(pid, "time") and (not _mounts(launch.process) or _shares(pid, "user"))


def _mounts(process: Process) -> bool:
    """Whether a container may mount: a directory of it may be a FUSE's, which only its user namespace can see."""
    return process.capabilities is not None and "CAP_SYS_ADMIN" in process.capabilities.bounding


def _shares(pid: int, kind: str) -> bool:
    """Whether `pid` is in our namespace of a kind; of one that the kernel lacks, everybody is."""
    try:
        return os.path.samestat(os.stat(f"/proc/self/ns/{kind}"), os.stat(f"/proc/{pid}/ns/{kind}"))
    except FileNotFoundError:
        return kind == "time"
