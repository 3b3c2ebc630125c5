"""Layers made by steps: an empty upper directory, work done in it by a confined worker or a container, a layer.

    prepare ─▶ work ─▶ seal (digest, length) ─▶ renamed among the layers
       └───────── any failure: removed ─────────┘

Everything here blocks and belongs in an executor.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from cove import ids
from cove.build import ops
from cove.errors import Conflict, Internal, NotFound, describe
from cove.image.reaping import Reaper, set_aside
from cove.image.store import ImageStore
from cove.image.worker import hands
from cove.image.worker.index import Change
from cove.image.worker.members import Limits
from cove.image.worker.sandbox import PIPE, Worker
from cove.image.worker.twin import twin
from cove.kernel import mounts
from cove.oci.spec import Mount
from cove.paths import DataRoot

_LIMITS = asdict(Limits())


class Workshop:
    """Makes layers and looks at trees, through confined workers."""

    def __init__(self, data: DataRoot, store: ImageStore) -> None:
        self.data = data
        self.store = store
        self._reaper = Reaper(patience=1.0)

    # ── a layer on its way ────────────────────────────────────────────────────────────────────────

    def prepare(self, chain: str) -> str:
        """The key of a new upper directory on top of `chain`."""
        key = ids.new_id()
        self.store.snapshots.prepare(key, chain or None)
        return key

    def discard(self, key: str) -> None:
        """Forget it and all that is in it; what there is goes in the background, or at the next start."""
        gone = set_aside(self.data.container(key).root, self.data.tmp)
        if gone is not None:
            self._reaper.take(gone)

    @contextmanager
    def upper(self, chain: str) -> Iterator[str]:
        """A new upper directory for the time of a `with`."""
        key = self.prepare(chain)
        try:
            yield key
        finally:
            self.discard(key)

    def finish(self, key: str, chain: str, *, epoch: int | None, stubs: tuple[str, ...]) -> tuple[str, int]:
        """`seal`, after which nothing is left but the layer; on failure nothing at all."""
        try:
            return self.seal(key, chain, epoch=epoch, stubs=stubs)
        finally:
            self.discard(key)

    def mount(self, key: str) -> Mount:
        """How its root is mounted. Nothing in it must survive a power failure until it is a layer: volatile."""
        made = self.store.snapshots.mount(key)
        return msgspec.structs.replace(made, options=(*made.options, "volatile"))

    def seal(self, key: str, chain: str, *, epoch: int | None, stubs: tuple[str, ...] = ()) -> tuple[str, int]:
        """Make a layer of it: its chain id, and the bytes of its files."""
        upper = self.data.container(key).upper
        with _tree(upper) as root:
            sealed = hands.work("seal", {"root": root}, layer=True, floor=epoch, stubs=list(stubs))
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
            raise _removed(layer)
        if not chain:
            return layer, facts.size
        with self.upper(chain) as key:
            upper = self.data.container(key).upper
            self._share(layer, upper)
            try:
                named = self.store.layers.adopt_tree(
                    upper, chain, facts.diff_id, size=facts.size, archive=facts.archive
                )
            except OSError as error:
                raise Internal(f"cannot keep a build step's layer: {describe(error)}") from error
        return named, facts.size

    def _share(self, layer: str, upper: Path) -> None:
        """All that a layer has into an upper directory, its files shared. NotFound if it was removed meanwhile."""
        try:
            twin(self.data.layer(layer), upper)
        except FileNotFoundError as error:
            raise _removed(layer) from error
        if self.store.layers.facts(layer) is None:  # it is forgotten before anything of it goes
            raise _removed(layer)

    # ── work in it ────────────────────────────────────────────────────────────────────────────────

    def copy(self, key: str, source: Source, selection: ops.Selection, ignore: tuple[str, ...]) -> None:
        """Copy from a tree into the upper directory."""
        job = {"copy": _copy(selection, ignore), "limits": _LIMITS}
        self._at(key, "copy", source, job)

    def amend(
        self, key: str, layer: str, source: Path, selection: ops.Selection, ignore: tuple[str, ...], change: Change
    ) -> bool:
        """Copy from a tree of which `layer` is the copy of before; whether that can be.

        Its files are shared; what changed since is copied. Otherwise the upper directory is of no use any more.
        """
        container = self.data.container(key)
        try:
            self._share(layer, container.upper)
            with ExitStack() as stack:
                trees = self._trees(stack, self.mount(key), source)
                if not trees:
                    return False
                trees["upper"] = stack.enter_context(_tree(container.upper))
                hands.work("amend", trees, copy=_copy(selection, ignore), limits=_LIMITS, change=asdict(change))
        except (OSError, NotFound, Conflict):  # too many names of a file; it is gone, or not what it was
            return False
        return True

    def make_directory(self, key: str, path: str, owner: str) -> bool:
        """Make a directory; whether it was not there."""
        return bool(self._at(key, "make", None, {"path": path, "owner": owner})["made"])

    def _at(self, key: str, verb: str, source: Source | None, job: dict[str, Any]) -> dict[str, Any]:
        container = self.data.container(key)
        if os.listdir(container.work):  # a volatile mount leaves a mark there and is never mounted with it again
            shutil.rmtree(container.work, ignore_errors=True)
            container.work.mkdir(mode=0o755)
        mount = self.mount(key)
        with ExitStack() as stack:
            if not job.get("copy", {}).get("unpack") and (trees := self._trees(stack, mount, source)):
                if verb == "copy":
                    trees["upper"] = stack.enter_context(_tree(container.upper))
                return hands.work(verb, trees, **job)
        with (
            Opened(self, source) as opened,
            Worker(verb, -1, mounts=(mount,), place=str(container.root), **opened.job, **job) as worker,
        ):
            return worker.result()

    def _trees(self, stack: ExitStack, mount: Mount, source: Source | None) -> dict[str, int]:
        """The trees of a job for a worker that stays, while `stack` is open; none if the kernel cannot show them."""
        try:
            trees = {"root": stack.enter_context(_overlay(mount))}
            if source is not None:
                trees["source"] = stack.enter_context(self._shown(source))
        except OSError:
            return {}
        return trees

    def _shown(self, source: Source) -> AbstractContextManager[int]:
        """What a source has, as a mount that lies nowhere. OSError where the kernel cannot show layers so."""
        if isinstance(source, Path):
            return _tree(source)
        shown = self.store.snapshots.image(source, "/")
        return _tree(Path(shown.source)) if shown.type == "bind" else _overlay(shown)

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
        self,
        source: Source,
        selection: ops.Selection,
        ignore: tuple[str, ...],
        *,
        listed: bool,
        index: tuple[int, int] | None = None,
    ) -> dict[str, Any]:
        """The digest of what a selection would copy. `index`: files of what is known before and afterwards."""
        job: dict[str, Any] = {"copy": _copy(selection, ignore), "listed": listed}
        with ExitStack() as stack:
            try:
                root = stack.enter_context(self._shown(source))
            except OSError:
                if isinstance(source, Path):
                    raise
            else:
                trees = {"root": root}
                if index is not None:
                    trees["before"], trees["after"] = index
                return hands.work("digest", trees, **job)
        with (
            self.upper(source) as key,
            Worker(
                "digest", -1, mounts=(self.mount(key),), place=str(self.data.container(key).root), **job
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


def _removed(layer: str) -> NotFound:
    return NotFound(f"the layer {layer} was removed while the build used it; build again")


@contextmanager
def _tree(directory: Path) -> Iterator[int]:
    """A directory of ours as a mount that lies nowhere: who has it cannot leave it."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = mounts.clone(fd, "")
    finally:
        os.close(fd)
    with _held(made):
        yield made


@contextmanager
def _overlay(mount: Mount) -> Iterator[int]:
    """An overlay as a mount that lies nowhere. OSError before kernel 6.7."""
    made = mounts.detached_overlay(*mounts.overlay_parts(mounts.parse_options(mount.options).data))
    with _held(made):
        yield made


@contextmanager
def _held(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


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
