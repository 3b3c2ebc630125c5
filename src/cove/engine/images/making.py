"""Images made here: of an archive, of a distribution's packages, of a container.

Owns what each is called and configured as; how a layer becomes an image is `cove.image.making`'s.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from cove.engine.bridging import Message, Sink, blocking, told
from cove.engine.containers import merge
from cove.engine.containers.freezing import standing_still
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.images.selection import asked_platform
from cove.engine.images.view import defaults
from cove.engine.telling import after, tell, tell_image, tell_travel
from cove.errors import InvalidArgument, NotFound
from cove.image import changes as instructions
from cove.image.distribution.seams import StoredImage
from cove.image.images import Image
from cove.image.rebuild import rebuilt
from cove.image.travel.bootstrap import Options, bootstrap
from cove.image.travel.diff import Base, commit
from cove.image.travel.imports import import_archive
from cove.oci import image as oci
from cove.oci.reference import Reference
from cove.wire.containers import ContainerConfig

if TYPE_CHECKING:
    from cove.build.fetching import Answer


class ImageMaking:
    """The use cases."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self._context = context
        self._registry = registry

    async def import_(
        self,
        stream: AsyncIterator[bytes],
        *,
        address: str = "",
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
    ) -> AsyncIterator[Message]:
        """A root file system's archive as an image: that in `stream`, or what lies at the HTTP `address`."""
        body, store = blocking(stream), self._context.store
        name = Reference.parse(f"{repo}:{tag}" if tag else repo).full if repo else ""
        wanted = asked_platform(platform)
        if wanted is not None and wanted.os not in ("linux", "windows"):
            raise InvalidArgument(f"operating system is not supported: {wanted.os}; containers share a Linux kernel")

        connection = ExitStack()
        answer = await self._context.executors.bulk(_opened, connection, address) if address else None

        made: list[StoredImage] = []

        def taken(archive: Iterable[bytes]) -> str:
            image = import_archive(
                store.content,
                store.images,
                store.layers,
                archive,
                name=name,
                message=message or f"Imported from {address or '-'}",
                change=changes,
                platform=wanted,
            )
            made.append(image)
            return image.id

        def work(sink: Sink, cancel: threading.Event) -> None:
            if answer is None:
                sink({"status": taken(body)})
                return
            sink({"status": f"Downloading from {address}"})
            with connection:
                sink({"status": taken(answer.pieces)})

        def imported() -> None:
            for image in made:
                tell_image(self._context.events, "import", image)

        return after(await told(self._context.executors, work), imported)

    async def bootstrap(
        self,
        name: str,
        *,
        suite: str = "",
        include: Sequence[str] = (),
        variant: str = "minbase",
        mirror: str = "",
    ) -> AsyncIterator[Message]:
        """A base image out of the distribution's packages."""
        store = self._context.store
        options = Options(suite=suite, include=tuple(include), variant=variant or "minbase", mirror=mirror)

        def work(sink: Sink, cancel: threading.Event) -> None:
            bootstrap(store.content, store.images, store.layers, name, options, sink)

        made = partial(tell_travel, self._context.events, store.images, "import", name)
        return after(await told(self._context.executors, work), made)

    async def commit(
        self,
        ref: str,
        *,
        repo: str = "",
        tag: str = "",
        comment: str = "",
        author: str = "",
        pause: bool = True,
        changes: Sequence[str] = (),
        config: ContainerConfig | None = None,
    ) -> str:
        """An image of a container as it is now: its identity. Its processes stand still meanwhile if `pause`."""
        container = self._registry.find(ref)
        name = Reference.parse(f"{repo}:{tag}" if tag else repo).full if repo else ""
        own = defaults(container.record.config)
        chosen = instructions.apply(defaults(merge.merge(config, own)) if config is not None else own, changes)
        async with standing_still(self._context.runtime, (container,), pause=pause):
            image = await self._context.executors.bulk(
                self._commit, container, chosen, name=name, author=author, comment=comment
            )
        tell(self._context.events, container, "commit", comment=comment, imageID=image.id, imageRef=name)
        return image.id

    def _commit(
        self, container: Container, config: oci.ContainerConfig, *, name: str, author: str, comment: str
    ) -> Image:
        store, record = self._context.store, container.record
        base: Base
        try:
            base = store.images.get(record.image_id)
        except NotFound:  # removed by force; the container stands on its layers still
            chain = store.snapshots.chain(record.id) or ""
            base = rebuilt(store.content, store.layers, chain, defaults(record.config))
        return commit(
            self._context.data,
            store.content,
            store.images,
            store.layers,
            store.snapshots,
            record.id,
            base,
            config=config,
            name=name,
            author=author,
            comment=comment,
            created_by=" ".join((record.path, *record.args)),
        )


def _opened(connection: ExitStack, address: str) -> Answer:
    from cove.build.fetching import opened  # loads an HTTP client

    return connection.enter_context(opened(address))
