"""Id-mapped mounts: files whose owners are shifted for one container, without a change on disk (mount_setattr(2))."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from cove.kernel import idmapped, mounts, process, rootpath
from cove.oci.spec import IDMapping
from cove.runtime.child.common import Failure


def lines(mappings: Sequence[IDMapping]) -> bytes:
    """The content of uid_map or gid_map (user_namespaces(7))."""
    return "".join(f"{each.container_id} {each.host_id} {each.size}\n" for each in mappings).encode("ascii")


def host_id(mappings: Sequence[IDMapping], inside: int) -> int:
    """What id `inside` is outside; Failure when it is nothing there."""
    for each in mappings:
        if each.container_id <= inside < each.container_id + each.size:
            return each.host_id + inside - each.container_id
    raise Failure(f"id {inside} of the container is mapped to nothing outside of it", number=errno.EINVAL)


def lend(fds: Iterable[int], pid: int) -> None:
    """Make the pipes among `fds` belong to the root of the user namespace of `pid`, who may then pass them on.

    A program opens its /dev/stdout again, which for a pipe of the host's root it could not.
    """
    root = [_outside(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")]
    for fd in fds:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            with suppress(PermissionError):  # somebody else's, and the maker is not the host's root
                os.fchown(fd, *root)


def _outside(path: str) -> int:
    """The id that 0 is outside of the namespace with this map; -1, for which nothing is changed, when it is none."""
    with open(path, encoding="ascii") as file:
        for line in file:
            inside, outside, _ = line.split()
            if inside == "0":
                return int(outside)
    return -1


def shift(mount_fd: int, namespace: int, *, recursive: bool) -> None:
    """Shift the owners that the detached mount `mount_fd` shows; Failure where file system or kernel cannot."""
    try:
        idmapped.shift(mount_fd, namespace, recursive=recursive)
    except OSError as error:
        raise Failure(
            f"its file system or this kernel does not map ids: {os.strerror(error.errno or 0)}",
            number=error.errno or 0,
        ) from None


@contextmanager
def user_namespace(uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> Iterator[int]:
    """Within, a descriptor of a user namespace with these maps, in which nobody is."""
    fd = _user_namespace(uids, gids)
    try:
        yield fd
    finally:
        os.close(fd)


def _user_namespace(uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> int:
    """A descriptor of a user namespace with these maps, which lives no longer than it."""
    pid, pidfd = process.clone(process.CLONE_NEWUSER)
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        proc = mounts.new_filesystem("proc", "proc", ())
        try:
            rootpath.write_procfs(proc, f"{pid}/uid_map", lines(uids))
            rootpath.write_procfs(proc, f"{pid}/gid_map", lines(gids))
            return os.open(f"{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        finally:
            os.close(proc)
    finally:
        process.send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)
