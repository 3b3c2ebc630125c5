"""`save` and `load`: images as one tar archive.

What is written is an OCI layout that is Docker's archive as well, so that every tool finds what it knows:

    oci-layout  index.json  blobs/sha256/…        OCI image layout
    manifest.json  repositories                   Docker's list of images and their names

What is read may be either, or both, compressed or not, and comes from a stranger: no path in it is ever
made on disk. Blobs go straight through their digest into the content store, everything else into
numbered files in a spool directory; links are looked up among the archive's own names only; layers are
verified against the configuration when they are unpacked; an image is named last.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cove.errors import Internal, InvalidArgument, NotFound, describe
from cove.image.distribution.progress import Progress, Sink
from cove.image.distribution.seams import Content, Images, StoredImage, Unpacker
from cove.image.stack import steps
from cove.image.tarstream import Entry, entries
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index, Manifest
from cove.oci.platform import best, host_platform
from cove.oci.reference import Reference

_CONTAINERD_NAME = "io.containerd.image.name"
_CHUNK = 1 << 20
_MAX_LINKS = 40
_MAX_SPOOLED = 100_000
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


# ── save ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Saved:
    image: StoredImage
    names: tuple[Reference, ...]


def save(content: Content, images: Images, names: Iterable[str]) -> Iterator[bytes]:
    """The archive of all images that `names` (references, repositories or ids) stand for, piece by piece.

    NotFound is raised before the first piece.
    """
    chosen = _chosen(images, names)
    return _written(content, chosen)


def _chosen(images: Images, names: Iterable[str]) -> list[_Saved]:
    """Each image once, with those of its names that were asked for."""
    found: dict[str, tuple[StoredImage, dict[Reference, None]]] = {}
    for name in names:
        for stored, reference in _meant(images, name):
            _, references = found.setdefault(stored.manifest.digest, (stored, {}))
            if reference is not None:
                references[reference] = None
    return [_Saved(stored, tuple(references)) for stored, references in found.values()]


def _meant(images: Images, name: str) -> list[tuple[StoredImage, Reference | None]]:
    """What `name` stands for: a bare repository means all its tags, an id no name at all."""
    try:
        bare = Reference.parse(name, default_tag="")
    except InvalidArgument:
        return [(images.get(name), None)]
    if not bare.tag and not bare.digest:
        tagged = [(stored, Reference.parse(known)) for stored in images.list() for known in stored.names]
        matching = [(stored, reference) for stored, reference in tagged if reference.name == bare.name]
        if matching:
            return list(matching)
    stored = images.get(name)
    return [(stored, bare if bare.tag and not bare.digest and bare.familiar in stored.names else None)]


def _written(content: Content, chosen: list[_Saved]) -> Iterator[bytes]:
    blobs: dict[str, int] = {}
    index: list[Descriptor] = []
    listing: list[dict[str, object]] = []
    repositories: dict[str, dict[str, str]] = {}
    for saved in chosen:
        stored = saved.image
        parts = (stored.manifest.digest, stored.id, *(layer.digest for layer in stored.layers))
        blobs.update((digest, content.size(digest)) for digest in parts)
        index += _index_entries(saved)
        listing.append(
            {
                "Config": _path(stored.id),
                "RepoTags": [name.familiar for name in saved.names],
                "Layers": [_path(layer.digest) for layer in stored.layers],
            }
        )
        for name in saved.names if stored.layers else ():
            top = digests.parse(stored.layers[-1].digest)[1]
            repositories.setdefault(name.familiar_name, {})[name.tag] = top
    yield from _directory("blobs/")
    for algorithm in sorted({digests.parse(digest)[0] for digest in blobs}):
        yield from _directory(f"blobs/{algorithm}/")
    for digest in sorted(blobs):
        yield from _blob(content, digest, blobs[digest])
    yield from _file("index.json", image.encode(Index(media_type=image.OCI_INDEX, manifests=tuple(index))))
    yield from _file("manifest.json", json.dumps(listing).encode())
    yield from _file("oci-layout", _LAYOUT)
    if repositories:
        yield from _file("repositories", json.dumps(repositories).encode())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _index_entries(saved: _Saved) -> list[Descriptor]:
    """The image under each of its names, or once without."""
    bare = Descriptor(
        media_type=saved.image.manifest.media_type,
        digest=saved.image.manifest.digest,
        size=saved.image.manifest.size,
        platform=saved.image.config.platform,
    )
    if not saved.names:
        return [bare]
    return [
        msgspec.structs.replace(bare, annotations={_CONTAINERD_NAME: name.full, image.REF_NAME: name.tag})
        for name in saved.names
    ]


def _path(digest: str) -> str:
    return "blobs/" + "/".join(digests.parse(digest))


def _header(name: str, size: int, kind: bytes, mode: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, mode
    return info.tobuf(tarfile.GNU_FORMAT)


def _directory(name: str) -> Iterator[bytes]:
    yield _header(name, 0, tarfile.DIRTYPE, 0o755)


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data), tarfile.REGTYPE, 0o644) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _blob(content: Content, digest: str, size: int) -> Iterator[bytes]:
    yield _header(_path(digest), size, tarfile.REGTYPE, 0o644)
    left = size
    with content.open(digest) as file:
        while left and (data := file.read(min(left, _CHUNK))):
            left -= len(data)
            yield data
    if left:
        raise Internal(f"the stored blob {digest} is shorter than it was; pull its image again")
    yield bytes(-size % tarfile.BLOCKSIZE)


# ── load ──────────────────────────────────────────────────────────────────────────────────────────


def load(
    content: Content,
    images: Images,
    unpacker: Unpacker,
    stream: Iterable[bytes],
    spool: Path,
    progress: Sink,
    *,
    quiet: bool = False,
) -> list[StoredImage]:
    """Store, unpack and name every image in the archive; `spool` is a directory for what passes through."""
    try:
        with tempfile.TemporaryDirectory(prefix="load-", dir=spool) as directory:
            contents = _Contents(content, Path(directory))
            for entry in entries(stream):
                contents.take(entry)
            return _Load(contents, content, images, unpacker, progress, quiet).run()
    except OSError as error:
        raise Internal(f"the archive could not be loaded: {describe(error)}") from error


class _Contents:
    """What an archive holds, by its own names."""

    def __init__(self, content: Content, directory: Path) -> None:
        self._content = content
        self._directory = directory
        self._blobs: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        self._links: dict[str, str] = {}

    def take(self, entry: Entry) -> None:
        """Keep one member; the last of a name counts."""
        name = _normal(entry.name)
        for known in (self._blobs, self._files, self._links):
            known.pop(name, None)
        if entry.kind == "file":
            digest = _digest_in(name)
            if digest:
                self._blobs[name] = self._ingest(entry, digest)
            else:
                self._files[name] = self._spooled(entry)
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
            return self._content.ingest(iter(lambda: file.read(_CHUNK), b""), expected=None, size=None)

    def _ingest(self, entry: Entry, digest: str) -> str:
        try:
            return (
                digest
                if self._content.has(digest)
                else self._content.ingest(entry.content, expected=digest, size=entry.size)
            )
        except InvalidArgument as error:
            raise InvalidArgument(f"the archive is damaged: {digest} is something else, or cut off") from error

    def _spooled(self, entry: Entry) -> Path:
        if len(self._files) >= _MAX_SPOOLED:
            raise InvalidArgument("the archive has too many files for an image archive")
        path = self._directory / str(len(os.listdir(self._directory)))
        with open(path, "xb") as file:
            for piece in entry.content:
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
        self, contents: _Contents, content: Content, images: Images, unpacker: Unpacker, sink: Sink, quiet: bool
    ) -> None:
        self._contents = contents
        self._content = content
        self._images = images
        self._unpacker = unpacker
        self._sink = sink
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
        for digest in found:
            self._unpack(digest)
        return [self._name(digest, names) for digest, names in found.items()]

    def _from_layout(self, found: dict[str, list[Reference]]) -> None:
        """The images of an OCI layout, with the names in its annotations."""
        index = image.decode_index(self._contents.read("index.json", image.MAX_MANIFEST))
        for entry in index.manifests:
            if entry.media_type not in image.MANIFESTS | image.INDEXES:
                continue
            digest = self._manifest(entry)
            if digest is not None:
                found.setdefault(digest, []).extend(_annotated(entry))

    def _manifest(self, entry: Descriptor) -> str | None:
        """The manifest meant by an index's entry; None for one whose content is for another platform."""
        for _ in range(3):
            path = _path(entry.digest)
            if not self._contents.has(path):
                raise InvalidArgument(f"the archive is incomplete: {path} is missing")
            decoded = image.decode_manifest(self._contents.read(path, image.MAX_MANIFEST), entry.media_type)
            if isinstance(decoded, Manifest):
                return entry.digest if decoded.config.media_type in image.CONFIGS else None
            host = host_platform()
            present = [e for e in decoded.manifests if self._contents.has(_path(e.digest))]
            chosen = best(host, [(e.platform or host, e) for e in present])
            if chosen is None:
                return None
            entry = chosen
        raise InvalidArgument("the archive is damaged: its index is nested too deeply")

    def _from_listing(self, found: dict[str, list[Reference]]) -> None:
        """The images of Docker's manifest.json; those that the layout named already just get its names."""
        raw = self._contents.read("manifest.json", image.MAX_MANIFEST)
        try:
            listing = msgspec.json.decode(raw, type=list[_Listed])
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the archive is damaged: manifest.json is not in order: {error}") from error
        by_config = {self._decoded(digest).config.digest: digest for digest in found}
        for item in listing:
            config = self._contents.read(item.Config, image.MAX_CONFIG)
            digest = by_config.get(digests.of(config)) or self._composed(config, item.Layers)
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
        if magic.startswith(b"\x1f\x8b"):
            kind = image.OCI_LAYER_GZIP
        elif magic == b"\x28\xb5\x2f\xfd":
            kind = image.OCI_LAYER_ZSTD
        return Descriptor(media_type=kind, digest=digest, size=self._content.size(digest))

    def _decoded(self, digest: str) -> Manifest:
        decoded = image.decode_manifest(self._content.read(digest))
        assert isinstance(decoded, Manifest)
        return decoded

    def _unpack(self, digest: str) -> None:
        """Every layer of an image, checked and made a directory."""
        manifest = self._decoded(digest)
        for blob in (manifest.config, *manifest.layers):
            if not self._content.has(blob.digest):
                raise InvalidArgument(f"the archive is incomplete: {_path(blob.digest)} is missing")
        config = image.decode_config(self._content.read(manifest.config.digest))
        for step in steps(manifest, config, digests.short(manifest.config.digest)):
            if not self._unpacker.is_unpacked(step.chain_id):
                self._progress.count(step.label, "Loading layer", step.blob.size, step.blob.size)
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
        if old.manifest.digest != digest:
            self._say(
                f"The image {name.familiar} already exists, renaming the old one with ID {old.id} to empty string"
            )

    def _say(self, line: str) -> None:
        self._sink({"stream": f"{line}\n"})


class _Listed(msgspec.Struct, frozen=True):
    """One image in Docker's manifest.json."""

    Config: str
    RepoTags: tuple[str, ...] | None = None
    Layers: tuple[str, ...] = ()


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise InvalidArgument(f"the archive is damaged: {name[:200]!r} has {size} bytes, {limit} are allowed")


def _annotated(entry: Descriptor) -> list[Reference]:
    """The name in an entry's annotations; a lone tag names nothing."""
    full = entry.annotations.get(_CONTAINERD_NAME, "")
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
