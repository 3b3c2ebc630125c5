"""Files into and out of containers: `docker cp`, `docker export`.

A **running** container is reached through /proc/PID/root: a descriptor of it shows the container's own
mounts. A **stopped** one is mounted by the worker in a mount namespace of its own, with its volumes, and
forgotten when the worker ends. Either way the worker, not the daemon, walks the container's files, and
archives stream through pipes, no faster than they are taken.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cove.errors import Conflict, Internal, InvalidArgument, describe
from cove.image.worker.members import Limits
from cove.image.worker.sandbox import PIPE, PIPE_SIZE, Worker
from cove.kernel import pipes
from cove.oci.spec import Mount


@dataclass(frozen=True, slots=True)
class FsRoot:
    """A container's file system: of a process, or as its mounts (the snapshot's first, then its volumes')."""

    pid: int = 0
    mounts: tuple[Mount, ...] = ()


def running(pid: int) -> FsRoot:
    """The files that the process `pid` sees; the caller sees to it that it lives."""
    return FsRoot(pid=pid)


def stopped(mounts: Iterable[Mount]) -> FsRoot:
    """The files that a container with these mounts would see; the first one is its root."""
    return FsRoot(mounts=tuple(mounts))


def stat_path(root: FsRoot, path: str) -> dict[str, Any]:
    """What lies at `path`: name, size, mode (Go's bits), mtime, linkTarget; NotFound when nothing does."""
    with _worker("stat", root, path=path) as worker:
        return worker.result()


def read_archive(root: FsRoot, path: str, *, sparse: bool = False) -> Iterator[bytes]:
    """The file or tree at `path` as a tar archive, its top called as the path's last name.

    `sparse`: holes in files stay holes, in a form that GNU tar and Python read, and few others.
    """
    return _read(root, **_pack(path, sparse=sparse))


def export(root: FsRoot) -> Iterator[bytes]:
    """The whole file system as a tar archive, without what is mounted in it."""
    return _read(root, **_pack("/", arcname=".", one_device=True, bare=True))


def content(root: FsRoot) -> Iterator[bytes]:
    """All that lies in a volume, exactly: its own directory first ("./"), holes as holes."""
    return read_archive(root, "/.", sparse=True)


def transfer(source: FsRoot, target: FsRoot, path: str = "/.", *, limits: Limits = Limits()) -> None:  # noqa: B008
    """What `source` has in the directory `path` into the volume `target`, from worker to worker, as `content` is."""
    outlet, inlet = os.pipe()
    with ExitStack() as around:
        around.callback(os.close, outlet)
        try:
            pipes.widen(inlet, PIPE_SIZE)
            reader = around.enter_context(_worker("pack", source, stdout=inlet, **_pack(path, sparse=True)))
        finally:
            os.close(inlet)
        writer = around.enter_context(_worker("put", target, stdin=outlet, **_put("/", top=True, limits=limits)))
        try:
            writer.result()
        except InvalidArgument:
            reader.result()  # an archive that ends too early does so for this reason
            raise
        reader.result()


def write_archive(
    root: FsRoot,
    path: str,
    stream: Iterable[bytes],
    *,
    no_overwrite_dir_non_dir: bool = False,
    owner: str = "",
    top: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Unpack an archive (plain or gzip) into the directory at `path`.

    Owners are the archive's, unless everything shall belong to `owner`: a container's user, by names that its own
    accounts know, or by numbers.
    `top`: the directory itself becomes as the archive's top is, too.
    `no_overwrite_dir_non_dir` refuses to put a file in a directory's place and the other way round.
    """
    job = _put(path, owner=owner, keep_kinds=no_overwrite_dir_non_dir, top=top, limits=limits)
    with _worker("put", root, stdin=PIPE, **job) as worker:
        worker.feed(stream)
        worker.result()


def directory(path: str) -> Iterator[bytes]:
    """An archive of one directory, root's and made now; those above it are made where they are missing."""
    info = tarfile.TarInfo(path.strip("/"))
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
    yield info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tarfile.BLOCKSIZE)


def _put(path: str, *, owner: str = "", keep_kinds: bool = False, top: bool, limits: Limits) -> dict[str, Any]:
    return {"path": path, "owner": owner, "keep_kinds": keep_kinds, "limits": asdict(limits), "top": top}


def _pack(
    path: str, *, arcname: str = "", one_device: bool = False, bare: bool = False, sparse: bool = False
) -> dict[str, Any]:
    shown: dict[str, Any] = {"one_device": one_device, "bare": bare, "sparse": sparse}
    return {"path": path, "arcname": arcname, "layer": False, "skip": [], **shown}


def _read(root: FsRoot, **job: Any) -> Iterator[bytes]:
    with _worker("pack", root, stdout=PIPE, **job) as worker:
        yield from worker.output()
        worker.result()


@contextmanager
def _worker(verb: str, root: FsRoot, **job: Any) -> Iterator[Worker]:
    """A worker in the container's root."""
    if root.mounts:
        with Worker(verb, -1, mounts=root.mounts, place=_place(root.mounts[0]), **job) as worker:
            yield worker
        return
    try:
        fd = os.open(f"/proc/{root.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Conflict("the container stopped meanwhile; try again") from error
    except OSError as error:
        raise Internal(f"cannot reach the container's files: {describe(error)}") from error
    try:
        users = _user_namespace(root.pid)
        try:
            with Worker(verb, fd, userns=users, **job) as worker:
                yield worker
        finally:
            if users >= 0:
                os.close(users)
    finally:
        os.close(fd)


def _user_namespace(pid: int) -> int:
    """A descriptor of the user namespace of `pid`, in which its files have the owners it knows; -1 for our own."""
    try:
        own, path = os.stat("/proc/self/ns/user"), f"/proc/{pid}/ns/user"
        if os.path.samestat(own, os.stat(path)):
            return -1
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Conflict("the container stopped meanwhile; try again") from error


def _place(snapshot: Mount) -> str:
    """Where the worker mounts the root for itself: its own directory, which surely is there."""
    for option in snapshot.options:
        if option.startswith("upperdir="):
            return str(Path(option.removeprefix("upperdir=")).parent)
    if "loop" in snapshot.options:
        return str(Path(snapshot.source).parent)
    return snapshot.source
