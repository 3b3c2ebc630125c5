"""Where an exec begins: in the container's control group, or in groups below it that --cgroup names.

--cgroup PATH                 below the container's group, of every controller that has it
--cgroup CONTROLLERS:PATH     (version 1) of these controllers alone; may come several times
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cove.errors import InvalidArgument
from cove.kernel import namespaces
from cove.kernel.cgroups import Birthplace, Cgroups
from cove.runtime.oci.store import Record


@contextmanager
def place(record: Record, cgroups: Cgroups, asked: list[str]) -> Iterator[Birthplace]:
    """What a child that is cloned within needs to begin there. InvalidArgument names a group that is not there."""
    if not asked:
        with cgroups.birthplace(record.cgroup, beside=record.pid) as found:
            yield found
        return
    if not record.cgroup_directories:
        raise InvalidArgument(f"--cgroup {asked[0]}: the container {record.id} has no control group of its own")
    below = dict(map(_split, asked))
    one = len(record.cgroup_directories) == 1 and cgroups.version == 2
    if one and (len(below) > 1 or "" not in below):
        raise InvalidArgument(f"--cgroup {asked[0]}: with version 2 there is one group for all controllers")
    with ExitStack() as opened:
        if one:
            fd = _open(record, record.cgroup_directories[0] + below[""], os.O_RDONLY | os.O_DIRECTORY, below[""])
            opened.callback(os.close, fd)
            yield Birthplace(directory=fd)
            return
        doors, unified = [], None
        for directory, path in _chosen(record, cgroups, below):
            if os.path.exists(f"{directory}/tasks"):
                doors.append(_open(record, f"{directory}{path}/tasks", os.O_WRONLY, path))
                opened.callback(os.close, doors[-1])
            else:  # a hybrid host's tree of version 2
                unified = _open(record, f"{directory}{path}", os.O_RDONLY | os.O_DIRECTORY, path)
                opened.callback(os.close, unified)
        yield Birthplace(directory=unified, doors=tuple(doors))


def in_chroot() -> bool:
    """Whether the root of this process is not that of its mount namespace, to which it goes back by this question.

    Then pivot_root(2) moved, for a container made here, no more than the former: its mount namespace still begins
    with the host's root, and whoever joins that must go on into the container's own.
    """
    before = _place_of_root()
    try:
        namespaces.join("/proc/self/ns/mnt", "mount")
    except OSError:
        return False  # without the right to that nobody made a container here
    return _place_of_root() != before


def _place_of_root() -> tuple[str, int]:
    """Its mount and its inode, which are not enough each: a tree may be mounted twice."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            mount = next(line for line in file if line.startswith(b"mnt_id:"))
        return mount.decode(), os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _split(asked: str) -> tuple[str, str]:
    """The controllers ("" for all) and the path below the container's group, which never leads out of it."""
    controllers, colon, path = asked.rpartition(":")
    if ".." in path.split("/"):
        raise InvalidArgument(f"--cgroup {asked}: bad sub cgroup path, `..` components are not allowed")
    return controllers if colon else "", os.path.normpath("/" + path.lstrip("/")).rstrip("/")


def _chosen(record: Record, cgroups: Cgroups, below: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each hierarchy's directory of the container, and the path below it."""
    paths = dict.fromkeys(record.cgroup_directories, "")
    if everywhere := below.get("", ""):
        there = [directory for directory in paths if os.path.isdir(directory + everywhere)]
        if not there:
            raise _absent(record, everywhere)
        paths |= dict.fromkeys(there, everywhere)
    for controllers, path in below.items():
        for controller in filter(None, controllers.split(",")):
            directory = cgroups.directory_of(controller, record.cgroup)
            if directory not in paths:
                raise InvalidArgument(f"--cgroup {controllers}:{path}: unknown controller {controller}")
            paths[directory] = path
    yield from paths.items()


def _open(record: Record, path: str, flags: int, below: str) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _absent(record, below) from None


def _absent(record: Record, below: str) -> InvalidArgument:
    return InvalidArgument(
        f"cannot exec in {record.id}: adding pid to cgroup {below} below its own failed: no such file or directory"
    )
