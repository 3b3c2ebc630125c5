"""Control groups: one per container, made, limited, measured, killed and removed. Versions 1 and 2.

A group's path ("/cove/ID") is the same in every hierarchy. Version 1 has one hierarchy per controller, and a
process joins each; version 2 has one for all. `detect` chooses by what is mounted at /sys/fs/cgroup.

    create ──▶ birthplace: a process is made ──▶ admit ──▶ begin ──▶ update · freeze · stats ──▶ kill ──▶ remove

Who makes the groups is the driver's: `cgroupfs` does it itself, `systemd` asks systemd for a scope.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel.
"""

from __future__ import annotations

import errno
import os
import signal as signals
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from cove.errors import Internal, InvalidArgument, describe
from cove.oci.spec import CPULimits, Rdma, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cove.kernel.pressure import Pressure

ROOT = "/sys/fs/cgroup"


class IoCount(msgspec.Struct, frozen=True):
    """Bytes and operations of one block device; `operation` is "read" or "write"."""

    major: int
    minor: int
    operation: str
    bytes: int
    operations: int


class CgroupStats(msgspec.Struct, frozen=True):
    """What a group has used. Times in nanoseconds, sizes in bytes; a limit of 0 is none, a peak of 0 unknown.

    `pressure`: of "cpu", "memory" and "io", where the kernel measures it for groups (version 2).
    `huge_pages`: bytes used, allowed (0: any number), and refusals, for each size of page ("2MB").
    """

    cpu_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_each_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    memory: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    memory_failures: int = 0
    memory_stat: dict[str, int] = msgspec.field(default_factory=dict)
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int = 0
    pids_peak: int = 0
    swap: int = 0
    io: tuple[IoCount, ...] = ()
    pressure: dict[str, Pressure] = msgspec.field(default_factory=dict)
    huge_pages: dict[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)


class Birthplace(msgspec.Struct, frozen=True):
    """`directory` is for clone3's CLONE_INTO_CGROUP (v2); `doors` are for the child, to `enter` by (v1)."""

    directory: int | None = None
    doors: tuple[int, ...] = ()

    def enter(self) -> None:
        """In the child, right after clone3, while it has one thread."""
        for door in self.doors:
            os.write(door, b"0")


class Cgroups(ABC):
    """What Cove does with control groups, whichever version."""

    version: int

    def __init__(self, parent: str) -> None:
        """`parent`: the name of the group that holds all of this daemon's groups, e.g. "cove"."""
        self.parent = parent.strip("/")

    @staticmethod
    def detect(parent: str, driver: str = "cgroupfs", *, hybrid: bool = False) -> Cgroups:
        """The version that this host has. Driver "systemd" takes scopes' names for paths, and plain paths too.

        `hybrid`: on a host with version 1, the tree of version 2 has the groups too.
        """
        files: Cgroups
        if os.path.exists(f"{ROOT}/cgroup.controllers"):
            from cove.kernel.cgroups_v2 import CgroupsV2

            files = CgroupsV2(parent)
        else:
            from cove.kernel.cgroups_v1 import CgroupsV1

            files = CgroupsV1(parent, hybrid=hybrid)
        if driver == "cgroupfs":
            return files
        from cove.kernel.cgroups_systemd import CgroupsSystemd

        return CgroupsSystemd(files)

    @abstractmethod
    def directories(self, path: str) -> list[str]:
        """The directories of one group, in every hierarchy."""

    def directory_of(self, controller: str, path: str) -> str:
        """The directory of one controller's group; one that the host does not have gives a path that is not there."""
        return next(iter(self.directories(path)), f"{ROOT}/{controller}/{path.strip('/')}")

    def _file(self, controller: str, path: str, name: str) -> str:
        """A control file of one controller's group."""
        return f"{self.directory_of(controller, path)}/{name}"

    @abstractmethod
    def update(self, path: str, resources: Resources) -> None:
        """Apply limits. Raises InvalidArgument with the kernel's reason."""

    @abstractmethod
    def freeze(self, path: str, frozen: bool) -> None:
        """Stop every process of the group, or let them go on; returns when it is so."""

    @abstractmethod
    def stats(self, path: str) -> CgroupStats:
        """What the group has used so far; zeros when it is gone."""

    @abstractmethod
    def oom_kills(self, path: str) -> int:
        """How many of its processes the kernel killed for the group's memory limit."""

    def waits_for_memory(self, path: str) -> bool:
        """Whether its processes stand still at the memory limit, for nothing is to be killed for it (version 1)."""
        return False

    @abstractmethod
    def memory_peak(self, path: str) -> int:
        """The most memory it has used at once, in bytes; 0 where the kernel does not remember."""

    @abstractmethod
    def open_oom_events(self, path: str) -> int | None:
        """A descriptor that becomes readable when the group meets its memory limit for good; None without one.

        Read it (`drain_events`) and compare `oom_kills`. It is also readable when the group is removed.
        """

    @abstractmethod
    def procs_file(self, path: str) -> str:
        """The cgroup.procs that lists the group's processes."""

    @abstractmethod
    def prepare(self, path: str) -> None:
        """What a new group needs before limits or processes."""

    def create(self, path: str, resources: Resources | None) -> None:
        """Make the group with its limits (it is idle only from `begin` on); all of it or nothing."""
        try:
            for directory in self.directories(path):
                make_directory(directory)
            self.prepare(path)
            if resources is not None:
                self.update(path, awake(resources))
        except OSError as error:
            self.remove(path)
            raise Internal(f"The control group {path} cannot be made: {describe(error)}") from error
        except BaseException:
            self.remove(path)
            raise

    def admit(self, path: str, pid: int) -> None:  # noqa: B027 - most drivers have nothing to do here
        """The group's first process is there, and waits: what needs one to make a group acts now."""

    def begin(self, path: str, idle: int) -> None:
        """The first process executes its program: from here on the group is as `idle` as it shall be."""
        if idle:
            self.update(path, Resources(cpu=CPULimits(idle=idle)))

    def attach(self, path: str, pid: int) -> None:
        """Move a process into the group, in every hierarchy."""
        content = str(pid).encode()
        for directory in self.directories(path):
            write_file(f"{directory}/cgroup.procs", content)

    @contextmanager
    def birthplace(self, path: str, beside: int | None = None) -> Iterator[Birthplace]:
        """What a child that is cloned within needs to begin in the group; `beside`: a process that is in it.

        Nobody else moves it there: for a process that moves another one, the kernel waits some milliseconds
        until no processor is in the middle of a fork; for one that moves itself it does not.
        """
        with ExitStack() as opened:
            doors = []
            for directory in self.directories(path):
                doors.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
                opened.callback(os.close, doors[-1])
            yield Birthplace(doors=tuple(doors))

    def procs(self, path: str) -> list[int]:
        """Its processes, those of groups below it included."""
        found: list[int] = []
        top = os.path.dirname(self.procs_file(path))
        for directory, _, _ in os.walk(top):
            try:
                found += map(int, read_file(f"{directory}/cgroup.procs").split())
            except OSError:
                continue
        return found

    def signal(self, path: str, number: int) -> None:
        """Send a signal to every process of the group."""
        for pid in self.procs(path):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self, path: str) -> None:
        """SIGKILL every process; forks cannot outrun it, as it is repeated until none is left (2 s at most)."""
        for attempt in range(200):
            if not self.procs(path):
                return
            if attempt == 1:
                self.freeze(path, False)
            self.signal(path, signals.SIGKILL)
            time.sleep(0.001 if attempt < 20 else 0.01)

    def remove(self, path: str) -> None:
        """Remove the group, which has no process any more; a group that is gone is no error."""
        for directory in self.directories(path):
            remove_tree(directory)

    def remove_parent(self) -> None:
        """Remove the group that held all of them, if nothing is left in it."""
        for directory in self.directories(f"/{self.parent}"):
            try:
                os.rmdir(directory)
            except OSError:
                continue


def make_directory(directory: str) -> None:
    """The group and those above it, in one hierarchy; it may be there."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)


def remove_tree(directory: str) -> None:
    """rmdir a group and those below it; the kernel says EBUSY for a moment after the last process ended."""
    try:
        os.rmdir(directory)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    for below, _, _ in os.walk(directory, topdown=False):
        for attempt in range(100):
            try:
                os.rmdir(below)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    return
                time.sleep(0.0005 * (attempt + 1))


def idleness(resources: Resources | None) -> int:
    """1 for a group whose processes run only when nobody else wants the processor."""
    idle = resources.cpu.idle if resources is not None and resources.cpu is not None else None
    if idle not in (None, 0, 1):
        raise InvalidArgument(f"CPU idle scheduling is 0 or 1, not {idle} (linux.resources.cpu.idle)")
    return idle or 0


def awake(resources: Resources) -> Resources:
    """The same for a group that has yet to begin: idle already, a busy host might never let it."""
    if not idleness(resources) or resources.cpu is None:
        return resources
    return msgspec.structs.replace(resources, cpu=msgspec.structs.replace(resources.cpu, idle=0))


def read_file(path: str) -> str:
    """A small file of the kernel's, stripped."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode().strip()
    finally:
        os.close(fd)


def write_file(path: str, content: bytes) -> None:
    """One write(2), as control files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def set_limit(path: str, value: object, what: str) -> None:
    """Write a limit; the kernel's refusal becomes a sentence about `what`, with the file and the value."""
    file = os.path.basename(path)
    try:
        write_file(path, str(value).encode())
    except FileNotFoundError:
        raise InvalidArgument(
            f"This host's kernel has no {file} control file, so {what} cannot be limited; leave the option out"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InvalidArgument(f"The kernel refuses {value} as {what} (in {file}): {reason}") from error


def rdma_text(device: str, limits: Rdma) -> str:
    """A line of rdma.max, the same in both versions."""
    handles = "max" if limits.hca_handles is None else limits.hca_handles
    objects = "max" if limits.hca_objects is None else limits.hca_objects
    return f"{device} hca_handle={handles} hca_object={objects}"


def drain_events(fd: int) -> None:
    """Make a descriptor of `open_oom_events` quiet again."""
    with suppress(BlockingIOError):
        os.read(fd, 4096)


def number(path: str, default: int = 0) -> int:
    """A control file with one number; "max" and absence are `default`."""
    try:
        text = read_file(path)
    except OSError:
        return default
    return int(text) if text.lstrip("-").isdecimal() else default


def table(path: str) -> dict[str, int]:
    """A control file of "name number" lines."""
    try:
        lines = read_file(path).splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdecimal()}
