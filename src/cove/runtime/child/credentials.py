"""Who a process shall be and what it gets, alike for a container's first one and for an exec.

identity ─▶ working directory ─▶ stdio ─▶ find the program ─▶ limits ─▶ the last acts (`cove.runtime.child.final`)
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import msgspec

from cove.kernel import operations, privileges, rootpath, syscalls
from cove.kernel.operations import Operation
from cove.oci.spec import Process, Rlimit
from cove.runtime.child import devices, idmaps, program
from cove.runtime.child.common import Child, ChildStdio, Failure
from cove.runtime.child.users import MAX_ID, Identity, home_of, resolve
from cove.runtime.numbers import known

_PR_SET_DUMPABLE = 4
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}


class Masks(msgspec.Struct, frozen=True):
    """The capability sets as bit masks, computed before anything is dropped."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


def masks_of(process: Process) -> Masks:
    """The sets that `process` asks for; none at all when it has no capabilities member."""
    sets = process.capabilities
    if sets is None:
        return Masks(0, 0, 0, 0, 0)
    try:
        return Masks(
            *(
                privileges.capability_mask(names)
                for names in (sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient)
            )
        )
    except ValueError as error:
        raise Failure(str(error)) from None


def identify(child: Child, root: int, process: Process, user: str | None, group_add: Iterable[str]) -> Identity:
    """Who the process shall be, see `cove.runtime.child.users`; with `user` None the spec's numbers stand."""
    if user is not None:
        return resolve(root, user, group_add, child.own_proc)
    given = process.user
    for number in (given.uid, given.gid, *given.additional_gids):
        if not 0 <= number <= 2 * MAX_ID:
            raise Failure(f"id {number} is out of range: uids and gids must be in range 0-{2 * MAX_ID}")
    return Identity(given.uid, given.gid, given.additional_gids, home_of(root, given.uid, child.own_proc))


def check_limits(rlimits: Iterable[Rlimit]) -> None:
    """Failure that names the first that no kernel has or takes."""
    for limit in rlimits:
        if limit.type not in privileges.RLIMITS:
            raise Failure(f"unknown resource limit {limit.type}")
        if limit.soft > limit.hard >= 0:
            raise Failure(f"{limit.type}: the soft limit {limit.soft} is above the hard limit {limit.hard}")


def apply_limits(process: Process, seen: tuple[int, int], pid: int = 0) -> None:
    """Resource limits, OOM score, scheduling of the process `pid`, 0 for this one.

    `seen`: a verified procfs and its number there, for the OOM score.
    """
    for limit in process.rlimits:
        privileges.set_rlimit(limit.type, limit.soft, limit.hard, pid)
    if process.oom_score_adj is not None:
        set_oom_score(*seen, process.oom_score_adj)
    if process.scheduler is not None:
        _schedule(process, pid)
    if process.io_priority is not None:
        io_class = known(_IO_CLASSES, process.io_priority.class_, "I/O class")
        syscalls.ioprio_set(io_class, process.io_priority.priority, pid)


def personality(domain: str) -> Operation:
    """What uname(2) says the machine is: LINUX, or LINUX32 for programs of the narrower kind."""
    return operations.personality(known(_PERSONALITIES, domain, "personality"))


def set_oom_score(proc: int, pid: int, value: int) -> None:
    """Write oom_score_adj; below what a process may have (no CAP_SYS_RESOURCE) it keeps what it has."""
    try:
        rootpath.write_procfs(proc, f"{pid}/oom_score_adj", str(value).encode("ascii"))
    except OSError as error:
        if error.errno != errno.EACCES:
            raise


def write_oom_score(path: str, value: int) -> None:
    """The same from outside of the process' user namespace, where the file at `path` is the host's root's."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(str(value).encode("ascii"))
    except PermissionError:
        return


def _schedule(process: Process, pid: int) -> None:
    wanted = process.scheduler
    assert wanted is not None
    flags = 0
    for flag in wanted.flags:
        flags |= known(_SCHEDULER_FLAGS, flag, "scheduler flag")
    policy = known(_POLICIES, wanted.policy, "scheduling policy")
    try:
        syscalls.sched_setattr(
            policy=policy,
            flags=flags,
            nice=wanted.nice,
            priority=wanted.priority,
            runtime=wanted.runtime,
            deadline=wanted.deadline,
            period=wanted.period,
            pid=pid,
        )
    except OSError as error:
        if wanted.policy != "SCHED_DEADLINE" or error.errno != errno.EPERM:
            reason = os.strerror(error.errno or 0).lower()
            raise Failure(f"process.scheduler cannot be {wanted.policy}: {reason}", number=error.errno or 0) from None
        raise Failure(
            "process scheduler can't be used together with AllowedCPUs: SCHED_DEADLINE needs every processor of the "
            "host (linux.resources.cpu.cpus), and a host that gives realtime to control groups",
            number=errno.EPERM,
        ) from None


def enter_directory(root: int, path: str, *, make: bool) -> int:
    """Make `path` the working directory, by a descriptor resolved inside `root`; with `make`, made when absent.

    Returns that descriptor.

    A magic link (/proc/self/fd/N) may lead anywhere and is refused.
    """
    if not path.startswith("/"):
        raise Failure(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    try:
        if make:
            fd = rootpath.make_directories(root, path)
        else:
            fd = rootpath.open_in(root, path, os.O_PATH | os.O_DIRECTORY)
        os.fchdir(fd)
    except OSError as error:
        number = error.errno or 0
        raise Failure(f'chdir to cwd ("{path}") failed: {os.strerror(number).lower()}', number=number) from None
    if not os.getcwd().startswith("/"):
        raise Failure(f'chdir to cwd ("{path}") failed: it lies outside the container\'s root')
    return fd


def place_stdio(child: Child, root: int, stdio: ChildStdio, console: int | None, owner: Identity) -> None:
    """Put descriptors 0 to 2 in place and give them to the process' user; a console is its session's terminal.

    Before the barrier: whoever called `create` may wait until nobody has its own streams any more.
    """
    wanted = [console] * 3 if console is not None else [stdio.stdin, stdio.stdout, stdio.stderr]
    null = devices.open_null(root, child.own_proc) if None in wanted else -1
    for number, fd in enumerate(wanted):
        if fd == number:
            os.set_inheritable(fd, True)
        else:
            child.act(operations.duplicate(null if fd is None else fd, number))
        if fd is not None:
            _give(fd, child.outer_user(owner.uid))
    if console is not None:
        child.act(devices.control_terminal(0))


def _give(fd: int, owner: int) -> None:
    """Let the user open its own /dev/stdout again; pipes and files of others that refuse stay as they are.

    A device that is no terminal is everybody's: /dev/null of the host, as a rule.
    """
    try:
        found = os.fstat(fd)
        if stat.S_ISCHR(found.st_mode) and not os.isatty(fd):
            return
        if found.st_uid != owner:
            os.fchown(fd, owner, -1)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EROFS, errno.EINVAL):
            raise


@contextmanager
def _mapped(identity: Identity) -> Iterator[None]:
    """Within, the kernel's EINVAL means that a user namespace has no such id."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise idmaps.unmapped((identity.uid, identity.gid, *(identity.groups or ()))) from None


def become_root(child: Child, *, keep_groups: bool = False) -> None:
    """Root of the user namespace that the process has just entered, and nobody's to look into."""
    if not keep_groups:
        child.act(operations.setgroups((), errno.EPERM))
    child.act(operations.setresgid(0))
    child.act(operations.setresuid(0))
    child.act(operations.prctl(_PR_SET_DUMPABLE, 0))


def environment(process: Process, identity: Identity) -> dict[str, str]:
    """The process' environment; HOME from the image's passwd where it has none."""
    env: dict[str, str] = {}
    for entry in process.env:
        name, equals, value = entry.partition("=")
        if equals and name:
            env[name] = value
    if not env.get("HOME"):
        env["HOME"] = identity.home
    return env


class Program(msgspec.Struct, frozen=True):
    """What is executed, with its environment."""

    path: str
    env: dict[str, str]


def _overrides(process: Process) -> bool:
    """Whether the process keeps the right to ignore the modes of files."""
    sets = process.capabilities
    return sets is not None and "CAP_DAC_OVERRIDE" in sets.effective and "CAP_DAC_OVERRIDE" in sets.permitted


def find_program(child: Child, root: int, process: Process, identity: Identity) -> Program:
    """Look args[0] up as the process' user would, while every system call is still allowed."""
    env = environment(process, identity)
    user, group = child.outer_user(identity.uid), child.outer_group(identity.gid)
    with _mapped(identity):
        privileges.set_groups(identity.groups and [child.outer_group(each) for each in identity.groups], group)
    # Who keeps the right to pass any mode does, as root does here.
    with nullcontext() if _overrides(process) else privileges.looking_as(user, group):
        return Program(program.find(root, process.args[0], env.get("PATH")), env)
