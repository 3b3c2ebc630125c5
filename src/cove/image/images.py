"""The images: which names point at which manifests, and what users may call them.

Owns `index.json` of the image layout. Each entry is the descriptor of a manifest or of an index of several
(`cove.image.variants`); its annotation
`org.opencontainers.image.ref.name` holds the full name ("docker.io/library/nginx:latest", or
"…/nginx@sha256:…" for where it was pulled from). An image without any name keeps one bare entry, so
that it is still an image, only a dangling one. The file is replaced atomically under one lock.

An image's id is the digest of its configuration; a name that points at an index means the variant that this
host runs best, unless a platform is asked for. The bytes of manifest and configuration are read from
the content store and are never written back. This module deletes names; `cove.image.gc` deletes what
they no longer reach.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from cove.errors import Conflict, CoveError, Internal, InvalidArgument, NotFound, Unavailable, describe
from cove.image.content import ContentStore
from cove.image.entries import bare_entry, full_name, lone_digests, name_of, named_entry, parsed, repositories
from cove.image.removal import refuse_in_use, refuse_variants
from cove.image.trust.attachments import Attachments
from cove.image.variants import Offer, Target, Variant, Variants
from cove.oci import image as oci
from cove.oci.image import Descriptor, ImageConfig, Index
from cove.oci.platform import Platform, preference
from cove.oci.reference import Reference
from cove.paths import DataRoot
from cove.store.files import write_atomic

_log = logging.getLogger(__name__)
_SHORT_ID = re.compile(r"[0-9a-f]{4,64}")

Deletion = dict[str, str]
"""{"Untagged": name} or {"Deleted": digest}, as the Engine API lists them."""

Deletions = list[Deletion]
Steps = list[dict[str, object]]
_Entries = list[Descriptor]
_Listeners = list[Callable[[], None]]


class Image(msgspec.Struct, frozen=True):
    """One image as stored; `names` and `repo_digests` are in the familiar spelling, sorted.

    `target` is what the names point at: `manifest` itself, or an index that offers it among others.
    """

    id: str
    target: Descriptor
    offers: tuple[Offer, ...]
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

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all variants that are here."""
        return frozenset(offer.variant.id for offer in self.offers if offer.variant) | {self.id}


class _Found(msgspec.Struct, frozen=True):
    """What a user's word means: a target, the full name if the word was one, the variant if it chose one."""

    target: str
    name: str = ""
    variant: str = ""


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
        self.attachments = Attachments(data.image / "attachments.json", self.content)
        self._path = data.image / "index.json"
        self._layer_size = layer_size
        self._layers_settled = layers_settled
        self._listeners: _Listeners = []
        self._lock = threading.RLock()
        self._variants = Variants(self.content)
        self._targets: dict[str, Target] = {}
        self._entries: tuple[Descriptor, ...] = ()
        self._aside = self._path.with_suffix(".damaged")
        if self._path.exists():
            self._load()
        else:
            self._save(())

    def _load(self) -> None:
        """A list that cannot be read is set aside, and while it lies there nothing is collected that it may name."""
        try:
            self._entries = oci.decode_index(self._path.read_bytes()).manifests
        except CoveError as error:
            self._path.rename(self._aside)
            _log.error(
                "the list of images %s is damaged (%s) and was moved to %s, so images have lost their names; put a "
                "good copy in its place or pull them again, then delete that file: until then no space is freed",
                self._path,
                error.message,
                self._aside.name,
            )
            self._save(())

    def on_deletion(self, listener: Callable[[], None]) -> None:
        """Call `listener` after names were taken away, so that it can collect what they reached."""
        self._listeners.append(listener)

    # Finding

    def get(self, name_or_id: str, platform: Platform | None = None) -> Image:
        """The image of that name, digest, id or unique beginning of an id; NotFound, or Conflict when ambiguous.

        `platform` chooses among the variants, and NotFound says which there are.
        """
        with self._lock:
            found = self._find(name_or_id)
            return self._image(found.target, found.variant, platform, name_or_id)

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

    def register(self, manifest_digest: str, names: Iterable[str], *, whole: Collection[str] = ()) -> Image:
        """Make a stored manifest or index an image under `names` (each moves from whatever bore it before).

        `whole` are the manifests of variants that must be complete. Raises Unavailable when a part is not there:
        the last image that had it too was removed meanwhile.
        """
        references = [full_name(name) for name in names]
        with self.content.stable, self._lock:
            self._targets.pop(manifest_digest, None)
            target = self._target(manifest_digest)
            if not any(entry.digest == manifest_digest for entry in self._entries):
                self._check_whole(target, whole)
            target.default()
            entries = [entry for entry in self._entries if name_of(entry) not in references]
            orphans = {e.digest for e in self._entries} - {e.digest for e in entries} - {manifest_digest}
            entries += [bare_entry(self._target(orphan).descriptor) for orphan in sorted(orphans)]
            if references:
                entries = [e for e in entries if not (e.digest == manifest_digest and not name_of(e))]
                entries += [named_entry(target.descriptor, name) for name in references]
            elif not any(entry.digest == manifest_digest for entry in entries):
                entries.append(bare_entry(target.descriptor))
            self._save(entries)
            self.content.settled(target.blobs | self.attachments.blobs(target.blobs))
            self._layers_settled([chain for variant in target.variants for chain in variant.chain_ids])
            return self._image(manifest_digest)

    def tag(self, source: str, target: str) -> Image:
        """Give the image `source` the further name `target`."""
        reference = Reference.parse(target)
        if reference.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        with self.content.stable, self._lock:
            return self.register(self._find(source).target, [reference.full])

    def _check_whole(self, target: Target, whole: Collection[str]) -> None:
        complete = {variant.manifest.digest for variant in target.variants}
        if not complete.issuperset(whole) or not all(map(self.content.exists, target.blobs)):
            raise Unavailable(
                f"parts of the image {target.descriptor.digest[:19]} were removed with another image while "
                f"it came; try again"
            )

    def forget_unnamed(self, digest: str) -> None:
        """Let go of a target that no name points at any more."""
        with self._lock:
            if not any(entry.digest == digest and name_of(entry) for entry in self._entries):
                self._save([entry for entry in self._entries if entry.digest != digest])
        self._tell()

    def delete(
        self,
        name_or_id: str,
        *,
        force: bool = False,
        in_use: Mapping[str, Collection[tuple[str, bool]]] | None = None,
    ) -> Deletions:
        """Take away a name, or the whole image; Docker's rules and words.

        `in_use` maps image ids to the containers that use them: (id, whether it runs). A name goes
        alone while others remain. An image that a running container uses is never deleted: `force` takes its
        last name alone. One that a stopped container uses, or that has several names and is called by its id,
        is deleted only by `force`.
        """
        with self._lock:
            deleted = self._delete(name_or_id, force, in_use or {})
        self._tell()
        return deleted

    def _delete(self, name_or_id: str, force: bool, in_use: Mapping[str, Collection[tuple[str, bool]]]) -> Deletions:
        with self._lock:
            found = self._find(name_or_id)
            name = found.name
            image = self._image(found.target, found.variant)
            entries = self._entries_of(image.id)
            names = [known for entry in entries if (known := name_of(entry))]
            tags = [known for known in names if not parsed(known).digest]
            if name and [known for known in tags if known != name]:
                gone = {name, *lone_digests(self._entries, name)}
                self._save([entry for entry in self._entries if name_of(entry) not in gone])
                return [{"Untagged": parsed(each).familiar} for each in sorted(gone)]
            users = [user for identity in sorted(image.ids) for user in in_use.get(identity, ())]
            refuse_in_use(image.id, name_or_id, name, repositories(tags), force=force, containers=users)
            untagged = [{"Untagged": parsed(known).familiar} for known in names]
            others = [entry for entry in self._entries if entry not in entries]
            if any(runs for _, runs in users):
                bare = {entry.digest: bare_entry(entry) for entry in entries}
                self._save([*others, *bare.values()])
                return untagged
            self._save(others)
            return [*untagged, {"Deleted": image.id}, *self._unshared(image)]

    untag = delete

    def drop_variants(self, name_or_id: str, platforms: Sequence[Platform], in_use: Collection[str]) -> Deletions:
        """Let go of some of an index's variants, which stays with the others; Conflict while it cannot.

        `in_use` are the ids of images that containers use.
        """
        with self.content.stable, self._lock:
            target = self._target(self._find(name_or_id).target)
            chosen = [_chosen(target, "", platform, name_or_id) for platform in platforms]
            named = {entry.digest for entry in self._entries}
            refuse_variants(name_or_id, target, chosen, named=named, in_use=in_use)
            for variant in chosen:
                self.content.delete(variant.manifest.digest)
            self._targets.clear()
            self._variants.forget(set())
        self._tell()
        return [{"Deleted": variant.manifest.digest} for variant in chosen]

    def prune(
        self, *, in_use: Collection[str] = (), dangling: bool = True, keep: Callable[[Image], bool] = lambda _: False
    ) -> Deletions:
        """Delete images that no container uses: those without a tag, or (not `dangling`) all of them.

        `keep` spares an image (filters by label or age).
        """
        deleted: Deletions = []
        with self._lock:
            for image in self.list():
                if not image.ids & set(in_use) and not (dangling and image.names) and not keep(image):
                    with suppress(NotFound):  # it was a variant of one that went a moment ago
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
        """The blobs and the chain ids that the images need; Unavailable while a damaged list may name others."""
        if self._aside.exists():
            raise Unavailable(f"What images need is unknown while the damaged list {self._aside} lies there")
        blobs: set[str] = set()
        chains: set[str] = set()
        with self._lock:
            for digest in self.manifests():
                target = self._target(digest)
                blobs |= target.blobs
                chains |= {chain for variant in target.variants for chain in variant.chain_ids}
            self.attachments.keep_only(blobs)
        return blobs | self.attachments.blobs(blobs), chains

    # Inside

    def _find(self, text: str) -> _Found:
        if by_id := self._by_id(text, exact=True):
            return by_id
        try:
            reference = Reference.parse(text)
        except InvalidArgument:
            if text.startswith("sha256:") or _SHORT_ID.fullmatch(text):
                raise NotFound(f"No such image: {text}") from None
            raise
        for entry in self._entries:
            if name_of(entry) == reference.full:
                return _Found(entry.digest, reference.full)
        if reference.digest and (found := self._by_digest(reference)):
            return found
        if by_id := self._by_id(text, exact=False):
            return by_id
        raise NotFound(f"No such image: {reference.familiar if reference.tag else text}")

    def _by_digest(self, reference: Reference) -> _Found | None:
        """repo:tag@digest and repo@digest: the digest decides, the repository must have it."""
        bare = reference.with_digest(reference.digest)
        for entry in self._entries:
            name = name_of(entry)
            if name == bare.full:
                return _Found(entry.digest, name)
            if not name or parsed(name).name != reference.name:
                continue
            if entry.digest == reference.digest:
                return _Found(entry.digest, name)
            if any(variant.manifest.digest == reference.digest for variant in self._known(entry.digest)):
                return _Found(entry.digest, name, reference.digest)
        return None

    def _by_id(self, text: str, *, exact: bool) -> _Found | None:
        digits = text.removeprefix("sha256:")
        if _SHORT_ID.fullmatch(digits) is None or (exact and len(digits) != 64):
            return None
        wanted = f"sha256:{digits}"
        ids: dict[str, _Found] = {}
        for entry in self._entries:
            variants = self._known(entry.digest)
            for variant in variants:
                if variant.id.startswith(wanted) or variant.manifest.digest.startswith(wanted):
                    ids.setdefault(variant.id, _Found(entry.digest, "", variant.manifest.digest))
            if variants and entry.digest.startswith(wanted):
                ids.setdefault(self._target(entry.digest).default().id, _Found(entry.digest))
        if len(ids) > 1:
            raise Conflict(f"the image id prefix {text} is ambiguous: it fits {len(ids)} images; write more digits")
        return next(iter(ids.values()), None)

    def _entries_of(self, identity: str) -> _Entries:
        return [
            entry for entry in self._entries if any(variant.id == identity for variant in self._known(entry.digest))
        ]

    def _unshared(self, image: Image) -> Deletions:
        """The layers that went with the image: those that no other one stands on."""
        try:
            kept = self.reachable()[1]
        except CoveError:
            return []
        return [{"Deleted": chain} for chain in reversed(image.chain_ids) if chain not in kept]

    def _image(
        self, target_digest: str, variant_digest: str = "", platform: Platform | None = None, called: str = ""
    ) -> Image:
        target = self._target(target_digest)
        variant = _chosen(target, variant_digest, platform, called)
        names = {name for entry in self._entries_of(variant.id) if (name := name_of(entry))}
        references = [parsed(name) for name in names]
        sizes = [self._layer_size(chain) for chain in variant.chain_ids]
        return Image(
            id=variant.id,
            target=target.descriptor,
            offers=target.offers,
            manifest=variant.manifest,
            config=variant.config,
            raw_config=variant.raw_config,
            layers=variant.layers,
            chain_ids=variant.chain_ids,
            names=tuple(sorted(reference.familiar for reference in references if not reference.digest)),
            repo_digests=tuple(sorted(reference.familiar for reference in references if reference.digest)),
            created=variant.config.created,
            size=sum(sizes) or sum(layer.size for layer in variant.layers),
        )

    def _target(self, digest: str) -> Target:
        known = self._targets.get(digest)
        if known is None:
            known = self._targets[digest] = self._variants.target(digest)
        return known

    def _known(self, digest: str) -> tuple[Variant, ...]:
        """The variants of a target; those of a damaged one are unknown."""
        try:
            return self._target(digest).variants
        except CoveError:
            return ()

    def _save(self, entries: Iterable[Descriptor]) -> None:
        kept = tuple(entries)
        try:
            write_atomic(self._path, oci.encode(Index(media_type=oci.OCI_INDEX, manifests=kept)), mode=0o644)
        except OSError as error:
            raise Internal(f"cannot write the list of images: {describe(error)}") from error
        self._entries = kept
        used = {entry.digest for entry in kept}
        self._targets = {digest: target for digest, target in self._targets.items() if digest in used}
        self._variants.forget({blob for target in self._targets.values() for blob in target.blobs})


def _chosen(target: Target, variant: str, platform: Platform | None, called: str) -> Variant:
    """The variant by its digest, for a platform, or the one that this host runs best."""
    named = [each for each in target.variants if each.manifest.digest == variant]
    if named and (platform is None or preference(platform, named[0].platform) is not None):
        return named[0]
    if platform is None:
        return target.default()
    found = None if named else target.on(platform)
    if found is None:
        here = ", ".join(sorted(str(each.platform) for each in named or target.variants)) or "none"
        raise NotFound(
            f"image with reference {called} was found but does not provide the specified platform ({platform}): "
            f"here is {here}"
        )
    return found
