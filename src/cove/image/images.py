"""The images: which names point at which manifests, and what users may call them.

Owns `index.json` of the image layout. Each entry is the descriptor of a manifest; its annotation
`org.opencontainers.image.ref.name` holds the full name ("docker.io/library/nginx:latest", or
"…/nginx@sha256:…" for where it was pulled from). An image without any name keeps one bare entry, so
that it is still an image, only a dangling one. The file is replaced atomically under one lock.

An image's id is the digest of its configuration. The bytes of manifest and configuration are read from
the content store and are never written back. This module deletes names; `cove.image.gc` deletes what
they no longer reach.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from cove.errors import Conflict, CoveError, Internal, InvalidArgument, NotFound, describe
from cove.image.content import ContentStore
from cove.oci import digest as digests
from cove.oci import image as oci
from cove.oci.chain import chain_ids
from cove.oci.image import Descriptor, ImageConfig, Index
from cove.oci.reference import Reference
from cove.paths import DataRoot
from cove.store.files import write_atomic

_SHORT_ID = re.compile(r"[0-9a-f]{4,64}")

Deletion = dict[str, str]
"""{"Untagged": name} or {"Deleted": digest}, as the Engine API lists them."""

Deletions = list[Deletion]
Steps = list[dict[str, object]]
_Entries = list[Descriptor]
_Listeners = list[Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Image:
    """One image as stored; `names` and `repo_digests` are in the familiar spelling, sorted."""

    id: str
    manifest: Descriptor
    config: ImageConfig
    raw_config: bytes
    layers: tuple[Descriptor, ...]
    chain_ids: tuple[str, ...]
    names: tuple[str, ...]
    repo_digests: tuple[str, ...]
    created: str
    size: int

    @property
    def top(self) -> str | None:
        """The chain id of the uppermost layer; None for an image without layers."""
        return self.chain_ids[-1] if self.chain_ids else None


@dataclass(frozen=True, slots=True)
class _Document:
    """What a manifest's bytes say; it never changes, so it is read once."""

    id: str
    manifest: Descriptor
    config: ImageConfig
    raw_config: bytes
    layers: tuple[Descriptor, ...]
    chain_ids: tuple[str, ...]


class Images:
    """Names and images over the layout in `data`; safe to use from several threads.

    `layer_size` tells how much disk an unpacked layer takes (0 while it is not unpacked); `layers_settled`
    hears which layers a named image holds now.
    """

    def __init__(
        self,
        data: DataRoot,
        content: ContentStore | None = None,
        layer_size: Callable[[str], int] = lambda _: 0,
        layers_settled: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        self.content = content or ContentStore(data.image)
        self._path = data.image / "index.json"
        self._layer_size = layer_size
        self._layers_settled = layers_settled
        self._listeners: _Listeners = []
        self._lock = threading.RLock()
        self._documents: dict[str, _Document] = {}
        self._entries: tuple[Descriptor, ...] = ()
        if self._path.exists():
            self._entries = oci.decode_index(self._path.read_bytes()).manifests
        else:
            self._save(())

    def on_deletion(self, listener: Callable[[], None]) -> None:
        """Call `listener` after names were taken away, so that it can collect what they reached."""
        self._listeners.append(listener)

    # Finding

    def get(self, name_or_id: str) -> Image:
        """The image of that name, digest, id or unique beginning of an id; NotFound, or Conflict when ambiguous."""
        with self._lock:
            return self._image(self._find(name_or_id)[0])

    def list(self) -> list[Image]:
        """Every image, the newest first; one whose documents are damaged is left out."""
        with self._lock:
            found: dict[str, Image] = {}
            for entry in self._entries:
                try:
                    image = self._image(entry.digest)
                except CoveError:
                    continue
                found.setdefault(image.id, image)
        return sorted(found.values(), key=lambda image: image.created, reverse=True)

    def history(self, image: Image) -> Steps:
        """The steps of its making, the newest first, as the Engine API shows them (`Created` is RFC 3339)."""
        sizes = iter([self._layer_size(chain) for chain in image.chain_ids])
        steps: Steps = [
            {
                "Id": "<missing>",
                "Created": step.created,
                "CreatedBy": step.created_by,
                "Tags": None,
                "Size": 0 if step.empty_layer else next(sizes, 0),
                "Comment": step.comment,
            }
            for step in image.config.history
        ]
        steps += [
            {"Id": "<missing>", "Created": image.created, "CreatedBy": "", "Tags": None, "Size": size, "Comment": ""}
            for size in sizes
        ]
        steps.reverse()
        if steps:
            steps[0]["Id"] = image.id
            steps[0]["Tags"] = list(image.names) or None
        return steps

    # Naming

    def register(self, manifest_digest: str, names: Iterable[str]) -> Image:
        """Make a stored manifest an image under `names` (each moves from whatever bore it before)."""
        references = [_full(name) for name in names]
        with self._lock:
            document = self._document(manifest_digest)
            entries = [entry for entry in self._entries if _name(entry) not in references]
            orphans = {e.digest for e in self._entries} - {e.digest for e in entries} - {manifest_digest}
            entries += [_bare(self._document(orphan).manifest) for orphan in sorted(orphans)]
            if references:
                entries = [e for e in entries if not (e.digest == manifest_digest and not _name(e))]
                entries += [_named(document.manifest, name) for name in references]
            elif not any(entry.digest == manifest_digest for entry in entries):
                entries.append(_bare(document.manifest))
            self._save(entries)
            blobs = (manifest_digest, document.id, *(layer.digest for layer in document.layers))
            self.content.settled(blobs)
            self._layers_settled(document.chain_ids)
            return self._image(manifest_digest)

    def tag(self, source: str, target: str) -> Image:
        """Give the image `source` the further name `target`."""
        reference = Reference.parse(target)
        if reference.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        with self._lock:
            return self.register(self._find(source)[0], [reference.full])

    def delete(
        self,
        name_or_id: str,
        *,
        force: bool = False,
        in_use: Mapping[str, Collection[tuple[str, bool]]] | None = None,
    ) -> Deletions:
        """Take away a name, or the whole image; Docker's rules and words.

        `in_use` maps image ids to the containers that use them: (id, whether it runs). A name goes
        alone while others remain. An image that a running container uses is never deleted; one that a
        stopped container uses, or that has several names and is called by its id, only by `force`.
        """
        with self._lock:
            deleted = self._delete(name_or_id, force, in_use or {})
        self._tell()
        return deleted

    def _delete(self, name_or_id: str, force: bool, in_use: Mapping[str, Collection[tuple[str, bool]]]) -> Deletions:
        with self._lock:
            manifest_digest, name = self._find(name_or_id)
            image = self._image(manifest_digest)
            entries = self._entries_of(image.id)
            names = [found for entry in entries if (found := _name(entry))]
            tags = [found for found in names if not _parsed(found).digest]
            if name and [found for found in tags if found != name]:
                self._save([entry for entry in self._entries if _name(entry) != name])
                return [{"Untagged": _parsed(name).familiar}]
            _refuse_in_use(image, name_or_id, name, tags, force=force, containers=in_use.get(image.id, ()))
            self._save([entry for entry in self._entries if entry not in entries])
            untagged = [{"Untagged": _parsed(found).familiar} for found in names]
            return [*untagged, {"Deleted": image.id}, *self._unshared(image)]

    untag = delete

    def prune(
        self, *, in_use: Collection[str] = (), dangling: bool = True, keep: Callable[[Image], bool] = lambda _: False
    ) -> Deletions:
        """Delete images that no container uses: those without a tag, or (not `dangling`) all of them.

        `keep` spares an image (filters by label or age).
        """
        deleted: Deletions = []
        with self._lock:
            for image in self.list():
                if image.id not in in_use and not (dangling and image.names) and not keep(image):
                    deleted += self._delete(image.id, True, {})
        self._tell()
        return deleted

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def manifests(self) -> set[str]:
        """The digests of every manifest that is an image's: the roots for collecting garbage."""
        with self._lock:
            return {entry.digest for entry in self._entries}

    def reachable(self) -> tuple[set[str], set[str]]:
        """The blobs and the chain ids that the images need."""
        blobs: set[str] = set()
        chains: set[str] = set()
        with self._lock:
            for manifest_digest in self.manifests():
                blobs.add(manifest_digest)
                document = self._document(manifest_digest)
                blobs |= {document.id, *(layer.digest for layer in document.layers)}
                chains |= set(document.chain_ids)
        return blobs, chains

    # Inside

    def _find(self, text: str) -> tuple[str, str]:
        """The manifest's digest, and the full name when `text` was one ("" when it was an id)."""
        by_id = self._by_id(text, exact=True)
        if by_id:
            return by_id, ""
        try:
            reference = Reference.parse(text)
        except InvalidArgument:
            if text.startswith("sha256:") or _SHORT_ID.fullmatch(text):
                raise NotFound(f"No such image: {text}") from None
            raise
        for entry in self._entries:
            if _name(entry) == reference.full:
                return entry.digest, reference.full
        if reference.digest and (found := self._by_digest(reference)):
            return found
        if by_id := self._by_id(text, exact=False):
            return by_id, ""
        raise NotFound(f"No such image: {reference.familiar if reference.tag else text}")

    def _by_digest(self, reference: Reference) -> tuple[str, str] | None:
        """repo:tag@digest and repo@digest: the digest decides, the repository must have it."""
        bare = reference.with_digest(reference.digest)
        for entry in self._entries:
            name = _name(entry)
            if name == bare.full or (
                name and entry.digest == reference.digest and _parsed(name).name == reference.name
            ):
                return entry.digest, name
        return None

    def _by_id(self, text: str, *, exact: bool) -> str:
        digits = text.removeprefix("sha256:")
        if _SHORT_ID.fullmatch(digits) is None or (exact and len(digits) != 64):
            return ""
        ids: dict[str, str] = {}
        for entry in self._entries:
            identity = self._document(entry.digest).id
            if identity.startswith(f"sha256:{digits}") or entry.digest.startswith(f"sha256:{digits}"):
                ids.setdefault(identity, entry.digest)
        if len(ids) > 1:
            raise Conflict(f"the image id prefix {text} is ambiguous: it fits {len(ids)} images; write more digits")
        return next(iter(ids.values()), "")

    def _entries_of(self, identity: str) -> _Entries:
        return [entry for entry in self._entries if self._document(entry.digest).id == identity]

    def _unshared(self, image: Image) -> Deletions:
        """The layers that went with the image: those that no other one stands on."""
        try:
            kept = self.reachable()[1]
        except CoveError:
            return []
        return [{"Deleted": chain} for chain in reversed(image.chain_ids) if chain not in kept]

    def _image(self, manifest_digest: str) -> Image:
        document = self._document(manifest_digest)
        names = {name for entry in self._entries_of(document.id) if (name := _name(entry))}
        references = [_parsed(name) for name in names]
        sizes = [self._layer_size(chain) for chain in document.chain_ids]
        return Image(
            id=document.id,
            manifest=document.manifest,
            config=document.config,
            raw_config=document.raw_config,
            layers=document.layers,
            chain_ids=document.chain_ids,
            names=tuple(sorted(reference.familiar for reference in references if not reference.digest)),
            repo_digests=tuple(sorted(reference.familiar for reference in references if reference.digest)),
            created=document.config.created,
            size=sum(sizes) or sum(layer.size for layer in document.layers),
        )

    def _document(self, manifest_digest: str) -> _Document:
        known = self._documents.get(manifest_digest)
        if known is not None:
            return known
        raw = self.content.read(manifest_digest)
        manifest = oci.decode_manifest(raw)
        if isinstance(manifest, Index):
            raise InvalidArgument(f"{manifest_digest} is an index of several images, not one image")
        raw_config = self.content.read(manifest.config.digest)
        config = oci.decode_config(raw_config)
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise InvalidArgument(
                f"invalid image: its configuration names {len(config.rootfs.diff_ids)} layers, "
                f"its manifest {len(manifest.layers)}"
            )
        descriptor = Descriptor(media_type=oci.media_type_of(manifest), digest=manifest_digest, size=len(raw))
        document = _Document(
            id=manifest.config.digest,
            manifest=descriptor,
            config=config,
            raw_config=raw_config,
            layers=manifest.layers,
            chain_ids=chain_ids(config.rootfs.diff_ids),
        )
        self._documents[manifest_digest] = document
        return document

    def _save(self, entries: Iterable[Descriptor]) -> None:
        kept = tuple(entries)
        try:
            write_atomic(self._path, oci.encode(Index(media_type=oci.OCI_INDEX, manifests=kept)), mode=0o644)
        except OSError as error:
            raise Internal(f"cannot write the list of images: {describe(error)}") from error
        self._entries = kept
        used = {entry.digest for entry in kept}
        self._documents = {digest: found for digest, found in self._documents.items() if digest in used}


def _refuse_in_use(
    image: Image,
    called: str,
    name: str,
    tags: list[str],
    *,
    force: bool,
    containers: Collection[tuple[str, bool]],
) -> None:
    short = digests.short(image.id)
    what = f'unable to remove repository reference "{called}"' if name else f"unable to delete {short}"
    running = [identity for identity, runs in containers if runs]
    if running and not name:
        raise Conflict(
            f"conflict: {what} (cannot be forced) - image is being used by running container {running[0][:12]}"
        )
    if running:
        raise Conflict(
            f"conflict: {what} (must be stopped) - container {running[0][:12]} is using its referenced image {short}"
        )
    if force:
        return
    if containers:
        stopped = next(iter(containers))[0][:12]
        use = f"container {stopped} is using its referenced image {short}"
        why = use if name else f"image is being used by stopped container {stopped}"
        raise Conflict(f"conflict: {what} (must force) - {why}")
    if not name and len({_parsed(tag).name for tag in tags}) > 1:
        raise Conflict(f"conflict: {what} (must be forced) - image is referenced in multiple repositories")


def _name(entry: Descriptor) -> str:
    return entry.annotations.get(oci.REF_NAME, "")


def _named(manifest: Descriptor, name: str) -> Descriptor:
    return msgspec.structs.replace(_bare(manifest), annotations={oci.REF_NAME: name})


def _bare(manifest: Descriptor) -> Descriptor:
    return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)


def _full(name: str) -> str:
    return Reference.parse(name).full


def _parsed(name: str) -> Reference:
    return Reference.parse(name, default_tag="")
