"""The unpacked layers: one directory each, complete whenever it has its name.

    layers/<chain id>.json       facts: parent, diff id, size, and the boot in which it was unpacked
    layers/<chain id>/           the layer's files, as overlayfs wants them
    layers/.<random>             a layer that is being unpacked, or deleted; removed at start

    unpack in the confined worker (`cove.image.extraction`) ─▶ diff id verified ─▶ opaque marks
    ─▶ facts (with this boot's id) ─▶ rename ─▶ in the background: flush the file system
    ─▶ facts (without boot id)

A power failure can only hurt layers whose facts still name an earlier boot: those are thrown away at start
and unpacked again from their blobs. So an unpacked layer is never waited for on its way to the disk, and
never half there.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cove.errors import Internal, NotFound, describe
from cove.image.content import ContentStore
from cove.image.extraction import Extraction, Unpacked
from cove.image.flushing import Flusher, flush
from cove.image.images import Image
from cove.image.reaping import Reaper, discard, set_aside
from cove.image.travel.ahead import Ahead
from cove.image.worker.members import Limits
from cove.kernel import inodes
from cove.oci import digest as digests
from cove.oci.chain import chained
from cove.oci.image import Descriptor
from cove.paths import DataRoot
from cove.store.files import write_atomic

_GRACE = 3600.0
_SCARCE = 2 << 30
"""Bytes of free disk below which an unpacking waits until the room of removed layers is free."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EMPTY = "empty"
"""The directory under images without layers."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an unpacked layer; `boot` is "" once it is safely on disk.

    `archive`: the length of its archive, when that is nowhere stored but can be made again of the directory.
    """

    parent: str
    diff_id: str
    size: int
    boot: str
    archive: int = 0


class Arriving(Protocol):
    """A layer whose archive comes piece by piece."""

    def feed(self, piece: bytes) -> None: ...
    def finish(self) -> None: ...


class Layers:
    """Unpacks layers and says where they are; safe to use from several threads."""

    def __init__(self, data: DataRoot, content: ContentStore, limits: Limits = Limits()) -> None:  # noqa: B008
        self._data = data
        self._content = content
        self._limits = limits
        self._boot = _BOOT_ID.read_text().strip()
        self._lock = threading.Lock()
        self._facts: dict[str, Facts] = {}
        self._wanted: dict[str, float] = {}
        self.stable = content.stable
        self._underway: set[str] = set()
        self._free = threading.Condition()
        self._flusher = Flusher(data.layers, self._settle)
        self._reaper = Reaper()
        data.layers.mkdir(mode=0o700, parents=True, exist_ok=True)
        inodes.spread(data.layers)
        self._recover()

    # Asking

    def is_unpacked(self, chain_id: str) -> bool:
        """Whether the layer is there; if so it stays for a while, because somebody counts on it."""
        return self._want(chain_id)

    def wanted(self) -> set[str]:
        """Layers that were unpacked or asked for lately, for an image that has no name yet."""
        oldest = time.monotonic() - _GRACE
        return {chain_id for chain_id, since in list(self._wanted.items()) if since > oldest}

    def settled(self, chain_ids: Iterable[str]) -> None:
        """These layers belong to a named image now."""
        for chain_id in chain_ids:
            self._wanted.pop(chain_id, None)

    def size(self, chain_id: str) -> int:
        """The bytes of the layer's files; 0 while it is not unpacked."""
        facts = self._facts.get(chain_id)
        return facts.size if facts else 0

    def stack(self, chain_id: str) -> list[Path]:
        """The directories from the top to the bottom, or NotFound when one is missing."""
        found = []
        while chain_id:
            facts = self._facts.get(chain_id)
            if facts is None:
                raise NotFound(
                    f"the image layer {digests.short(chain_id)} is not unpacked; pull or load its image again"
                )
            found.append(self._data.layer(chain_id))
            chain_id = facts.parent
        return found

    def directory(self, chain_id: str) -> Path:
        """Where an unpacked layer lies."""
        return self._data.layer(chain_id)

    def chain_ids(self) -> set[str]:
        return set(self._facts)

    def lineage(self, chain_id: str) -> list[str]:
        """The chain ids from `chain_id` down, as far as they are known."""
        found = []
        while chain_id and (facts := self._facts.get(chain_id)):
            found.append(chain_id)
            chain_id = facts.parent
        return found

    # Acting

    def ensure_unpacked(self, image: Image) -> None:
        """Unpack whatever of the image is not, from its blobs."""
        parent = ""
        for blob, diff_id, chain_id in zip(image.layers, image.config.rootfs.diff_ids, image.chain_ids, strict=True):
            self.unpack(blob, diff_id, chain_id, parent)
            parent = chain_id

    def unpack(self, blob: Descriptor, diff_id: str, chain_id: str, parent: str) -> None:
        """Unpack a stored layer; returns when it is there. Two callers of one layer share the work.

        InvalidArgument when it is no sound archive or not `diff_id`: then nothing is left.
        """
        if self._want(chain_id):
            return
        with self._content.open(blob.digest) as file, self._arriving(diff_id, chain_id, parent) as arriving:
            if arriving is not None:
                arriving.extraction.read_from(file.fileno())
                arriving.finish()

    @contextmanager
    def arriving(self, diff_id: str, chain_id: str, parent: str) -> Iterator[Arriving]:
        """Unpack a layer while it is downloaded: feed its blob, and finish once the blob is verified.

        Left without `finish`, nothing stays. If somebody else unpacked the layer meanwhile, nothing happens.
        """
        self._want(chain_id)
        with self._arriving(diff_id, chain_id, parent) as arriving:
            yield arriving or _There()

    @contextmanager
    def _arriving(self, diff_id: str, chain_id: str, parent: str) -> Iterator[_Arriving | None]:
        """None when the layer is there."""
        with self._alone(chain_id):
            if chain_id in self._facts:
                yield None
                return
            with self._unpacking(diff_id) as (directory, extraction):

                def name(seen: Unpacked) -> None:
                    self._name(directory, chain_id, Facts(parent, diff_id, seen.size, self._boot))

                yield _Arriving(extraction, name)

    @contextmanager
    def adopting(self, parent: str = "") -> Iterator[Adopting]:
        """Unpack an archive of unknown digest while it comes; left without `finish`, nothing stays."""
        with self._unpacking("") as (directory, extraction):

            def name(seen: Unpacked) -> str:
                chain_id = chained(parent, seen.diff_id)
                self._want(chain_id)
                with self._alone(chain_id):
                    if chain_id not in self._facts:
                        self._name(directory, chain_id, Facts(parent, seen.diff_id, seen.size, self._boot))
                return chain_id

            yield Adopting(extraction, name)

    def ahead(self) -> Ahead:
        """Layers that are unpacked before it is known whose they are."""

        def name(directory: Path, seen: Unpacked, chain_id: str, parent: str) -> None:
            self._want(chain_id)
            with self._alone(chain_id):
                if chain_id not in self._facts:
                    self._name(directory, chain_id, Facts(parent, seen.diff_id, seen.size, self._boot))

        return Ahead(lambda: self._unpacking(""), name, lambda: not self._scarce())

    def adopt_tree(self, directory: Path, parent: str, diff_id: str, *, size: int, archive: int) -> str:
        """Give a finished directory, which is an overlay's upper one, its name as a layer; its chain id.

        `archive` is the length of the archive that `cove.image.derived` makes of it, with the digest `diff_id`.
        The caller flushes with `flush` when all layers of its work are there.
        """
        chain_id = chained(parent, diff_id)
        self._want(chain_id)
        with self._alone(chain_id):
            known = self._facts.get(chain_id)
            if known is None:
                self._name(directory, chain_id, Facts(parent, diff_id, size, self._boot, archive), flush=False)
                return chain_id
            discard(directory, self._data.layers)
            if not known.archive:  # it came from elsewhere, with a blob of its own that may go
                self._note_archive(chain_id, known, archive)
        return chain_id

    def note_archive(self, chain_id: str, archive: int) -> None:
        """The layer's archive, of this length, can be made again of its directory, as the caller has verified."""
        with self._alone(chain_id):
            if facts := self._facts.get(chain_id):
                self._note_archive(chain_id, facts, archive)

    def _note_archive(self, chain_id: str, facts: Facts, archive: int) -> None:
        with self._lock:
            self._facts[chain_id] = replace(facts, archive=archive)
            self._write_facts(chain_id, self._facts[chain_id])

    def flush(self) -> None:
        """Bring layers that `adopt_tree` named onto the disk, in the background."""
        for chain_id, facts in list(self._facts.items()):
            if facts.boot and facts.archive:
                self._flusher.ask(chain_id)

    def derived(self, diff_id: str) -> tuple[Path, int] | None:
        """The directory that the archive `diff_id` can be made of, and the archive's length, or None."""
        for chain_id, facts in list(self._facts.items()):
            if facts.archive and facts.diff_id == diff_id:
                return self._data.layer(chain_id), facts.archive
        return None

    def facts(self, chain_id: str) -> Facts | None:
        """What is known of a layer, None when it is not here."""
        return self._facts.get(chain_id)

    def remove(self, chain_id: str) -> None:
        """Delete an unpacked layer, which nothing may stand on any more; its files go in the background."""
        with self._alone(chain_id):
            with self._lock:
                self._facts.pop(chain_id, None)
            self._facts_path(chain_id).unlink(missing_ok=True)
            self._reap(self._data.layer(chain_id))

    def finish_removals(self) -> None:
        """Wait until the room of removed layers is free."""
        self._reaper.finish()

    # Inside

    def _reap(self, directory: Path) -> None:
        gone = set_aside(directory, self._data.layers)
        if gone is not None:
            self._reaper.take(gone)

    def _want(self, chain_id: str) -> bool:
        """Keep the layer for a while if it is there; whether it is."""
        with self.stable:
            self._wanted[chain_id] = time.monotonic()
            return chain_id in self._facts

    @contextmanager
    def _unpacking(self, diff_id: str) -> Iterator[tuple[Path, Extraction]]:
        """A new directory and the way into it; it is removed unless it gets a name within."""
        directory = self._data.layers / f".{secrets.token_hex(8)}"
        if self._scarce():
            self._reaper.finish()
        try:
            directory.mkdir(mode=0o755)
            directory.chmod(0o755)
            root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with Extraction(root, diff_id, self._limits) as extraction:
                    yield directory, extraction
            finally:
                os.close(root)
        except OSError as error:
            raise Internal(f"cannot unpack a layer: {describe(error)}") from error
        finally:
            if directory.exists():
                discard(directory, self._data.layers)

    def _scarce(self) -> bool:
        found = os.statvfs(self._data.layers)
        return found.f_bavail * found.f_frsize < _SCARCE

    def _name(self, directory: Path, chain_id: str, facts: Facts, *, flush: bool = True) -> None:
        self._write_facts(chain_id, facts)
        directory.rename(self._data.layer(chain_id))
        with self._lock:
            self._facts[chain_id] = facts
        if flush:
            self._flusher.ask(chain_id)

    def _settle(self, chain_ids: set[str]) -> None:
        """These layers are on disk now. Say so: then no power failure can hurt them.

        One that is not said to be safe is unpacked again, or built again, no more: so none waits for the disk alone.
        """
        built = False
        for chain_id in chain_ids:
            with self._lock, suppress(OSError):
                if facts := self._facts.get(chain_id):
                    settled = replace(facts, boot="")
                    self._write_facts(chain_id, settled, durable=False)
                    self._facts[chain_id] = settled
                    built = built or bool(facts.archive)
        if built:
            flush(self._data.layers)

    def _recover(self) -> None:
        """Read the facts; throw away what was interrupted, by a kill or by a power failure."""
        for path in self._data.layers.iterdir():
            if path.name.startswith("."):
                self._reaper.take(path)
            elif path.suffix == ".json":
                chain_id = f"sha256:{path.stem}"
                facts = _read_facts(path)
                if facts is None or facts.boot not in ("", self._boot) or not self._data.layer(chain_id).is_dir():
                    path.unlink(missing_ok=True)
                else:
                    self._facts[chain_id] = facts
        for path in self._data.layers.iterdir():
            if (
                path.name[0] != "."
                and path.is_dir()
                and path.name != EMPTY
                and f"sha256:{path.name}" not in self._facts
            ):
                self._reap(path)

    @contextmanager
    def _alone(self, chain_id: str) -> Iterator[None]:
        """Within, no other thread works on this layer."""
        with self._free:
            while chain_id in self._underway:
                self._free.wait()
            self._underway.add(chain_id)
        try:
            yield
        finally:
            with self._free:
                self._underway.remove(chain_id)
                self._free.notify_all()

    def _facts_path(self, chain_id: str) -> Path:
        directory = self._data.layer(chain_id)
        return directory.with_name(f"{directory.name}.json")

    def _write_facts(self, chain_id: str, facts: Facts, *, durable: bool | None = None) -> None:
        # Facts that a power failure took or spoilt mean a layer that is unpacked again; a built one has no archive.
        lasting = bool(facts.archive) and not facts.boot if durable is None else durable
        write_atomic(self._facts_path(chain_id), json.dumps(asdict(facts)).encode(), durable=lasting)


class _Arriving:
    """A layer on its way into its directory."""

    def __init__(self, extraction: Extraction, name: Callable[[Unpacked], None]) -> None:
        self.extraction = extraction
        self._name = name

    def feed(self, piece: bytes) -> None:
        self.extraction.feed(piece)

    def finish(self) -> None:
        self._name(self.extraction.finish())


class Adopting:
    """A layer that has no name before it is there."""

    def __init__(self, extraction: Extraction, name: Callable[[Unpacked], str]) -> None:
        self._extraction = extraction
        self._name = name

    def feed(self, piece: bytes) -> None:
        self._extraction.feed(piece)

    def finish(self) -> tuple[str, Unpacked]:
        """Its chain id, and what the archive was. InvalidArgument when it is unsound."""
        seen = self._extraction.finish()
        return self._name(seen), seen


class _There:
    """A layer that needs nothing any more."""

    def feed(self, piece: bytes) -> None:
        """It is there already."""

    def finish(self) -> None:
        """It is there already."""


def _read_facts(path: Path) -> Facts | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return Facts(
            found["parent"], found["diff_id"], int(found["size"]), found["boot"], int(found.get("archive", 0))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
