"""The supervisor's children: how a container's first process and its further ones are made and known.

Owns what stands around a birth (`cove.runtime.forker`): directories, FIFOs, the control group, the id maps, the
gate. What the child does after it is `cove.runtime.child.init`; what happens when it ends, `cove.runtime.supervisor`.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from cove.errors import Conflict, InvalidArgument
from cove.ipc import channel
from cove.kernel import process
from cove.kernel.cgroups import Cgroups, idleness
from cove.oci.spec import NamespaceType, Seccomp
from cove.paths import RunRoot
from cove.runtime import descriptors, state
from cove.runtime.child import filters, init, joined, orders, outside
from cove.runtime.child.common import ChildStdio, Failure
from cove.runtime.forker import Newborn
from cove.runtime.logs import stdio
from cove.runtime.logs.pump import Pump
from cove.runtime.loop import Loop
from cove.runtime.makers import Makers, is_ordinary, is_ordinary_exec
from cove.runtime.messages import ExecLaunch, Exit, Launch, Status
from cove.runtime.outfitters import Outfitter

_UNSEEN = "it ended while neither daemon nor supervisor was running, so nobody saw its exit code"


class Child(msgspec.Struct):
    """A process of ours that is watched: `gate` is open until it executes its program.

    `helper`: the pidfd of a process of ours that works for it until then. `outfitter`: who does, when it is a stub.
    """

    id: str
    exec_id: str
    pid: int
    pidfd: int
    gate: socket.socket | None = None
    console: int | None = None
    helper: int | None = None
    outfitter: Outfitter | None = None

    def close(self) -> None:
        self.dismiss()
        if self.outfitter is not None:
            self.outfitter.desert(self.pid)
        os.close(self.pidfd)
        if self.gate is not None:
            self.gate.close()
        if self.console is not None:
            os.close(self.console)

    def dismiss(self) -> None:
        """Bury its helper, which has ended by itself unless something hangs."""
        if self.helper is not None:
            process.send_signal(self.helper, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self.helper, os.WEXITED)
            os.close(self.helper)
            self.helper = None


class Container(msgspec.Struct):
    """A container as the supervisor knows it; `child` is None once it has exited.

    `released`: nothing is left of it but its run directory.
    """

    status: Status
    child: Child | None
    streams: stdio.Streams
    pump: Pump | None
    execs: dict[str, Child] = msgspec.field(default_factory=dict)
    oom_events: int | None = None
    oom_kills: int = 0
    released: bool = False


def create(launch: Launch, sync_fd: int, run: RunRoot, *, cgroups: Cgroups, loop: Loop, makers: Makers) -> Container:
    """Make a container's first process; it waits at the barrier. Everything is undone when a step fails."""
    spec, paths = launch.spec, run.container(launch.id)
    if spec.process is None or spec.linux is None:
        raise InvalidArgument(f"The runtime spec of {launch.id} has no process or no linux section")
    with ExitStack() as undo, ExitStack() as ours:
        try:
            paths.root.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise Conflict(f"Container {launch.id} exists already in {run.root}; delete it first") from None
        undo.callback(remove_run_directory, run, launch.id)
        cgroup, terminal = spec.linux.cgroups_path, spec.process.terminal
        status = _announced(launch, cgroup, terminal=terminal)
        state.save(paths.state, status)  # first, so that whoever takes over in the middle knows what there may be
        cgroups.create(cgroup, spec.linux.resources)
        undo.callback(cgroups.remove, cgroup)
        stdio.make_fifos(paths, stdin=launch.stdin, terminal=terminal)
        child_ends = stdio.open_child_ends(paths, ours, stdin=launch.stdin, terminal=terminal)
        streams = stdio.open_streams(paths, stdin=launch.stdin and not terminal)
        undo.callback(streams.close)
        descriptors.check(streams.outputs[0][0], descriptors.most())
        pump = Pump(loop, streams, launch.log)
        undo.callback(pump.stop)
        bpf = _filter(spec.linux.seccomp)
        if bpf:
            paths.seccomp.write_bytes(bpf)
        child = _first(launch, sync_fd, child_ends, bpf, cgroups=cgroups, makers=makers)
        undo.callback(child.close)
        status = state.born(status, child.pid, process.start_ticks(child.pid), time.time())
        state.save(paths.state, status)
        undo.pop_all()
    return Container(status, child, streams, pump)


def _announced(launch: Launch, cgroup: str, *, terminal: bool) -> Status:
    """The Status of a container whose first process is yet to be made."""
    return Status(
        id=launch.id,
        pid=0,
        start_ticks=0,
        boot_id=process.boot_id(),
        cgroup=cgroup,
        started_at=0.0,
        terminal=terminal,
        stdin=launch.stdin,
        idle=idleness(launch.spec.linux.resources) if launch.spec.linux is not None else 0,
        log=launch.log,
    )


def _filter(profile: Seccomp | None) -> bytes:
    return filters.compiled(profile) if profile is not None else b""


def _first(launch: Launch, sync_fd: int, ends: ChildStdio, bpf: bytes, *, cgroups: Cgroups, makers: Makers) -> Child:
    spec = launch.spec
    assert spec.linux is not None
    with ExitStack() as around:
        place = around.enter_context(cgroups.birthplace(spec.linux.cgroups_path))
        within = [(kind, _opened(around, kind, path)) for kind, path in init.born_in(spec)]
        flags, group = init.flags_for(spec), spec.linux.cgroups_path
        if is_ordinary(launch) and (outfitter := makers.outfitter()) is not None:
            child, stub = _stub(launch.id, "", outfitter, makers.stub(flags, within, place.directory), around)
            with _killed_unless_told(child):
                cgroups.admit(group, child.pid)
                orders.send(
                    outfitter.socket, launch, sync_fd=sync_fd, stdio=ends, doors=place.doors, seccomp=bpf, stub=stub
                )
                outfitter.ordered(child.pid)
            return child
        link = _link(around) if outside.needed(spec) else None
        born = makers.child(flags, within, place.directory)
        child = Child(launch.id, "", born.pid, born.pidfd, born.gate)
        with _killed_unless_told(child):
            cgroups.admit(group, born.pid)
            orders.send(
                born.gate,
                launch,
                sync_fd=sync_fd,
                stdio=ends,
                doors=place.doors,
                link=link[0] if link else None,
                seccomp=bpf,
            )
            if link is not None:
                child.helper = _helper(launch, born.pid, sync_fd, link[1], makers, within)
    return _admit(child)


def _stub(
    identity: str, exec_id: str, outfitter: Outfitter, born: Newborn, around: ExitStack
) -> tuple[Child, orders.Stubling]:
    """A child that is a stub, and what its outfitter must get of it; that is ours until `around` ends."""
    around.enter_context(born.gate)
    gate, far_gate = channel.pair()
    around.enter_context(far_gate)
    gate.setblocking(False)
    child = Child(identity, exec_id, born.pid, born.pidfd, gate, outfitter=outfitter)
    return child, orders.Stubling(born.pid, born.pidfd, born.gate.fileno(), far_gate.fileno())


def _helper(
    launch: Launch, pid: int, sync_fd: int, link: int, makers: Makers, within: list[tuple[NamespaceType, int]]
) -> int:
    """The pidfd of a process that does for the new init `pid` what only one outside of its user namespace can."""
    born = makers.forker.fork(0, within=[pair for pair in within if pair[0] == "pid"], ordinary=False)
    with born.gate:
        orders.send(born.gate, launch, sync_fd=sync_fd, stdio=ChildStdio(), link=link, helps=pid)
    return born.pidfd


def _link(around: ExitStack) -> tuple[int, int]:
    near, far = channel.pair()
    around.enter_context(near)
    around.enter_context(far)
    return near.fileno(), far.fileno()


def _opened(around: ExitStack, kind: NamespaceType, path: str) -> int:
    """A descriptor of the namespace of `kind` that the file `path` is."""
    try:
        fd = joined.opened(kind, path)
    except Failure as error:
        raise InvalidArgument(error.message) from None
    around.callback(os.close, fd)
    return fd


@contextmanager
def _killed_unless_told(child: Child) -> Iterator[None]:
    """A child whose orders cannot be sent must not go on waiting for them."""
    try:
        yield
    except BaseException:
        process.send_signal(child.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        child.close()
        raise


def _admit(child: Child) -> Child:
    """Open the gate."""
    assert child.gate is not None
    with suppress(BrokenPipeError):  # it failed already; its reason lies on the daemon's socket
        child.gate.send(b"go")
    child.gate.setblocking(False)
    return child


def execute(
    launch: ExecLaunch,
    fds: tuple[int, ...],
    container: Container,
    run: RunRoot,
    *,
    cgroups: Cgroups,
    makers: Makers,
) -> Child:
    """Make a further process in a running container; `fds` as messages.Exec says."""
    if container.child is None:
        raise Conflict(f"Container {launch.container} is not running")
    sync_fd, *ends = fds
    chosen = ChildStdio(ends[0], ends[1], ends[2]) if ends else ChildStdio(console=launch.process.terminal)
    path = run.container(launch.container).seccomp
    bpf = path.read_bytes() if path.exists() else b""
    target = container.child.pidfd
    with ExitStack() as around:
        place = around.enter_context(cgroups.birthplace(container.status.cgroup, beside=container.child.pid))
        within = [("pid", target)]
        if is_ordinary_exec(launch, container.child.pid) and (outfitter := makers.outfitter()) is not None:
            child, stub = _stub(
                launch.container, launch.id, outfitter, makers.stub(0, within, place.directory), around
            )
            with _killed_unless_told(child):
                orders.send(
                    outfitter.socket,
                    launch,
                    sync_fd=sync_fd,
                    stdio=chosen,
                    doors=place.doors,
                    target=target,
                    seccomp=bpf,
                    stub=stub,
                )
                outfitter.ordered(child.pid)
            return child
        born = makers.child(0, within, place.directory)
        child = Child(launch.container, launch.id, born.pid, born.pidfd, born.gate)
        with _killed_unless_told(child):
            orders.send(
                born.gate, launch, sync_fd=sync_fd, stdio=chosen, doors=place.doors, target=target, seccomp=bpf
            )
    return _admit(child)


def readopt(status: Status, run: RunRoot, loop: Loop) -> Container:
    """Take over a container that an earlier supervisor made; `child` is None when its process is gone."""
    pidfd = process.reopen(status.pid, status.start_ticks, status.boot_id)
    child = Child(status.id, "", status.pid, pidfd) if pidfd is not None else None
    paths = run.container(status.id)
    streams = stdio.open_streams(paths, stdin=status.stdin and not status.terminal)
    return Container(status, child, streams, Pump(loop, streams, status.log))


def unseen_end(run: RunRoot, identity: str) -> Exit:
    """How a container ended while there was no supervisor: as a keeper saw it (`cove.runtime.keeper`), or unknown."""
    return state.noted_end(run.container(identity).end) or Exit(code=255, at=0.0, reason=_UNSEEN)


def remember(status: Status) -> Container:
    """A container that had exited before this supervisor began."""
    return Container(status, None, stdio.Streams([]), None)


def remove_run_directory(run: RunRoot, identity: str) -> None:
    """Forget a container's FIFOs and state. (shutil would bring a dozen modules into every child.)"""
    directory = run.container(identity).root
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            os.unlink(directory / name)
        os.rmdir(directory)
