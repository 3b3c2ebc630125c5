"""The containers below --root: one directory each, which is all that a command knows of another one's work.

    ROOT/ID/   state.json    who the container is (Record), replaced atomically
               config.json   the bundle's configuration as it was at `create`
               start.sock    there until `start`: init listens on it
               seccomp.bpf   the compiled filter, for exec
               notify/       with NOTIFY_SOCKET: the socket on which the program tells that it is ready
               lock          held (flock) by the one command that changes something

Whether a container is created, running or stopped is never written down: it is asked of the kernel.

    creating ──▶ created ──▶ running ⇄ paused
                    │           │
                    └───────────┴──▶ stopped ──▶ (deleted)
"""

from __future__ import annotations

import errno
import fcntl
import os

from cove.errors import Conflict, Internal, InvalidArgument, NotFound
from cove.kernel import procstat
from cove.runtime.oci import compact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CGROUP_PARENT = "cove-oci"
"""The group that holds those of containers whose configuration names none."""

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_FIELDS = ("id", "pid", "ticks", "boot", "bundle", "rootfs", "created", "owner", "annotations", "cgroup")
_OPTIONAL = {
    "manager": "cgroupfs",
    "cgroup_directories": [],
    "poststart": False,
    "poststop": False,
    "own_pids": True,
    "monitored": False,
    "idle": 0,
}


class Record:
    """The content of state.json. `ticks` and `boot` make `pid` unmistakable; `own_pids`: a pid namespace of its own.

    `manager`: of its control group, "disabled" when it has none. `cgroup_directories`: the container's group in each
    hierarchy. `monitored`: it has a group of Intel RDT. `idle`: what its group becomes when the program runs.
    """

    __slots__ = (*_FIELDS, *_OPTIONAL)

    id: str
    pid: int
    ticks: int
    boot: str
    bundle: str
    rootfs: str
    created: str
    owner: str
    annotations: dict[str, str]
    cgroup: str
    manager: str
    cgroup_directories: list[str]
    poststart: bool
    poststop: bool
    own_pids: bool
    monitored: bool
    idle: int

    def __init__(self, **values: Any) -> None:
        for name in _FIELDS:
            setattr(self, name, values[name])
        for name, default in _OPTIONAL.items():
            setattr(self, name, values.get(name, default))

    def encode(self) -> bytes:
        return compact.encode({name: getattr(self, name) for name in self.__slots__})


def check_id(identity: str) -> str:
    """`identity`, if a container may be called so."""
    if not identity or not _ALLOWED.issuperset(identity) or identity in (".", "..") or len(identity) > 1024:
        raise InvalidArgument(
            f"invalid character in container ID {identity!r}: it takes letters, digits and _+-. (1024 at most), "
            "and is neither . nor .."
        )
    return identity


class Container:
    """One container's directory; `fd` holds on to it."""

    __slots__ = ("_lock", "fd", "id", "path", "record")

    def __init__(self, root: str, identity: str, fd: int, record: Record | None) -> None:
        self.id = identity
        self.path = f"{root}/{identity}"
        self.fd = fd
        self.record = record
        self._lock: int | None = None

    @property
    def known(self) -> Record:
        """Its record; while it is being created there is none."""
        if self.record is None:
            raise Conflict(f"container {self.id} is still being created")
        return self.record

    def lock(self) -> None:
        """Until this process ends, no other command changes this container; waits for one that does."""
        self._lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.record = _read(self.fd, self.id)

    def save(self, record: Record) -> None:
        """Replace state.json."""
        self.record = record
        self.write("state.json", record.encode())

    def write(self, name: str, content: bytes) -> None:
        """Make or replace one of its files."""
        fd = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
        os.rename(f"{name}.new", name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def read(self, name: str) -> bytes:
        """One of its files; b"" when it is not there."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return b""
        with open(fd, "rb") as file:
            return file.read()

    @property
    def socket_path(self) -> str:
        """A path to start.sock that is short, however deep --root lies (sun_path holds 108 bytes)."""
        return f"/proc/self/fd/{self.fd}/start.sock"

    def waits(self) -> bool:
        """Whether its init still has a listener."""
        try:
            os.stat("start.sock", dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def status(self) -> str:
        """Where it is in its life, as the kernel knows it."""
        record = self.record
        if record is None:
            return "creating"
        if not procstat.is_alive(record.pid, record.ticks, record.boot):
            return "stopped"
        if self.waits():
            return "created"
        return "paused" if is_frozen(record.cgroup_directories) else "running"

    def remove(self) -> None:
        """Forget it; it may be forgotten already."""
        for name in os.listdir(self.fd):
            try:
                os.unlink(name, dir_fd=self.fd)
            except IsADirectoryError:
                _remove_below(name, self.fd)
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return


def _remove_below(name: str, parent: int) -> None:
    """A directory of files; the host's own, though its content may be seen in the container."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for each in os.listdir(fd):
            os.unlink(each, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def is_frozen(directories: list[str]) -> bool:
    for directory in directories:
        for name, thawed in (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0")):
            try:
                fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                return os.read(fd, 16).strip() != thawed
            finally:
                os.close(fd)
    return False


def _read(directory: int, identity: str) -> Record | None:
    try:
        fd = os.open("state.json", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        content = file.read()
    try:
        return Record(**compact.decode(content))
    except (ValueError, TypeError, KeyError) as error:
        raise Internal(f"the state of container {identity} is damaged ({error}); delete --force removes it") from None


def find(root: str, identity: str) -> Container:
    """The container of that id; NotFound."""
    check_id(identity)
    try:
        fd = os.open(f"{root}/{identity}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"container does not exist: there is no {identity} below {root}") from None
    return Container(root, identity, fd, _read(fd, identity))


def make(root: str, identity: str) -> Container:
    """A new container's directory, locked; Conflict when the id is taken."""
    check_id(identity)
    try:
        try:
            os.mkdir(f"{root}/{identity}", 0o700)
        except FileNotFoundError:
            os.makedirs(root, 0o711, exist_ok=True)
            os.mkdir(f"{root}/{identity}", 0o700)
    except FileExistsError:
        raise Conflict(f"container with given ID already exists: {identity}; delete it or take another") from None
    fd = os.open(f"{root}/{identity}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    made = Container(root, identity, fd, None)
    made.lock()
    return made


def every(root: str) -> list[Container]:
    """All of them, by name; those that vanish meanwhile are left out."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        try:
            found.append(find(root, name))
        except (NotFound, InvalidArgument):
            continue
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
    return found


def discard(root: str, identity: str) -> None:
    """Remove the directory of a container whose state cannot be read."""
    import shutil

    shutil.rmtree(f"{root}/{check_id(identity)}")
