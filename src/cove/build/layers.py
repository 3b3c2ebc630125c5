"""Layers made by steps: an empty upper directory, work done in it by a confined worker or a container, a layer.

    prepare ─▶ work ─▶ seal (digest, length) ─▶ renamed among the layers
       └───────── any failure: removed ─────────┘

Everything here blocks and belongs in an executor.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from cove import ids
from cove.build import ops
from cove.errors import Internal, NotFound, describe
from cove.image.store import ImageStore
from cove.image.worker.members import Limits
from cove.image.worker.sandbox import PIPE, Worker
from cove.image.worker.twin import twin
from cove.oci.spec import Mount
from cove.paths import DataRoot

_LIMITS = asdict(Limits())


class Workshop:
    """Makes layers and looks at trees, through confined workers."""

    def __init__(self, data: DataRoot, store: ImageStore) -> None:
        self.data = data
        self.store = store

    # ── a layer on its way ────────────────────────────────────────────────────────────────────────

    def prepare(self, chain: str) -> str:
        """The key of a new upper directory on top of `chain`."""
        key = ids.new_id()
        self.store.snapshots.prepare(key, chain or None)
        return key

    def discard(self, key: str) -> None:
        """Forget it and all that is in it."""
        self.store.snapshots.remove(key)
        shutil.rmtree(self.data.container(key).root, ignore_errors=True)

    @contextmanager
    def upper(self, chain: str) -> Iterator[str]:
        """A new upper directory for the time of a `with`."""
        key = self.prepare(chain)
        try:
            yield key
        finally:
            self.discard(key)

    def mount(self, key: str) -> Mount:
        """How its root is mounted. Nothing in it must survive a power failure until it is a layer: volatile."""
        made = self.store.snapshots.mount(key)
        return msgspec.structs.replace(made, options=(*made.options, "volatile"))

    def seal(self, key: str, chain: str, *, epoch: int | None, stubs: tuple[str, ...] = ()) -> tuple[str, int]:
        """Make a layer of it: its chain id, and the bytes of its files."""
        upper = self.data.container(key).upper
        root = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with Worker("seal", root, layer=True, floor=epoch, stubs=list(stubs)) as worker:
                sealed = worker.result()
        finally:
            os.close(root)
        try:
            chain_id = self.store.layers.adopt_tree(
                upper, chain, sealed["diff_id"], size=sealed["size"], archive=sealed["archive"]
            )
        except OSError as error:
            raise Internal(f"cannot keep a build step's layer: {describe(error)}") from error
        return chain_id, int(sealed["size"])

    def link(self, chain: str, layer: str) -> tuple[str, int]:
        """The one layer `layer` on top of `chain`, its files shared; the chain id and the bytes of its files."""
        facts = self.store.layers.facts(layer)
        if facts is None:
            raise NotFound(f"the layer {layer} was removed while the build used it; build again")
        if not chain:
            return layer, facts.size
        with self.upper(chain) as key:
            upper = self.data.container(key).upper
            twin(self.data.layer(layer), upper)
            try:
                named = self.store.layers.adopt_tree(
                    upper, chain, facts.diff_id, size=facts.size, archive=facts.archive
                )
            except OSError as error:
                raise Internal(f"cannot keep a build step's layer: {describe(error)}") from error
        return named, facts.size

    # ── work in it ────────────────────────────────────────────────────────────────────────────────

    def copy(self, key: str, source: Source, selection: ops.Selection, ignore: tuple[str, ...]) -> None:
        """Copy from a tree into the upper directory."""
        job = {"copy": _copy(selection, ignore), "limits": _LIMITS}
        self._at(key, "copy", source, job)

    def make_directory(self, key: str, path: str, owner: str) -> bool:
        """Make a directory; whether it was not there."""
        return bool(self._at(key, "make", None, {"path": path, "owner": owner})["made"])

    def _at(self, key: str, verb: str, source: Source | None, job: dict[str, Any]) -> dict[str, Any]:
        container = self.data.container(key)
        # A volatile mount leaves a mark in its work directory and is never mounted with it again.
        shutil.rmtree(container.work, ignore_errors=True)
        container.work.mkdir(mode=0o755)
        mounts, place = (self.mount(key),), str(container.root)
        with (
            Opened(self, source) as opened,
            Worker(verb, -1, mounts=mounts, place=place, **opened.job, **job) as worker,
        ):
            return worker.result()

    def pack(self, chain: str, moment: int | None = None) -> Iterator[bytes]:
        """All files of a stack of layers as an archive; with a `moment`, in seconds, every time is that."""
        with Opened(self, chain) as opened, self._look() as place:
            options = ("lowerdir=" + ":".join(opened.job["below"]),)
            single = len(opened.job["below"]) == 1
            root = Mount(
                destination="/",
                source=opened.job["below"][0],
                type="bind" if single else "overlay",
                options=() if single else options,
            )
            with Worker(
                "pack",
                -1,
                mounts=(root,),
                place=str(place),
                stdout=PIPE,
                path="/",
                arcname=".",
                layer=False,
                one_device=False,
                moment=moment,
                skip=[],
                bare=True,
            ) as worker:
                yield from worker.output()
                worker.result()

    @contextmanager
    def _look(self) -> Iterator[Path]:
        """A directory to mount on, where only the worker sees it."""
        place = self.data.tmp / f"look-{ids.new_id()[:16]}"
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            place.rmdir()

    # ── looking ───────────────────────────────────────────────────────────────────────────────────

    def digest(
        self, source: Source, selection: ops.Selection, ignore: tuple[str, ...], *, listed: bool
    ) -> dict[str, Any]:
        """The digest of what a selection would copy."""
        job: dict[str, Any] = {"copy": _copy(selection, ignore), "listed": listed}
        if isinstance(source, Path):
            root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with Worker("digest", root, **job) as worker:
                    return worker.result()
            finally:
                os.close(root)
        with (
            self.upper(source) as key,
            Worker(
                "digest",
                -1,
                mounts=(self.mount(key),),
                place=str(self.data.container(key).root),
                **job,
            ) as worker,
        ):
            return worker.result()

    def gather(self, directory: Path, archive: Iterable[bytes]) -> None:
        """Unpack a context's archive into an empty directory; it belongs to root, whatever the archive says."""
        with self._filled(directory, PIPE, Limits()) as worker:
            worker.feed(archive)
            worker.result()

    def unpack(self, directory: Path, archive: int, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        """The same for an archive that a descriptor holds, from its beginning."""
        os.lseek(archive, 0, os.SEEK_SET)
        with self._filled(directory, archive, limits) as worker:
            worker.result()

    @contextmanager
    def _filled(self, directory: Path, archive: int, limits: Limits) -> Iterator[Worker]:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            job: dict[str, Any] = {"path": "/", "owner": "0:0", "keep_kinds": False, "limits": asdict(limits)}
            with Worker("put", root, stdin=archive, **job) as worker:
                yield worker
        finally:
            os.close(root)


Source = Path | str
"""A tree on disk that Cove made, or the chain id of layers."""


class Opened:
    """A source as a worker takes it: a descriptor, or the directories of the layers."""

    def __init__(self, workshop: Workshop, source: Source | None) -> None:
        self.job: dict[str, Any] = {}
        self._fd = -1
        if isinstance(source, Path):
            self._fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.job["source"] = self._fd
        elif source is not None:
            layers = [str(path) for path in workshop.store.layers.stack(source)] if source else []
            self.job["below"] = layers or [str(_empty(workshop.data))]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _empty(data: DataRoot) -> Path:
    directory = data.tmp / "scratch"
    directory.mkdir(mode=0o755, exist_ok=True)
    return directory


def _copy(selection: ops.Selection, ignore: tuple[str, ...]) -> dict[str, Any]:
    fields = {name: getattr(selection, name) for name in selection.__struct_fields__}
    return fields | {"ignore": list(ignore)}
