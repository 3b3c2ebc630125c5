"""Files in containers: copied in and out, exported, compared with the image; and processes listed.

A running container's tree is reached through its first process's root, which shows its mounts; a stopped
one's is put together inside a confined worker. Nothing here resolves a path of a container itself.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cove.engine.bridging import blocking
from cove.engine.containers.launch import cgroup_of, managed
from cove.engine.containers.records import MountRecord, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.telling import tell
from cove.engine.volumes.mounts import Mounts
from cove.engine.volumes.service import VolumeService
from cove.errors import Conflict, Forbidden, InvalidArgument, NotFound
from cove.image.travel import archives
from cove.image.travel.archives import FsRoot
from cove.volume import binds
from cove.wire.containers import Change, TopResponse

_PS_PATIENCE = 10.0
_LOOKS, _BETWEEN_LOOKS = 200, 0.01


class Files:
    """The use cases of a container's files."""

    def __init__(self, context: Context, registry: Registry, mounts: Mounts, volumes: VolumeService) -> None:
        self._context = context
        self._registry = registry
        self._mounts = mounts
        self._volumes = volumes

    # ── cp ────────────────────────────────────────────────────────────────────────────────────────

    async def stat(self, ref: str, path: str) -> dict[str, Any]:
        """What lies at a path; NotFound when nothing does."""
        container = self._registry.find(ref)
        await self._begin(container)
        async with self._ready(container):
            return await self._context.executors.bulk(self._stat, container, ref, path)

    def _stat(self, container: Container, ref: str, path: str) -> dict[str, Any]:
        with _named(path, ref):
            return archives.stat_path(self._root(container), path)

    async def read(self, ref: str, path: str, *, sparse: bool = False) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """(stat, archive) of what lies at a path; `sparse`: holes of files stay holes."""
        container = self._registry.find(ref)
        stat = await self.stat(ref, path)
        tell(self._context.events, container, "archive-path")
        return stat, self._pieces(container, path, sparse)

    async def _pieces(self, container: Container, path: str, sparse: bool) -> AsyncIterator[bytes]:
        async with self._ready(container):
            pieces = archives.read_archive(self._root(container), path, sparse=sparse)
            async for piece in self._context.executors.stream(pieces):
                yield piece

    async def write(
        self,
        ref: str,
        path: str,
        stream: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack an archive into the directory at `path`."""
        container = self._registry.find(ref)
        owner = container.record.config.user if copy_uid_gid else ""
        body = blocking(stream)
        await self._begin(container)
        async with self._ready(container):
            with _named(path, ref), _readable_only(container.record, path):
                await self._context.executors.bulk(
                    archives.write_archive,
                    self._root(container),
                    path,
                    body,
                    no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
                    owner=owner,
                )
        tell(self._context.events, container, "extract-to-dir")

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        """The whole root file system, without volumes."""
        container = self._registry.find(ref)
        await self._begin(container)
        if container.facts.running:  # its overlay is mounted already, and may be only once
            root = archives.running(container.facts.pid)
        else:
            root = archives.stopped((self._context.snapshots.mount(container.id),))
        pieces = archives.export(root)
        tell(self._context.events, container, "export")
        return self._context.executors.stream(pieces)

    async def _begin(self, container: Container) -> None:
        """Before a look into a container: one whose program has just ended is recorded as such first.

        Before its first start its working directory is there.
        """
        for _ in range(_LOOKS):
            if not container.facts.running or os.path.exists(f"/proc/{container.facts.pid}/root/."):
                break
            await asyncio.sleep(_BETWEEN_LOOKS)
        if container.facts.started_ns or container.record.config.working_dir in ("", "/"):
            return
        async with container.lock:
            if not container.facts.running:
                await self._context.executors.bulk(self._make_working_directory, container.record)

    def _make_working_directory(self, record: Record) -> None:
        path = binds.clean(f"/{record.config.working_dir}")
        root = archives.stopped((self._context.snapshots.mount(record.id),))
        try:
            archives.stat_path(root, path)
        except NotFound:
            archives.write_archive(root, "/", archives.directory(path))

    def _ready(self, container: Container) -> AbstractAsyncContextManager[None]:
        """Within, `_root` shows all volumes; a running container has them mounted already."""
        return self._volumes.use.held(() if container.facts.running else container.record.mounts)

    def _root(self, container: Container) -> FsRoot:
        if container.facts.running:
            return archives.running(container.facts.pid)
        record = container.record
        visible = [mount for mount in record.mounts if mount.type != "tmpfs"]
        snapshot = self._context.snapshots.mount(record.id, readonly=record.host.readonly_rootfs)
        own = [
            each for each in managed(record, self._context.data.container(record.id)) if os.path.exists(each.source)
        ]
        return archives.stopped((snapshot, *self._mounts.perform(visible), *own))

    # ── volumes ───────────────────────────────────────────────────────────────────────────────────

    async def fill_volumes(self, record: Record) -> None:
        """Before a container's first start: what its image has where an empty volume will lie."""
        for mount in record.mounts:
            if self._volumes.use.wants_fill(mount):
                await self._fill_from_image(record, mount)
                self._volumes.note_filled(mount.name)

    async def _fill_from_image(self, record: Record, mount: MountRecord) -> None:
        image = archives.stopped((self._context.snapshots.mount(record.id),))
        source = f"{mount.destination.rstrip('/')}/."
        try:
            await self._context.executors.bulk(archives.stat_path, image, source)
        except (NotFound, InvalidArgument):
            return  # the image has nothing there, or no directory
        async with self._volumes.use.held((mount,)):
            await self._context.executors.bulk(self._fill, image, source, mount)

    def _fill(self, image: FsRoot, source: str, mount: MountRecord) -> None:
        shown = self._volumes.use.mount(msgspec.structs.replace(mount, destination="/", rw=True))
        if shown.type == "bind" and os.listdir(shown.source) and not mount.subpath:
            return  # a plugin's, which has something in it
        archives.transfer(image, archives.stopped((shown,)), source)

    # ── changes ───────────────────────────────────────────────────────────────────────────────────

    async def changes(self, ref: str) -> list[Change]:
        """What differs from the image."""
        container = self._registry.find(ref)
        await self._begin(container)
        found = await self._context.executors.disk(self._context.snapshots.changes, container.id)
        return without_managed([Change(path=each.path, kind=each.kind) for each in found])

    # ── top ───────────────────────────────────────────────────────────────────────────────────────

    async def top(self, ref: str, *, ps_args: str = "-ef") -> TopResponse:
        """The host's `ps`, with the container's processes only; never a program of the image's."""
        container = self._registry.find(ref)
        if not container.facts.running:
            raise Conflict(f"container {container.id} is not running")
        try:
            words = shlex.split(ps_args or "-ef")
        except ValueError as error:
            raise InvalidArgument(f"ps arguments {ps_args!r} cannot be read: {error}") from None
        output = await _ps(words)
        pids = set(self._context.cgroups.procs(cgroup_of(container, self._context)))
        tell(self._context.events, container, "top")
        return select(output, pids)


@contextmanager
def _named(path: str, ref: str) -> Iterator[None]:
    """A path that is not there is told with its container."""
    try:
        yield
    except NotFound:
        raise NotFound(f"Could not find the file {path} in container {ref}") from None


@contextmanager
def _readable_only(record: Record, path: str) -> Iterator[None]:
    """The kernel's refusal to write, in Docker's words: it is the volume that may not be written to, or the root."""
    try:
        yield
    except Forbidden:
        clean = binds.clean(path if path.startswith("/") else f"/{path}")
        inside = any(clean == each.destination or clean.startswith(f"{each.destination}/") for each in record.mounts)
        what = "mounted volume" if inside else "container rootfs"
        raise Forbidden(f"{what} is marked read-only: {path} cannot be written to") from None


async def _ps(words: list[str]) -> str:
    program = next((path for path in ("/usr/bin/ps", "/bin/ps") if Path(path).exists()), "")
    if not program:
        raise NotFound("the program ps is not installed on this host; install it (package procps)")
    with tempfile.TemporaryFile() as complaint:
        process = await asyncio.create_subprocess_exec(
            program, *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=complaint
        )
        output, _ = await asyncio.wait_for(process.communicate(), _PS_PATIENCE)
        if process.returncode:
            complaint.seek(0)
            reason = complaint.read(300).decode(errors="replace").strip()
            raise InvalidArgument(f"error running ps {' '.join(words)}: {reason or 'it failed'}")
    return output.decode(errors="replace")


_MANAGED = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


def without_managed(changes: list[Change]) -> list[Change]:
    """Without the places that Cove's own files are mounted on, and /etc when only they changed it."""
    kept = [change for change in changes if change.path not in _MANAGED]
    if len(kept) == len(changes) or any(change.path.startswith("/etc/") for change in kept):
        return kept
    return [change for change in kept if change.path != "/etc"]


def select(output: str, pids: set[int]) -> TopResponse:
    """The lines of these processes, by the column PID; the last column may have spaces."""
    table = output.splitlines()
    titles = tuple(table[0].split()) if table else ()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for row in table[1:]:
        fields = row.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            rows.append(tuple(fields))
    return TopResponse(titles=titles, processes=tuple(rows))
