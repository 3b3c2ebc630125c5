"""`exec`: a further process in a container, by the same child code as every exec.

What is not given is taken from the container's own process: environment, directory, user, rights, limits.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import msgspec

from cove.errors import Conflict, InvalidArgument
from cove.kernel import namespaces, operations, privileges, process
from cove.kernel.cgroups import Cgroups
from cove.oci.spec import Capabilities, Process, User
from cove.runtime import limits, rootless
from cove.runtime.child import affinity, credentials, memory_policy, shared_tree
from cove.runtime.child import execs as exec_child
from cove.runtime.child.common import ChildStdio, Manner
from cove.runtime.messages import ExecLaunch
from cove.runtime.oci import bundle, create, foreground, groups, joining, stdio, store
from cove.runtime.oci.birth import Newborn, born
from cove.runtime.oci.main import Call

_FLAGS = (
    "console-socket=",
    "pidfd-socket=",
    "cwd=",
    "env|e=*",
    "tty|t",
    "user|u=",
    "additional-gids|g=*",
    "process|p=",
    "detach|d",
    "pid-file=",
    "process-label=",
    "apparmor=",
    "no-new-privs",
    "cap|c=*",
    "preserve-fds=",
    "cgroup=*",
    "ignore-paused",
    "no-subreaper",
)


def execute(call: Call, words: list[str]) -> int:
    """Run it: its exit code, or 0 once it runs with --detach."""
    call.parse(words, _FLAGS, 1, None, mixed=False)
    options = call.options
    preserved = stdio.reserve(options.number("preserve-fds"))
    container = store.find(call.root, call.arguments[0])
    _check_running(container, ignore_paused=options.switch("ignore-paused"))
    wanted = _process(call, container)
    detach, console_socket = options.switch("detach"), options.text("console-socket")
    if wanted.terminal and detach and not console_socket:
        raise InvalidArgument(
            "a terminal with --detach needs --console-socket, as this command does not stay to serve it"
        )
    if console_socket and not wanted.terminal:
        raise InvalidArgument("--console-socket needs --tty or process.terminal: there is no terminal to send")
    with ExitStack() as opened, ExitStack() as undo:
        manner = Manner(preserved=preserved)
        newborn = _join(container, options.all("cgroup"), wanted, manner)
        opened.callback(newborn.close)
        undo.callback(newborn.kill)
        for warning in (*limits.warnings(wanted), *limits.not_raised(wanted)):
            call.log.warning(warning)
        newborn.admit()
        if wanted.terminal:
            newborn.receive_master()
        if newborn.master is not None and console_socket:
            stdio.send_master(os.path.abspath(console_socket), newborn.master)
        elif newborn.master is not None:
            foreground.without_returns(newborn.master)
        stdio.send_pidfd(options.text("pidfd-socket"), newborn.pidfd)
        newborn.go()
        if options.text("pid-file"):
            create.write_pid_file(os.path.abspath(options.text("pid-file")), newborn.pid)
        undo.pop_all()
        if detach:
            return 0
        return foreground.wait(newborn.pid, newborn.pidfd, None if console_socket else newborn.master)


def _check_running(container: store.Container, *, ignore_paused: bool) -> None:
    status = container.status()
    if status not in ("created", "running", "paused"):
        raise Conflict(f"cannot exec in a stopped container: {container.id} is {status}")
    if status == "paused" and not ignore_paused:
        raise Conflict(
            f"cannot exec in a paused container (use --ignore-paused to override): {container.id} would not run it"
        )


def _process(call: Call, container: store.Container) -> Process:
    """From --process, or the container's own with what the flags change."""
    options = call.options
    path = options.text("process")
    if path:
        try:
            with open(path, "rb") as file:
                wanted = bundle.decode_process(file.read(), path)
        except OSError as error:
            raise InvalidArgument(f"--process {path} cannot be read: {error.strerror}") from None
    else:
        wanted = _changed(call, bundle.decode(container.read("config.json"), "config.json").process)
    count = stdio.activated()
    if count:
        env = (*wanted.env, f"LISTEN_FDS={count}", "LISTEN_PID=1")
        wanted = msgspec.structs.replace(wanted, env=env)
    return wanted


def _changed(call: Call, own: Process | None) -> Process:
    options, arguments = call.options, call.arguments[1:]
    if not arguments:
        raise InvalidArgument("exec needs a command after the container's id, or --process")
    given = own or Process(cwd="/")
    user = given.user
    if options.given("user"):
        user = _user(options.text("user"), user)
    if options.given("additional-gids"):
        groups_ = tuple(_id(text, "--additional-gids") for text in _split(options.all("additional-gids")))
        user = msgspec.structs.replace(user, additional_gids=(*user.additional_gids, *groups_))
    return msgspec.structs.replace(
        given,
        args=tuple(arguments),
        cwd=options.text("cwd") or given.cwd,
        env=(*given.env, *options.all("env")),
        terminal=options.switch("tty"),
        console_size=None,
        user=user,
        capabilities=_with_capabilities(given.capabilities, options.all("cap")),
        apparmor_profile=options.text("apparmor") or given.apparmor_profile,
        selinux_label=options.text("process-label") or given.selinux_label,
        no_new_privileges=options.switch("no-new-privs")
        if options.given("no-new-privs")
        else given.no_new_privileges,
    )


def _split(values: list[str]) -> list[str]:
    return [part for value in values for part in value.split(",") if part]


def _user(text: str, own: User) -> User:
    uid, colon, gid = text.partition(":")
    return msgspec.structs.replace(
        own, uid=_id(uid, "--user"), gid=_id(gid, "--user") if colon else own.gid, username=""
    )


def _id(text: str, flag: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise InvalidArgument(f"{flag} {text!r} is no number: an OCI runtime takes ids, names are for engines")
    return int(text)


def _with_capabilities(own: Capabilities | None, added: list[str]) -> Capabilities | None:
    names = tuple(
        name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in _split(added)
    )
    if not names:
        return own
    unknown = [name for name in names if name not in privileges.CAPABILITIES]
    if unknown:
        raise InvalidArgument(f"unknown capability {unknown[0]} (--cap)")
    sets = own or Capabilities()
    return msgspec.structs.replace(
        sets,
        **{name: (*getattr(sets, name), *names) for name in ("bounding", "effective", "permitted", "ambient")},
    )


def _entering_its_root(launch: ExecLaunch) -> ExecLaunch:
    return msgspec.structs.replace(launch, chrooted=True)


def _join(container: store.Container, asked: list[str], wanted: Process, manner: Manner) -> Newborn:
    record = container.known
    spec = bundle.decode(container.read("config.json"), "config.json")
    linux = spec.linux
    launch = ExecLaunch(
        id="",
        container=record.id,
        process=wanted,
        seccomp=linux.seccomp if linux else None,
        chrooted=shared_tree.is_shared(spec),
    )
    bpf = container.read("seccomp.bpf")
    cgroups: Cgroups = groups.of(record)
    with ExitStack() as opened:
        target = os.pidfd_open(record.pid)
        opened.callback(os.close, target)
        if container.status() == "stopped":
            raise Conflict(f"cannot exec in a stopped container: {record.id} has just ended")

        if not rootless.may_mount():  # then only as root of the container's user namespace may this join the others
            namespaces.join_process(target, process.CLONE_NEWUSER)

        def become(sync_fd: int, gate_fd: int) -> None:
            ends = ChildStdio(console=True) if wanted.terminal else stdio.inherited()
            order = launch if launch.chrooted or not joining.in_chroot() else _entering_its_root(launch)
            exec_child.run(
                order, target_pidfd=target, sync_fd=sync_fd, gate_fd=gate_fd, stdio=ends, seccomp=bpf, manner=manner
            )

        place = opened.enter_context(joining.place(record, cgroups, asked))
        affinity.before(wanted)
        if linux is not None and linux.personality is not None:
            # Inherited by what this process makes.
            operations.perform(credentials.personality(linux.personality.domain))
        if linux is not None and linux.memory_policy is not None:
            memory_policy.apply(linux.memory_policy)  # likewise
        return born(0, place, [("pid", target)], become)
