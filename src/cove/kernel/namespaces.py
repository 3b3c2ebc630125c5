"""Namespaces: their kinds and flags, joining them, and giving birth to children inside another pid namespace."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from cove.kernel import process
from cove.kernel.syscalls import setns, unshare

FLAGS = {
    "user": process.CLONE_NEWUSER,
    "pid": process.CLONE_NEWPID,
    "mount": process.CLONE_NEWNS,
    "network": process.CLONE_NEWNET,
    "ipc": process.CLONE_NEWIPC,
    "uts": process.CLONE_NEWUTS,
    "cgroup": process.CLONE_NEWCGROUP,
    "time": process.CLONE_NEWTIME,
}
"""The runtime specification's kinds of namespace, with the kernel's flag for each."""

_FILES = {"mount": "mnt", "network": "net"}
_NS_GET_NSTYPE = 0xB703

IdRange = tuple[int, int, int]
"""First id inside, first id outside, how many."""


def kind_of(fd: int) -> str:
    """The kind of the namespace that `fd` is, "" when it is none (ioctl_ns(2), NS_GET_NSTYPE)."""
    try:
        flag = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return ""
    return next((kind for kind, each in FLAGS.items() if each == flag), "")


def join(path: str, kind: str) -> None:
    """Join the namespace of `kind` that the file `path` is; OSError names the path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, FLAGS[kind])
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def join_process(pidfd: int, kinds: int) -> None:
    """Join those namespaces of the process `pidfd` that `kinds` (CLONE_NEW* flags) names, all at once."""
    setns(pidfd, kinds)


@contextmanager
def children_in(target: int, kind: str = "pid") -> Iterator[None]:
    """Within, this process' new children are born in the namespace `target` of `kind` (not a user or mount one).

    `target` is a descriptor of a namespace, or a pidfd. Of a pid namespace, the process itself stays where it
    is; a child that is cloned within must never leave the block: it cannot come back up. Neither can a maker that
    joined a user namespace before, from which it has no right to its old one: its later children are born there too.
    """
    own = os.open(f"/proc/self/ns/{_FILES.get(kind, kind)}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(target, FLAGS[kind])
        try:
            yield
        finally:
            with suppress(PermissionError):
                setns(own, FLAGS[kind])
    finally:
        os.close(own)


@contextmanager
def in_network(target: int | str) -> Iterator[None]:
    """Within, this thread is in the network namespace of a pidfd, or that the file of a path is.

    Sockets that are made within stay there.
    """
    with ExitStack() as undo:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, own)
        if isinstance(target, str):
            target = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, target)
        setns(target, process.CLONE_NEWNET)
        undo.callback(setns, own, process.CLONE_NEWNET)
        yield


@contextmanager
def in_mounts_of(path: str) -> Iterator[int]:
    """Within, this process sees the mounts of the namespace that the file `path` is; yields a descriptor of its "/".

    It must have a single thread, and do nothing within but system calls: every name is that namespace's.
    """
    with ExitStack() as undo:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, there)
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, own)
        root, here = (os.open(each, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for each in ("/", "."))
        undo.callback(os.close, root)
        undo.callback(os.close, here)
        setns(there, process.CLONE_NEWNS)
        try:
            inside = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, inside)
            yield inside
        finally:  # setns leads to the top of the namespace, which need not be where this process was
            setns(own, process.CLONE_NEWNS)
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(here)


def write_id_maps(pid: int, uids: Iterable[IdRange], gids: Iterable[IdRange]) -> None:
    """Give the new user namespace of `pid` its maps: (inside, outside, count) each (user_namespaces(7))."""
    for name, ranges in (("uid_map", uids), ("gid_map", gids)):
        content = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)
        with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
            file.write(content.encode("ascii"))


def enter_new_time(offsets: dict[str, tuple[int, int]]) -> None:
    """Make a time namespace with `offsets` (clock → seconds, nanoseconds) and move into it (time_namespaces(7)).

    This process must have a single thread.
    """
    unshare(process.CLONE_NEWTIME)
    if offsets:
        lines = "".join(f"{clock} {seconds} {nanoseconds}\n" for clock, (seconds, nanoseconds) in offsets.items())
        with open("/proc/self/timens_offsets", "wb", buffering=0) as file:
            file.write(lines.encode("ascii"))
    join("/proc/self/ns/time_for_children", "time")
