"""`create`: everything of a container but its program; and what `run` shares with it.

All of it is made or nothing: whatever a failed step leaves is undone in reverse order.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from cove.errors import CoveError, InvalidArgument, StartFailed
from cove.kernel import process
from cove.kernel.cgroups import Cgroups, idleness
from cove.oci.spec import Mount, NamespaceType, Process, Spec
from cove.runtime import limits, rootless
from cove.runtime.child import affinity, filters, hooks, init, joined, outside
from cove.runtime.child.common import ChildStdio, Failure, Manner
from cove.runtime.messages import Launch
from cove.runtime.oci import afterwards, groups, notify, stdio, store
from cove.runtime.oci import bundle as bundles
from cove.runtime.oci.birth import Newborn, born
from cove.runtime.oci.main import Call

FLAGS = (
    "bundle|b=",
    "config|f=",
    "console-socket=",
    "pidfd-socket=",
    "pid-file=",
    "preserve-fds=",
    "no-pivot",
    "no-new-keyring",
    "no-subreaper",
)


def create(call: Call, words: list[str]) -> int:
    """Make the container and leave it waiting for `start`."""
    call.parse(words, FLAGS, 1, 1)
    with made(call, detached=True, listen=True):
        return 0


@contextmanager
def made(call: Call, *, detached: bool, listen: bool) -> Iterator[tuple[store.Container, Newborn, Cgroups]]:
    """Make the container: its first process waits, on its listener (`listen`) or on sync.

    `detached`: nobody stays to serve a terminal. When the block fails, all is undone.
    """
    options = call.options
    preserved = stdio.reserve(options.number("preserve-fds"))
    pid_file, console_socket, pidfd_socket = (
        _absolute(options.text(name)) for name in ("pid-file", "console-socket", "pidfd-socket")
    )
    directory = os.path.abspath(options.text("bundle") or ".")
    spec, content = bundles.load(directory, options.text("config") or "config.json")
    spec = bundles.complete(spec, directory, call.arguments[0], call.log)
    _check_terminal(spec, detached=detached, console_socket=console_socket)
    os.chdir(directory)  # a mount's relative source begins there
    with ExitStack() as opened, ExitStack() as undo:
        container = store.make(call.root, call.arguments[0])
        undo.callback(container.remove)
        container.write("config.json", content)
        if notify.asked():
            spec = _with_readiness(spec, notify.prepare(container))
        assert spec.linux is not None
        manager, cgroups, group = groups.make(call, spec.linux)
        undo.callback(_remove_group, cgroups, group)
        bpf = filters.compiled(spec.linux.seccomp) if spec.linux.seccomp is not None else b""
        call.log.debug(f"{manager} control group: {group or 'none'}")
        if bpf and spec.linux.seccomp is not None:
            container.write("seccomp.bpf", bpf)
            call.log.debug(f"seccomp filter flags: {filters.flags_of(spec.linux.seccomp)}")
        listener = _listen(container, opened) if listen else None
        manner = Manner(
            hold=True,
            listener=listener,
            preserved=preserved,
            keyring=not options.switch("no-new-keyring"),
            pivot=not options.switch("no-pivot"),
        )
        launch = Launch(id=container.id, spec=_with_activation(spec))
        newborn = _first_process(launch, manner, cgroups, group, bpf)
        opened.callback(newborn.close)
        undo.callback(newborn.kill)
        call.log.debug(f"first process: {newborn.pid}")
        cgroups.admit(group, newborn.pid)
        lowered = (*limits.warnings(spec.process), *limits.not_raised(spec.process)) if spec.process else ()
        for warning in (*lowered, *limits.not_had(spec), *limits.without_effect(spec.linux.resources)):
            call.log.warning(warning)
        container.save(_record(manager, container, spec, newborn, directory, cgroups, group))
        _attend(newborn, container, spec, cgroups, call)
        if newborn.master is not None and console_socket:
            stdio.send_master(console_socket, newborn.master)
        stdio.send_pidfd(pidfd_socket, newborn.pidfd)
        if pid_file:
            write_pid_file(pid_file, newborn.pid)
        yield container, newborn, cgroups
        undo.pop_all()


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""


def _check_terminal(spec: Spec, *, detached: bool, console_socket: str) -> None:
    terminal = spec.process is not None and spec.process.terminal
    if terminal and detached and not console_socket:
        raise InvalidArgument("process.terminal needs --console-socket, as this command does not stay to serve it")
    if console_socket and not terminal:
        raise InvalidArgument(
            "--console-socket needs process.terminal in the configuration: there is no terminal to send"
        )


def _remove_group(cgroups: Cgroups, group: str) -> None:
    cgroups.kill(group)
    cgroups.remove(group)
    cgroups.remove_parent()


def _listen(container: store.Container, opened: ExitStack) -> int:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    opened.callback(listener.close)
    listener.bind(container.socket_path)
    listener.listen(1)
    return listener.fileno()


def _with_activation(spec: Spec) -> Spec:
    """The environment says how many sockets are passed (sd_listen_fds(3))."""
    count = stdio.activated()
    if not count or spec.process is None:
        return spec
    env = (*spec.process.env, f"LISTEN_FDS={count}", "LISTEN_PID=1")
    return msgspec.structs.replace(spec, process=msgspec.structs.replace(spec.process, env=env))


def _with_readiness(spec: Spec, directory: str) -> Spec:
    """The program finds a socket in `directory` to tell that it is ready."""
    if spec.process is None:
        return spec
    options = ("bind", "nosuid", "noexec", "nodev", "ro")
    mount = Mount(destination=notify.WITHIN, source=directory, type="bind", options=options)
    env = (*(each for each in spec.process.env if not each.startswith("NOTIFY_SOCKET=")), notify.VARIABLE)
    process_ = msgspec.structs.replace(spec.process, env=env)
    return msgspec.structs.replace(spec, mounts=(*spec.mounts, mount), process=process_)


def _first_process(launch: Launch, manner: Manner, cgroups: Cgroups, group: str, bpf: bytes) -> Newborn:
    wanted: Process | None = launch.spec.process
    terminal = wanted is not None and wanted.terminal

    def become(sync_fd: int, gate_fd: int) -> None:
        affinity.reset()  # in its group of processors now
        ends = ChildStdio(console=True) if terminal else stdio.inherited()
        init.run(launch, sync_fd=sync_fd, gate_fd=gate_fd, stdio=ends, seccomp=bpf, manner=manner)

    with ExitStack() as opened:
        place = opened.enter_context(cgroups.birthplace(group))
        within = [(kind, _opened(opened, kind, path)) for kind, path in init.born_in(launch.spec)]
        flags = init.flags_for(launch.spec)
        if not outside.needed(launch.spec):
            return born(flags, place, within, become)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.callback(near.close)
        opened.callback(far.close)
        manner = msgspec.structs.replace(manner, link=near.fileno(), rootless=not rootless.may_mount())
        return born(
            flags,
            place,
            within,
            become,
            lambda pid, sync_fd: outside.fork(launch, pid, sync_fd=sync_fd, link=far.fileno()),
        )


def _opened(around: ExitStack, kind: NamespaceType, path: str) -> int:
    """A descriptor of the namespace of `kind` that the file `path` is."""
    try:
        fd = joined.opened(kind, path)
    except Failure as error:
        raise InvalidArgument(error.message) from None
    around.callback(os.close, fd)
    return fd


def _record(
    manager: str, container: store.Container, spec: Spec, newborn: Newborn, bundle: str, cgroups: Cgroups, group: str
) -> store.Record:
    import pwd

    assert spec.root is not None and spec.linux is not None
    try:
        owner = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        owner = str(os.geteuid())
    return store.Record(
        id=container.id,
        pid=newborn.pid,
        ticks=process.start_ticks(newborn.pid),
        boot=process.boot_id(),
        bundle=bundle,
        rootfs=spec.root.path,
        created=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        owner=owner,
        annotations=spec.annotations,
        cgroup=group,
        manager=manager,
        cgroup_directories=cgroups.directories(group),
        poststart=bool(spec.hooks and spec.hooks.poststart),
        poststop=bool(spec.hooks and spec.hooks.poststop),
        monitored=spec.linux.intel_rdt is not None,
        idle=idleness(spec.linux.resources),
        own_pids=any(each.type == "pid" and not each.path for each in spec.linux.namespaces),
    )


def _attend(newborn: Newborn, container: store.Container, spec: Spec, cgroups: Cgroups, call: Call) -> None:
    """Until it is ready. A hook that fails ends the container, whose poststop hooks then run all the same."""
    record = container.known
    state = hooks.State(
        id=record.id, status="creating", pid=newborn.pid, bundle=record.bundle, annotations=record.annotations
    )
    begun = False

    def on_hooks() -> bytes:
        nonlocal begun
        begun = True
        assert spec.hooks is not None
        hooks.run("prestart", spec.hooks.prestart, state)
        hooks.run("createRuntime", spec.hooks.create_runtime, state)
        return hooks.encode(state)

    try:
        newborn.admit()
        newborn.attend(on_hooks)
    except (CoveError, Failure) as error:
        if begun and spec.hooks is not None:
            newborn.kill()
            afterwards.run_poststop(spec.hooks.poststop, record, call.log)
        if isinstance(error, Failure):
            raise InvalidArgument(error.message) from None
        if isinstance(error, StartFailed) and error.stage == "setup" and cgroups.oom_kills(record.cgroup):
            raise InvalidArgument(
                "the first process was OOM-killed before it was ready: linux.resources.memory.limit is too low"
            ) from None
        raise


def write_pid_file(path: str, pid: int) -> None:
    """Whole or not at all, as whoever waits for it reads it at once."""
    parent, _, name = path.rpartition("/")
    temporary = f"{parent}/.{name}.{os.getpid()}"
    try:
        with open(temporary, "x", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise InvalidArgument(f"--pid-file {path} cannot be written: {error.strerror}") from None
