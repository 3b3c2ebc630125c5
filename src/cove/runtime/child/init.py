"""The life of a container's first process between clone3 and execve.

    supervisor                              init (this module)                      daemon
      │── clone3(flags_for(spec)) ───────────▶│ close_range: keeps only its own fds
      │   cgroup v1: writes the pid           │
      │                                       │ session, keyring, namespaces by path, mounts
      │── one packet on gate ────────────────▶│ cgroup namespace
      │                                       │ /dev, masks, pivot_root
      │◀─ pty master (SCM_RIGHTS) on gate ────│ when stdio.console
      │                                       │ waits on sync ◀──────────────── Go ──│
      │                                       │ a snapshot's root, to be held ──────▶│
      │                                       │ interfaces, sysctls, limits, ids,
      │                                       │ capabilities, seccomp, execve ─▶ EOF on sync ─▶│
      │                                       │ or Failed(stage, errno, message) ─────────────▶│

The mounts are made before the barrier, while the daemon prepares the network: both sides work at once.
A failure before Go is sent on sync all the same and waits there for the daemon (whose Go may then meet
EPIPE: it shall read on).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import msgspec

from cove.kernel import interfaces, mounts, namespaces, operations, privileges, syscalls
from cove.oci.spec import Linux, NamespaceType, Process, Spec
from cove.runtime import support
from cove.runtime.child import (
    credentials,
    devices,
    filters,
    final,
    hooks,
    joined,
    labels,
    masks,
    memory_policy,
    outside,
    ranges,
    shared_tree,
    sysctls,
)
from cove.runtime.child.common import ORDINARY, Child, ChildStdio, Failure, Manner
from cove.runtime.child.filters import Filter
from cove.runtime.child.joined_tree import JoinedTree
from cove.runtime.child.rootfs import Tree
from cove.runtime.child.stub import Stub
from cove.runtime.child.users import Identity
from cove.runtime.messages import Go, Launch

__all__ = ["ChildStdio", "born_in", "flags_for", "run"]

# Made by init itself: the cgroup one after it is in its cgroup, the time one before it gets its offsets.
_LATER = {"cgroup", "time"}
_BY_INIT = {"user", "mount"}
_AFTER_USER: set[NamespaceType] = {"mount", "network", "ipc", "uts"}
_FOLLOWED = sum(namespaces.FLAGS[kind] for kind in ("mount", "pid", "network", "ipc", "uts"))


def flags_for(spec: Spec) -> int:
    """The CLONE_NEW* flags that clone3 takes for `spec` (cgroup and time namespaces are made later, by init).

    With a user namespace to be joined all but the pid one are made after that, so that it owns them.
    """
    if outside.joined(spec):
        return _new(spec, {"pid"})
    flags = 0
    for namespace in spec.linux.namespaces if spec.linux else ():
        if not namespace.path and namespace.type not in _LATER:
            flags |= namespaces.FLAGS[namespace.type]
    return flags


def _new(spec: Spec, kinds: set[NamespaceType]) -> int:
    """The CLONE_NEW* flags of those `kinds` that `spec` wants new."""
    flags = 0
    for namespace in spec.linux.namespaces if spec.linux else ():
        if not namespace.path and namespace.type in kinds:
            flags |= namespaces.FLAGS[namespace.type]
    return flags


def born_in(spec: Spec) -> tuple[tuple[NamespaceType, str], ...]:
    """The kinds and paths of namespaces that the maker puts init in, by `namespaces.children_in` around clone3.

    That is a pid namespace to join, which nobody can enter by itself; and all of them when init gets a user
    namespace of its own, from where it has no right to join one that belongs to another.
    """
    listed = [each for each in (spec.linux.namespaces if spec.linux else ()) if each.path]
    apart = outside.mounts_for(spec)
    return tuple(
        (each.type, each.path) for each in listed if each.type == "pid" or (apart and each.type not in _BY_INIT)
    )


def run(
    launch: Launch,
    *,
    sync_fd: int,
    gate_fd: int,
    stdio: ChildStdio,
    seccomp: bytes = b"",
    manner: Manner = ORDINARY,
) -> NoReturn:
    """Become the container's first process; called in the child right after clone3. Never returns.

    `sync_fd`: SEQPACKET to the daemon. The supervisor closes its own copy right after clone3, so that
    execve (or exit) is end of file there.
    `gate_fd`: SEQPACKET to the supervisor, which sends one packet (any content) when the process is in its
    cgroup; end of file instead makes init exit. The pty master comes back on it.
    `seccomp`: the compiled filter (cove.kernel.seccomp.compile), empty for none.
    `manner`: what only an OCI runtime's command asks for. With hooks to run, init sends b"hooks" on the gate
    before it moves into its root, and waits there for the State they read.

    The gate also ends (EOF) at execve or exit. For a terminal the supervisor answers Created when the master
    or EOF has arrived on the gate, without blocking on it.
    """
    child = Child(sync_fd, gate_fd, manner)

    def start() -> NoReturn:
        child.isolate(stdio.descriptors())
        init = Init(child, launch, stdio, seccomp)
        init.prepare()
        init.finish(child.wait_for_go())
        raise Failure("the program was not executed")

    child.run(start)


class Init:
    """One start: `prepare` needs nobody, `finish` comes after Go."""

    def __init__(self, child: Child, launch: Launch, stdio: ChildStdio, seccomp: bytes) -> None:
        self.child = child
        self.launch = launch
        self.stdio = stdio
        self.seccomp = seccomp
        self.console: int | None = None
        self.proc = -1
        self.in_cgroup = False
        self.given: outside.Given | None = None
        self.state: hooks.State | None = None
        # crun's annotation; podman sets it for --group-add keep-groups. Not for whoever may only call the daemon.
        self.keeps_groups = child.manner.hold and launch.spec.annotations.get("run.oci.keep_original_groups") == "1"

    def prepare(self) -> None:
        """All that can be done before Go."""
        with self.child.stage("spec"):
            support.check(self.launch.spec, hooks=self.child.manner.hold)
            process, linux = self.launch.spec.process, self.launch.spec.linux
            assert process is not None and linux is not None
            self.process, self.linux, self.sets = process, linux, credentials.masks_of(process)
        with self.child.stage("seccomp"):
            profile = linux.seccomp
            self.filter = filters.prepare(
                self.seccomp, profile, self.launch.id, self.launch.spec.annotations, "creating"
            )
            self.child.kept = self.filter.listener
        if outside.needed(self.launch.spec):
            self.given = self._receive()
        with self.child.stage("namespaces"):
            self.child.act(operations.new_session())
            if self.child.manner.keyring:
                self.child.act(operations.join_session_keyring(f"_cove.{self.launch.id[:12]}"))
            _enter_namespaces(self.child, self.launch.spec, linux)
            procs = 1 + sum(each.type == "proc" for each in self.launch.spec.mounts)
            self.child.follow(_FOLLOWED, procs)
        self.tree = self._build_tree(linux)
        self._hooks_of_creation(self.tree)
        self.identity, self.found = self._settle(self.tree, process)
        with self.child.stage("network"):
            if any(each.type == "network" and not each.path for each in linux.namespaces):
                interfaces.configure(())  # loopback need not wait for the daemon

    def _receive(self) -> outside.Given:
        """What is made outside of a user namespace."""
        if isinstance(self.child, Stub):
            given = outside.provide(self.child, self.launch, self.stdio.descriptors())
            credentials.become_root(self.child)
            return given
        with self.child.stage("setup"):
            if self.child.manner.link is None:
                raise Failure("a container with a user namespace of its own needs its maker's help")
            given = outside.receive(self.child.manner.link)
            privileges.set_dumpable(False)
        return given

    def finish(self, go: Go) -> None:
        """From Go to the program."""
        process, linux = self.process, self.linux
        with self.child.stage("network"):
            self._network(linux, go)
        with self.child.stage("limits"):
            credentials.apply_limits(process, self.child.seen_in(self.proc), self.child.pid)
            if linux.personality is not None:
                self.child.act(credentials.personality(linux.personality.domain))
            if linux.memory_policy is not None:
                memory_policy.apply(linux.memory_policy)
            if labels.wanted(process):
                labels.apply(process, self.proc)
        if self.launch.rootfs is not None:
            self.child.lend_root(self.tree.root)
        become(
            self.child,
            process,
            self.identity,
            self.sets,
            self.filter,
            found=self.found,
            console=self.console,
            reaper=self.launch.init,
            before_exec=self._hooks_of_start(self.found),
        )

    def descriptors(self) -> list[int]:
        """Those that `finish` needs."""
        return [self.tree.root, self.proc]

    def _build_tree(self, linux: Linux) -> Tree | JoinedTree:
        """Everything mounted, still outside of it."""
        spec = self.launch.spec
        with self.child.stage("rootfs"):
            given = self.given
            if shared_tree.is_shared(spec):
                tree: Tree | JoinedTree = shared_tree.of(spec, self.child)
            else:
                tree = Tree(spec, self.launch.rootfs, given, exact=self.child.manner.hold, child=self.child)
            tree.enter()
            self.proc = given.proc if given and given.proc is not None else self._new_proc()
            if any(each.type == "user" for each in linux.namespaces) and not self.child.pid:
                credentials.become_root(self.child, keep_groups=self.keeps_groups)
        with self.child.stage("mounts"):
            tree.mount_all(lambda: self._enter_cgroup(linux))
            self._enter_cgroup(linux)
        with self.child.stage("devices"):
            tree.populate_dev(linux.devices)
            if self.stdio.console:
                size = spec.process.console_size if spec.process else None
                master, self.console = devices.open_console(tree.root, tree.dev, size, self.child.own_proc)
                self.child.send_master(master)
                os.close(master)
        with self.child.stage("masks"):
            if linux.masked_paths:
                masks.mask(tree.root, linux.masked_paths, tree.dev_fd)
            masks.make_readonly(tree.root, linux.readonly_paths)
        with self.child.stage("hostname"):
            if spec.hostname:
                syscalls.sethostname(spec.hostname)
            if spec.domainname:
                syscalls.setdomainname(spec.domainname)
        return tree

    def _new_proc(self) -> int:
        """A procfs that nobody else can touch."""
        return mounts.new_filesystem("proc", "proc", (), context=self.child.open_proc())

    def _hooks_of_creation(self, tree: Tree | JoinedTree) -> None:
        """All is mounted and the host still in reach: the maker's hooks, then the container's, in its root."""
        listed = self.launch.spec.hooks
        if not hooks.at_creation(listed):
            return
        assert listed is not None
        with self.child.stage("hooks"):
            self.state = self._state()
            os.fchdir(tree.root)
            hooks.run("createContainer", listed.create_container, self.state)

    def _state(self) -> hooks.State:
        """What hooks are told: by the maker when that runs some too, or else what init itself knows."""
        if self.child.manner.hold:
            return hooks.decode(self.child.ask(b"hooks"))
        spec = self.launch.spec
        bundle = os.path.dirname(spec.root.path) if spec.root is not None else "/"
        pid = int(os.readlink("/proc/self"))  # the host's procfs
        # Where hooks write is not for whoever may only call the daemon.
        told = {name: value for name, value in spec.annotations.items() if not name.startswith("run.oci.")}
        return hooks.State(id=self.launch.id, status="creating", pid=pid, bundle=bundle, annotations=told)

    def _enter_cgroup(self, linux: Linux) -> None:
        """Once this process is in its group, which the supervisor does meanwhile, its namespace begins there."""
        if self.in_cgroup:
            return
        self.in_cgroup = True
        self.child.wait_for_gate()
        if any(each.type == "cgroup" and not each.path for each in linux.namespaces):
            self.child.act(operations.unshare(namespaces.FLAGS["cgroup"]))
            self.child.follow(namespaces.FLAGS["cgroup"])

    def _settle(self, tree: Tree | JoinedTree, process: Process) -> tuple[Identity, credentials.Program]:
        """Into the tree; who the process is, where it works and what it executes, all known only there."""
        with self.child.stage("pivot"):
            tree.pivot(move=not self.child.manner.pivot)
        with self.child.stage("user"):
            identity = credentials.identify(self.child, tree.root, process, self.launch.user, self.launch.group_add)
            if self.keeps_groups:
                identity = msgspec.structs.replace(identity, groups=None)
        with self.child.stage("cwd"):
            self.child.act(
                operations.change_directory(credentials.enter_directory(tree.root, process.cwd, make=True))
            )
        with self.child.stage("rootfs"):
            tree.seal()
        with self.child.stage("stdio"):
            credentials.place_stdio(self.child, tree.root, self.stdio, self.console, identity)
        with self.child.stage("exec"):
            return identity, credentials.find_program(self.child, tree.root, process, identity)

    def _network(self, linux: Linux, go: Go) -> None:
        own: set[str] = {each.type for each in linux.namespaces if not each.path}
        if "network" in own and go.interfaces:
            net = os.open("sys/net", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.proc)
            interfaces.configure(go.interfaces, net=net)
            os.close(net)
        sysctls.apply(self.child, self.proc, linux.sysctl)

    def _hooks_of_start(self, found: credentials.Program) -> Callable[[], None] | None:
        listed = self.launch.spec.hooks
        if self.state is None or listed is None or not listed.start_container:
            return None
        state = msgspec.structs.replace(self.state, status="created")

        def run() -> None:
            with self.child.stage("hooks"):
                hooks.run("startContainer", listed.start_container, state, found.env)

        return run


def become(
    child: Child,
    process: Process,
    identity: Identity,
    sets: credentials.Masks,
    seccomp: Filter,
    *,
    found: credentials.Program,
    console: int | None,
    reaper: bool,
    before_exec: Callable[[], None] | None = None,
) -> None:
    """The end of every start: descriptors, rights, and the program. With `reaper`, below a minimal init.

    `before_exec` starts programs of the container's own, for which the filter holds too.
    """
    child.shed()
    with child.stage("privileges"):
        final.drop(child, process, identity, sets, seccomp)
    late = process.no_new_privileges and before_exec is None
    if before_exec is not None:
        if process.no_new_privileges:
            final.install(child, seccomp)
        before_exec()
    with child.stage("exec"):
        final.execute(child, process, found, seccomp if late else Filter(), console=console, reaper=reaper)


def _enter_namespaces(child: Child, spec: Spec, linux: Linux) -> None:
    """Those that have a path are joined, user first, unless init was born there; the time one is made here."""
    born = {kind for kind, _ in born_in(spec)}
    listed = sorted(linux.namespaces, key=lambda each: each.type != "user")
    for namespace in listed:
        if namespace.path and namespace.type not in born:
            _join(child, namespace.path, namespace.type)
    if outside.joined(spec):
        child.act(operations.unshare(_new(spec, _AFTER_USER)))
    for namespace in listed:
        if namespace.path:
            continue
        if namespace.type == "time":
            offsets = {clock: (each.secs, each.nanosecs) for clock, each in linux.time_offsets.items()}
            try:
                namespaces.enter_new_time(offsets)
            except OSError as error:
                raise ranges.no_such_time(linux, error) from None


def _join(child: Child, path: str, kind: NamespaceType) -> None:
    fd = joined.opened(kind, path)
    child.act(operations.setns(fd, namespaces.FLAGS[kind]), lambda error: joined.refusal(kind, path, error))
