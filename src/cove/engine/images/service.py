"""Images: shown, named, removed; brought in and sent out. Those made here are `cove.engine.images.making`'s.

Everything that transfers or unpacks runs in threads of its own and tells its progress as Docker's clients
draw it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from cove.engine import graph_driver
from cove.engine.bridging import Message, Sink, blocking, told
from cove.engine.containers.registry import Registry
from cove.engine.context import Context
from cove.engine.images.selection import asked_platform, asked_platforms, check_patterns, narrowed, wanted
from cove.engine.images.view import descriptor, inspection, manifest, summary, unix_seconds
from cove.engine.telling import after, tell_image, tell_travel
from cove.errors import CoveError, InvalidArgument, NotFound
from cove.image.distribution import Credentials
from cove.image.distribution.seams import StoredImage
from cove.image.images import Image
from cove.image.travel.loading import load
from cove.image.travel.saving import save
from cove.oci.reference import DEFAULT_DOMAIN, Reference
from cove.wire import images as wire
from cove.wire.containers import GraphDriver
from cove.wire.filters import Filters
from cove.wire.times import moment

_ALGORITHMS = ("sha256", "sha384", "sha512")

_Users = tuple[tuple[str, bool], ...]


class ImageService:
    """The use cases of images."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self._context = context
        self._registry = registry

    # ── show ──────────────────────────────────────────────────────────────────────────────────────

    async def list(
        self,
        *,
        all: bool = False,
        digests: bool = False,
        count: bool = False,
        shared: bool = False,
        manifests: bool = False,
        filters: Filters = Filters(),  # noqa: B008 - frozen
    ) -> Sequence[wire.ImageSummary]:
        """The newest first; `count` also counts each image's containers, `shared` measures what others have too.

        `manifests` tells of each image which variants there are.
        """
        check_patterns(filters.get("reference"))
        found = [
            narrowed(image, filters.get("reference"))
            for image in await self._all()
            if wanted(image, filters, self._context.images)
        ]
        users = self._users()
        sizes = (await self._context.executors.bulk(self._context.store.usage.measure, ())).images if shared else {}
        return [
            summary(
                image,
                containers=len(users.get(image.id, ())) if count else -1,
                shared=sizes[image.id].shared if image.id in sizes else -1,
                manifests=self._manifests(image, users) if manifests else None,
            )
            for image in found
        ]

    def _manifests(self, image: Image, users: dict[str, _Users]) -> Sequence[wire.ManifestSummary]:
        """An image's variants, each with its room on disk and its containers."""
        room = self._context.store.usage.layer
        return [
            manifest(
                offer,
                unpacked=sum(map(room, offer.variant.chain_ids)) if offer.variant else 0,
                containers=[user for user, _ in users.get(offer.variant.id, ())] if offer.variant else (),
            )
            for offer in image.offers
        ]

    async def _all(self) -> Sequence[Image]:
        return await self._context.executors.disk(self._context.images.list)

    async def inspect(self, name: str, *, platform: str = "", manifests: bool = False) -> wire.ImageInspect:
        """All about one image, or its variant for a platform; with `manifests`, which variants there are."""
        image = self._context.images.get(name, asked_platform(platform))
        variants = await self._context.executors.disk(self._manifests, image, self._users()) if manifests else None
        return msgspec.structs.replace(
            inspection(image, variants),
            parent=image.config.parent if self._is_here(image.config.parent) else msgspec.UNSET,
            graph_driver=self._graph_driver(image),
        )

    def _graph_driver(self, image: Image) -> GraphDriver:
        try:
            return graph_driver.of_layers(self._context.store.layers.stack(image.top or ""))
        except NotFound:  # a variant that nobody has needed yet is not unpacked
            return GraphDriver()

    def _is_here(self, image_id: str) -> bool:
        try:
            return bool(image_id and self._context.images.get(image_id))
        except CoveError:
            return False

    async def history(self, name: str, *, platform: str = "") -> Sequence[wire.ImageHistoryItem]:
        """The steps of its making, the newest first."""
        images = self._context.images
        steps: Sequence[dict[str, Any]] = images.history(images.get(name, asked_platform(platform)))
        return [
            wire.ImageHistoryItem(
                id=step["Id"],
                created=unix_seconds(step["Created"]),
                created_by=step["CreatedBy"],
                tags=tuple(step["Tags"]) if step["Tags"] else None,
                size=step["Size"],
                comment=step["Comment"],
            )
            for step in steps
        ]

    # ── names ─────────────────────────────────────────────────────────────────────────────────────

    async def tag(self, name: str, *, repo: str, tag: str = "") -> None:
        """A further name."""
        target = Reference.parse(f"{repo}:{tag}" if tag else repo)
        if target.familiar_name in _ALGORITHMS:
            raise InvalidArgument(
                f"refusing to create an ambiguous tag using digest algorithm as name: {target.familiar}"
            )
        image = await self._context.executors.disk(self._context.images.tag, name, target.full)
        tell_image(self._context.events, "tag", image, target.familiar)

    async def remove(
        self, name: str, *, force: bool = False, noprune: bool = False, platforms: Sequence[str] = ()
    ) -> Sequence[wire.ImageDeleteItem]:
        """Take away a name, and with the last one the image; Conflict while a container needs it.

        With `platforms` those variants of an index alone.
        """
        if platforms:
            wanted = asked_platforms(platforms)
            drop = self._context.images.drop_variants
            return self._deleted(None, await self._context.executors.disk(drop, name, wanted, set(self._users())))
        image = self._context.images.get(name)
        done = await self._context.executors.disk(
            self._context.images.delete, name, force=force, in_use=self._users()
        )
        return self._deleted(image, done)

    def _users(self) -> dict[str, _Users]:
        """The containers of each image, and whether they run."""
        users: defaultdict[str, _Users] = defaultdict(tuple)
        for container in self._registry:
            for identity in container.record.image_ids:
                users[identity] += ((container.id, container.facts.running),)
        return users

    def _deleted(self, image: Image | None, done: Collection[dict[str, str]]) -> Sequence[wire.ImageDeleteItem]:
        items = []
        for step in done:
            if "Untagged" in step:
                self._tell_untagged(image, step["Untagged"])
                items.append(wire.ImageDeleteItem(untagged=step["Untagged"]))
            else:
                self._context.events.emit("image", "delete", step["Deleted"], {"name": step["Deleted"]})
                items.append(wire.ImageDeleteItem(deleted=step["Deleted"]))
        return items

    async def prune(self, filters: Filters, older_than: int) -> wire.ImagePruneResponse:
        """Remove images that no container uses: those without a name, or with dangling=false all.

        With keep-storage, the longest unused go first, and only until all images take so many bytes.
        """
        dangling = filters.flag("dangling") is not False
        most = _one_size(filters, "keep-storage")
        unused_since = _one_moment(filters, "unused-for")
        content = self._context.store.content

        def keep(image: Image) -> bool:
            labels = image.config.config.labels
            excluded = "label!" in filters and filters.labels(labels, "label!")
            late = unused_since is not None and content.used(image.target.digest) * 1e9 > unused_since
            too_young = unix_seconds(image.created) * 10**9 > older_than
            return excluded or late or too_young or not filters.labels(labels)

        usage, bulk = self._context.store.usage, self._context.executors.bulk
        before = await bulk(usage.total)
        if most is None:
            done = await self._remove_unused(dangling, keep)
        else:
            done = await self._shrink(dangling, keep, most)
        await bulk(self._context.store.layers.finish_removals)
        room = max(0, before - await bulk(usage.total))
        return wire.ImagePruneResponse(images_deleted=tuple(self._deleted(None, done)) or None, space_reclaimed=room)

    async def _remove_unused(self, dangling: bool, keep: Callable[[Image], bool]) -> Sequence[dict[str, str]]:
        prune = self._context.images.prune
        return await self._context.executors.bulk(prune, in_use=set(self._users()), dangling=dangling, keep=keep)

    async def _shrink(self, dangling: bool, keep: Callable[[Image], bool], most: int) -> Sequence[dict[str, str]]:
        """Remove unused images one by one, the longest unused first, while there is more than `most` bytes."""
        store, done = self._context.store, list[dict[str, str]]()
        found = sorted(await self._all(), key=lambda image: store.content.used(image.target.digest))
        for identity in [image.id for image in found if not keep(image)]:
            if await self._context.executors.bulk(store.usage.total) <= most:
                break
            done += await self._remove_unused(dangling, partial(_another, identity))
        return done

    # ── in and out ────────────────────────────────────────────────────────────────────────────────

    async def pull(
        self, name: str, *, tag: str = "", platform: str = "", every: bool = False, auth: str = ""
    ) -> AsyncIterator[Message]:
        """From a registry, with the progress of each layer.

        A bare repository means all its tags; `every` all the platforms of the image.
        """
        reference = _reference(name, tag)
        wanted = asked_platform(platform)
        if every and wanted:
            raise InvalidArgument("choose between one platform and all of them")
        credentials = Credentials.from_header(auth) if auth else None

        def work(sink: Sink, cancel: threading.Event) -> None:
            distribution = self._context.distribution
            pull = distribution.pull if reference.tag or reference.digest else distribution.pull_all
            pull(reference, platform=wanted, every=every, credentials=credentials, progress=sink, cancel=cancel)

        messages = await told(self._context.executors, work)
        return after(messages, self._telling("pull", reference.or_latest().familiar))

    async def push(self, name: str, *, tag: str = "", platform: str = "", auth: str = "") -> AsyncIterator[Message]:
        """To a registry; a bare repository means all the tags that it has here, `platform` one variant of each."""
        reference = _reference(name, tag)
        wanted = asked_platform(platform)
        credentials = Credentials.from_header(auth) if auth else None
        if reference.tag or reference.digest:
            try:
                self._context.images.get(reference.familiar)
            except NotFound:
                raise NotFound(f"An image does not exist locally with the tag: {reference.familiar}") from None
            self._context.images.get(reference.familiar, wanted)
            pushed = [reference]
        else:
            names = [Reference.parse(known) for image in await self._all() for known in image.names]
            pushed = sorted((known for known in names if known.name == reference.name), key=lambda known: known.tag)
            if not pushed:
                raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")

        def work(sink: Sink, cancel: threading.Event) -> None:
            for each in pushed:
                self._context.distribution.push(
                    each, platform=wanted, credentials=credentials, progress=sink, cancel=cancel
                )

        messages = await told(self._context.executors, work)
        return after(messages, self._telling("push", reference.familiar))

    async def distribution(self, name: str, *, auth: str = "") -> wire.DistributionInspect:
        """What a name stands for at its registry, without pulling it."""
        credentials = Credentials.from_header(auth) if auth else None
        found = await self._context.executors.bulk(
            lambda: self._context.distribution.describe(Reference.parse(name), credentials)
        )
        return wire.DistributionInspect(
            descriptor=descriptor(found.descriptor),
            platforms=found.platforms,
        )

    async def search(
        self,
        term: str,
        *,
        limit: int = 25,
        auth: str = "",
        filters: Filters = Filters(),  # noqa: B008 - frozen
    ) -> Sequence[wire.SearchResult]:
        """Repositories at the registry that the term begins with: "registry.lan:5000/web".

        Catalogues tell only names: nothing in them has stars, is official or made automatically.
        """
        if not 1 <= limit <= 100:
            raise InvalidArgument(f"limit {limit} is outside the range of [1, 100]")
        unstarred = all(_number("stars", text) == 0 for text in filters.get("stars"))
        if not unstarred or filters.flag("is-official") or filters.flag("is-automated"):
            return ()
        domain, slash, word = term.strip().partition("/")
        if not (slash and ("." in domain or ":" in domain or domain == "localhost")):
            domain, word = DEFAULT_DOMAIN, term.strip()
        credentials = Credentials.from_header(auth) if auth else None
        names = await self._context.executors.bulk(
            lambda: self._context.distribution.search(domain, word.lower(), limit, credentials)
        )
        return [wire.SearchResult(name=f"{domain}/{name}") for name in names]

    async def load(
        self, stream: AsyncIterator[bytes], *, quiet: bool = False, platforms: Sequence[str] = ()
    ) -> AsyncIterator[Message]:
        """From an archive that `save` (Cove's, Docker's or another OCI tool's) made, all of it or some variants.

        A quiet load is answered when it is done: clients that are told nothing of it do not read on.
        """
        body, wanted = blocking(stream), asked_platforms(platforms)
        context = self._context
        loaded: list[StoredImage] = []

        def work(sink: Sink, cancel: threading.Event) -> None:
            loaded[:] = load(
                context.store.content,
                context.images,
                context.store.layers,
                body,
                context.data.tmp,
                sink,
                quiet=quiet,
                platforms=wanted,
            )

        def tell() -> None:
            for image in loaded:
                tell_image(context.events, "load", image)

        return after(await told(context.executors, work, at_once=not quiet), tell)

    async def save(self, names: Sequence[str], *, platforms: Sequence[str] = ()) -> AsyncIterator[bytes]:
        """An archive of images, with all their variants or some; NotFound at once."""
        if not names:
            raise InvalidArgument("no image was named: say which ones shall be saved")
        context = self._context
        wanted = asked_platforms(platforms)
        pieces = await context.executors.bulk(save, context.store.content, context.images, names, wanted)
        for name in names:
            self._tell_saved(name)
        return context.executors.stream(pieces)

    def _tell_untagged(self, image: Image | None, name: str) -> None:
        if image is not None:
            tell_image(self._context.events, "untag", image, name)
        else:
            self._context.events.emit("image", "untag", name, {"name": name})

    def _tell_saved(self, name: str) -> None:
        """An identity or a name is of one image; a repository, of all its tags, is told by its name."""
        try:
            tell_image(self._context.events, "save", self._context.images.get(name))
        except CoveError:
            self._context.events.emit("image", "save", name, {"name": name})

    def _telling(self, action: str, name: str) -> Callable[[], None]:
        return partial(tell_travel, self._context.events, self._context.images, action, name)


def _another(identity: str, image: Image) -> bool:
    return image.id != identity


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise InvalidArgument(f"invalid filter '{name}={text}': it is no whole number")
    return int(text)


def _one_size(filters: Filters, name: str) -> int | None:
    terms = filters.get(name)
    if not terms:
        return None
    if len(terms) > 1 or not (terms[0].isdecimal() and len(terms[0]) < 19):
        raise InvalidArgument(f"invalid filter '{name}={','.join(terms)}': say one number of bytes")
    return int(terms[0])


def _one_moment(filters: Filters, name: str) -> int | None:
    terms = filters.get(name)
    if len(terms) > 1:
        raise InvalidArgument(f"more than one {name} filter specified")
    return moment(terms[0], now_ns=time.time_ns()) if terms else None


def _reference(name: str, tag: str) -> Reference:
    """The name with a tag or digest said apart."""
    if not tag:
        return Reference.parse(name, default_tag="")
    return Reference.parse(f"{name}@{tag}" if ":" in tag else f"{name}:{tag}", default_tag="")
