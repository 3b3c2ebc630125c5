"""`load`: the images of one tar archive, which Cove, Docker or any OCI tool made.

What is read may be an OCI layout, Docker's archive, or both, compressed or not, and comes from a stranger: no
path in it is ever made on disk. Blobs, and whatever looks like a layer, go straight through their digest into the
content store and are unpacked as they pass (`cove.image.travel.ahead`); everything else goes into numbered files in a
spool directory; links are looked up among the archive's own names only; layers are verified against the
configuration before they are an image's; an image is named last.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import msgspec

from cove.errors import Internal, InvalidArgument, NotFound, describe
from cove.image.distribution.progress import Progress, Sink
from cove.image.distribution.seams import Ahead, Content, Images, StoredImage, Unpacker
from cove.image.stack import Step, steps, unpackable
from cove.image.travel.saving import CONTAINERD_NAME, blob_path
from cove.image.variants import Variants, kind_of
from cove.image.worker.tarstream import Entry, entries
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Manifest
from cove.oci.platform import Platform
from cove.oci.reference import Reference

_CHUNK = 1 << 20
_MAX_LINKS = 40
_MAX_NESTING = 3
_PARALLEL = 4
_MAX_SPOOLED = 100_000
_HEAD = 512
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def load(
    content: Content,
    images: Images,
    unpacker: Unpacker,
    stream: Iterable[bytes],
    spool: Path,
    progress: Sink,
    *,
    quiet: bool = False,
    platforms: Sequence[Platform] = (),
) -> list[StoredImage]:
    """Store, unpack and name every image in the archive; `spool` is a directory for what passes through.

    With one of `platforms`, a name stands for that variant alone; with several, for the index with those variants
    of what the archive brings. Raises NotFound when an image has none for one of them.
    """
    try:
        with (
            tempfile.TemporaryDirectory(prefix="load-", dir=spool) as directory,
            unpacker.ahead() as ahead,
            Contents(content, Path(directory), ahead) as contents,
        ):
            contents.take_all(stream)
            return _Load(contents, content, images, unpacker, ahead, progress, quiet, platforms).run()
    except OSError as error:
        raise Internal(f"the archive could not be loaded: {describe(error)}") from error


class Contents:
    """What an archive holds, by its own names. Left by an exception, the store has no more blobs than before."""

    def __init__(self, content: Content, directory: Path, ahead: Ahead | None = None) -> None:
        """`ahead` unpacks what looks like a layer as it passes."""
        self._content = content
        self._directory = directory
        self._ahead = ahead
        self._blobs: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        self._links: dict[str, str] = {}
        self.brought: dict[str, float] = {}
        """The blobs that were not there before, as they were marked then."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._content.abandon(self.brought)

    def keep_only(self, needed: Collection[str]) -> None:
        """Of the blobs that were not there before, the store keeps these."""
        self._content.abandon({digest: mark for digest, mark in self.brought.items() if digest not in needed})

    def take_all(self, stream: Iterable[bytes]) -> None:
        """Keep every member of an archive."""
        for entry in entries(stream):
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Keep one member; the last of a name counts."""
        name = _normal(entry.name)
        for known in (self._blobs, self._files, self._links):
            known.pop(name, None)
        if entry.kind == "file":
            digest = _digest_in(name)
            if digest and self._content.has(digest):
                self._blobs[name] = digest
                return
            head = b""
            while len(head) < _HEAD and (piece := next(entry.content, None)) is not None:
                head += piece
            layer, content = _is_layer(head), _chained(head, entry.content)
            if layer and self._ahead is not None:
                content = self._ahead.watch(content)
            if digest or layer:
                self._blobs[name] = self._ingested(content, digest, entry.size)
                self.brought[self._blobs[name]] = self._content.mark(self._blobs[name])
            else:
                self._files[name] = self._spooled(content)
        elif entry.kind == "symlink":
            self._links[name] = _normal(posixpath.join(posixpath.dirname(name), entry.link))
        elif entry.kind == "hardlink":
            self._links[name] = _normal(entry.link)

    def has(self, name: str) -> bool:
        found = self._resolved(name)
        return found in self._blobs or found in self._files

    def read(self, name: str, limit: int) -> bytes:
        """A small member whole."""
        found = self._resolved(name)
        if found in self._blobs:
            _check_size(name, self._content.size(self._blobs[found]), limit)
            return self._content.read(self._blobs[found])
        if found in self._files:
            _check_size(name, self._files[found].stat().st_size, limit)
            return self._files[found].read_bytes()
        raise InvalidArgument(f"the archive is incomplete: {name[:200]!r} is missing")

    def stored(self, name: str) -> str:
        """A member in the content store, whatever its name; its digest."""
        found = self._resolved(name)
        if found in self._blobs:
            return self._blobs[found]
        if found not in self._files:
            raise InvalidArgument(f"the archive is incomplete: the layer {name[:200]!r} is missing")
        with open(self._files[found], "rb") as file:
            digest = self._content.ingest(iter(lambda: file.read(_CHUNK), b""), expected=None, size=None)
        self.brought[digest] = self._content.mark(digest)
        return digest

    def _ingested(self, content: Iterator[bytes], digest: str, size: int) -> str:
        try:
            return self._content.ingest(content, expected=digest or None, size=size)
        except InvalidArgument as error:
            if not digest:
                raise
            raise InvalidArgument(f"the archive is damaged: {digest} is something else, or cut off") from error

    def _spooled(self, content: Iterator[bytes]) -> Path:
        if len(self._files) >= _MAX_SPOOLED:
            raise InvalidArgument("the archive has too many files for an image archive")
        path = self._directory / str(len(os.listdir(self._directory)))
        with open(path, "xb") as file:
            for piece in content:
                file.write(piece)
        return path

    def _resolved(self, name: str) -> str:
        """Follow links inside the archive; a circle ends nowhere."""
        name = _normal(name)
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                return name
            name = self._links[name]
        return ""


class _Load:
    """The images of one archive, from its listings to their names."""

    def __init__(
        self,
        contents: Contents,
        content: Content,
        images: Images,
        unpacker: Unpacker,
        ahead: Ahead,
        sink: Sink,
        quiet: bool,
        platforms: Sequence[Platform],
    ) -> None:
        self._contents = contents
        self._content = content
        self._images = images
        self._unpacker = unpacker
        self._ahead = ahead
        self._sink = sink
        self._platforms = platforms
        self._progress = Progress((lambda _: None) if quiet else sink)

    def run(self) -> list[StoredImage]:
        found: dict[str, list[Reference]] = {}
        if self._contents.has("index.json"):
            self._from_layout(found)
        if self._contents.has("manifest.json"):
            self._from_listing(found)
        if not found:
            raise InvalidArgument(
                "the archive holds no image: neither a manifest.json nor an index.json names one; "
                "use import for the archive of a root file system"
            )
        if self._platforms:
            found = {self._narrowed(digest, names): names for digest, names in found.items()}
        self._ahead.finish()
        for digest in found:
            self._unpack(digest)
        return [self._name(digest, names) for digest, names in found.items()]

    def _narrowed(self, digest: str, names: list[Reference]) -> str:
        """The manifest of the one variant that was asked for, or the index without those that were not."""
        target = Variants(self._content).target(digest)
        chosen: set[str] = set()
        for platform in self._platforms:
            variant = target.on(platform)
            if variant is None:
                called = names[0].familiar if names else digests.short(digest)
                there = ", ".join(sorted({str(each.platform) for each in target.variants})) or "none"
                raise NotFound(f"the archive's image {called} has no variant for {platform}; it has {there}")
            chosen.add(variant.manifest.digest)
        if len(chosen) == 1:
            return chosen.pop()
        for variant in target.variants:
            if variant.manifest.digest in self._contents.brought.keys() - chosen:
                self._content.delete(variant.manifest.digest)
        return digest

    def _from_layout(self, found: dict[str, list[Reference]]) -> None:
        """The images of an OCI layout, with the names in its annotations."""
        index = image.decode_index(self._contents.read("index.json", image.MAX_MANIFEST))
        for entry in index.manifests:
            if entry.media_type not in image.MANIFESTS | image.INDEXES:
                continue
            if not self._contents.has(blob_path(entry.digest)):
                raise InvalidArgument(f"the archive is incomplete: {blob_path(entry.digest)} is missing")
            if self._is_image(entry):
                found.setdefault(entry.digest, []).extend(_annotated(entry))

    def _is_image(self, entry: Descriptor, depth: int = 0) -> bool:
        """Whether an entry is an image, or an index that offers one which is in the archive."""
        path = blob_path(entry.digest)
        if depth and not self._contents.has(path):
            return False
        decoded = image.decode_manifest(self._contents.read(path, image.MAX_MANIFEST), entry.media_type)
        if isinstance(decoded, Manifest):
            return decoded.config.media_type in image.CONFIGS
        if depth >= _MAX_NESTING:
            raise InvalidArgument("the archive is damaged: its index is nested too deeply")
        return any(
            self._is_image(offered, depth + 1)
            for offered in decoded.manifests
            if offered.media_type in image.INDEXES or kind_of(offered) == "image"
        )

    def _from_listing(self, found: dict[str, list[Reference]]) -> None:
        """The images of Docker's manifest.json; those that the layout named already just get its names."""
        raw = self._contents.read("manifest.json", image.MAX_MANIFEST)
        try:
            listing = msgspec.json.decode(raw, type=list[_Listed])
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the archive is damaged: manifest.json is not in order: {error}") from error
        by_config = {
            variant.id: digest for digest in found for variant in Variants(self._content).target(digest).variants
        }
        for item in listing:
            config = self._contents.read(item.Config, image.MAX_CONFIG)
            digest = by_config.get(digests.of(config)) or self._composed(config, item.Layers or ())
            names = [Reference.parse(name) for name in item.RepoTags or ()]
            if any(name.digest for name in names):
                raise InvalidArgument("the archive is damaged: manifest.json names an image by digest")
            found.setdefault(digest, []).extend(names)

    def _composed(self, config: bytes, layers: Iterable[str]) -> str:
        """A manifest for what came without one."""
        image.decode_config(config)
        manifest = Manifest(
            media_type=image.OCI_MANIFEST,
            config=Descriptor(media_type=image.OCI_CONFIG, digest=self._content.put(config), size=len(config)),
            layers=tuple(self._layer(self._contents.stored(name)) for name in layers),
        )
        return self._content.put(image.encode(manifest))

    def _layer(self, digest: str) -> Descriptor:
        with self._content.open(digest) as file:
            magic = file.read(4)
        kind = image.OCI_LAYER
        if magic.startswith(_GZIP):
            kind = image.OCI_LAYER_GZIP
        elif magic == _ZSTD:
            kind = image.OCI_LAYER_ZSTD
        return Descriptor(media_type=kind, digest=digest, size=self._content.size(digest))

    def _unpack(self, digest: str) -> None:
        """Check that all is there, and make directories of the layers of the variant that runs here best."""
        try:
            variant = Variants(self._content).target(digest).default()
        except NotFound as error:
            raise InvalidArgument(f"the archive is incomplete: {error.message}") from error
        for blob in variant.layers:
            if not self._content.has(blob.digest):
                raise InvalidArgument(f"the archive is incomplete: {blob_path(blob.digest)} is missing")
        if not unpackable(variant.config):
            return
        manifest = image.decode_manifest(self._content.read(variant.manifest.digest))
        assert isinstance(manifest, Manifest)
        with ThreadPoolExecutor(_PARALLEL, "load") as pool:
            for _ in pool.map(self._unpack_step, steps(manifest, variant.config, digests.short(variant.id))):
                pass

    def _unpack_step(self, step: Step) -> None:
        if not self._unpacker.is_unpacked(step.chain_id):
            self._progress.count(step.label, "Loading layer", step.blob.size, step.blob.size)
            if not self._ahead.adopt(step.diff_id, step.chain_id, step.parent):
                self._unpacker.unpack(step.blob, step.diff_id, step.chain_id, step.parent)

    def _name(self, digest: str, names: list[Reference]) -> StoredImage:
        names = list(dict.fromkeys(names))
        for name in names:
            self._tell_of_renaming(name, digest)
        stored = self._images.register(digest, [name.full for name in names])
        for name in names:
            self._say(f"Loaded image: {name.familiar}")
        if not names:
            self._say(f"Loaded image ID: {stored.id}")
        return stored

    def _tell_of_renaming(self, name: Reference, digest: str) -> None:
        try:
            old = self._images.get(name.familiar)
        except NotFound:
            return
        if old.target.digest != digest:
            self._say(
                f"The image {name.familiar} already exists, renaming the old one with ID {old.id} to empty string"
            )

    def _say(self, line: str) -> None:
        self._sink({"stream": f"{line}\n"})


class _Listed(msgspec.Struct, frozen=True):
    """One image in Docker's manifest.json."""

    Config: str
    RepoTags: tuple[str, ...] | None = None
    Layers: tuple[str, ...] | None = None


def _is_layer(head: bytes) -> bool:
    """Whether a member begins as a layer does: compressed, or as a tar archive."""
    return head.startswith((_GZIP, _ZSTD)) or head[257:262] == b"ustar"


def _chained(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise InvalidArgument(f"the archive is damaged: {name[:200]!r} has {size} bytes, {limit} are allowed")


def _annotated(entry: Descriptor) -> list[Reference]:
    """The name in an entry's annotations; a lone tag names nothing."""
    full = entry.annotations.get(CONTAINERD_NAME, "")
    short = entry.annotations.get(image.REF_NAME, "")
    name = full or (short if ":" in short or "/" in short else "")
    if not name:
        return []
    reference = Reference.parse(name)
    return [reference] if reference.tag else []


def _normal(name: str) -> str:
    """The one spelling of a member's name; what would climb out of the archive stays at its top."""
    return posixpath.normpath("/" + name).lstrip("/")


def _digest_in(name: str) -> str:
    """The digest that a layout's blob path names, or ""."""
    parts = name.split("/")
    digest = ":".join(parts[1:])
    return digest if len(parts) == 3 and parts[0] == "blobs" and digests.is_digest(digest) else ""
