"""Id-mapped mounts: files whose owners are shifted for one container, without a change on disk (mount_setattr(2))."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

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


class Ids(msgspec.Struct, frozen=True):
    """The ids of a user namespace, for whoever is outside of it."""

    uids: Sequence[IDMapping]
    gids: Sequence[IDMapping]

    def user(self, inside: int) -> int:
        """Failure when there is no such id."""
        return _outer(self.uids, inside)

    def group(self, inside: int) -> int:
        """The same of a group."""
        return _outer(self.gids, inside)


def _outer(mappings: Sequence[IDMapping], inside: int) -> int:
    try:
        return host_id(mappings, inside)
    except Failure:
        raise unmapped((inside,)) from None


def ids_of(pid: int) -> Ids:
    """Those of the user namespace that `pid` is in, by the maps that the kernel shows to the host's."""
    return Ids(*(_shown(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")))


def _shown(path: str) -> tuple[IDMapping, ...]:
    with open(path, encoding="ascii") as file:
        numbers = [[int(word) for word in line.split()] for line in file]
    return tuple(IDMapping(container_id=inside, host_id=outside, size=size) for inside, outside, size in numbers)


def unmapped(wanted: Iterable[int]) -> Failure:
    """Words for ids that a user namespace does not have, of which the kernel says EINVAL."""
    ids = ", ".join(map(str, dict.fromkeys(wanted)))
    return Failure(
        f"the container's user namespace does not have all of the ids {ids}; give it more of them "
        "(--userns=auto:size=N, or linux.uidMappings and gidMappings)",
        number=errno.EINVAL,
    )


def lend(fds: Iterable[int], pid: int) -> None:
    """Make the pipes among `fds` belong to the root of the user namespace of `pid`, who may then pass them on.

    A program opens its /dev/stdout again, which for a pipe of the host's root it could not.
    """
    root = [_root(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")]
    for fd in fds:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            with suppress(PermissionError):  # somebody else's, and the maker is not the host's root
                os.fchown(fd, *root)


def _root(path: str) -> int:
    """The id that 0 is outside of the namespace with this map; -1, for which nothing is changed, when it is none."""
    return next((each.host_id for each in _shown(path) if each.container_id == 0), -1)


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
