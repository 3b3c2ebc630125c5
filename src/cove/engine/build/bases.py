"""The images that a Dockerfile names: found here, or pulled, once each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from cove.build.dockerfile.options import Base
from cove.engine.context import Context
from cove.errors import CoveError, NotFound
from cove.image.distribution import Credentials
from cove.image.images import Image
from cove.oci.platform import Platform, best
from cove.oci.reference import DEFAULT_DOMAIN, Reference

Sink = Callable[[dict[str, Any]], None]
_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")


Auth = Callable[[Reference], Awaitable[Credentials | None]]
"""Who knows the credentials for an image's registry."""


def listed_credentials(listed: Mapping[str, Mapping[str, str]]) -> Auth:
    """Credentials by registry, as X-Registry-Config has them."""

    async def auth(reference: Reference) -> Credentials | None:
        names = _HUB if reference.domain == DEFAULT_DOMAIN else (reference.domain, f"https://{reference.domain}")
        for name in names:
            if found := listed.get(name):
                return Credentials(
                    username=found.get("username", ""),
                    password=found.get("password", ""),
                    server_address=reference.domain,
                )
        return None

    return auth


class Bases:
    """What is known of images in one build."""

    def __init__(self, context: Context, auth: Auth, *, pull: bool) -> None:
        self._context = context
        self._auth = auth
        self._pull = pull
        self._loop: asyncio.AbstractEventLoop | None = None
        self.known: dict[tuple[str, str], Base] = {}

    async def find(self, wanted: Collection[tuple[str, str]], sink: Sink) -> None:
        """Make these images known; an error names the one that cannot be had."""
        for name, platform in sorted(wanted):
            image = await self.image(name, Platform.parse(platform), sink)
            self.known[name, platform] = _base(name, image)

    def know(self, name: str, platform: Platform) -> None:
        """Make an image of the store known."""
        self.known[name, str(platform)] = _base(name, self._context.images.get(name, platform))

    async def image(self, name: str, platform: Platform, sink: Sink) -> Image:
        """One image, found here or pulled."""
        self._loop = asyncio.get_running_loop()
        cancel = threading.Event()
        try:
            return await self._context.executors.bulk(self._one, name, platform, sink, cancel)
        finally:
            cancel.set()  # nobody waits for a pull any more

    async def credentials(self, reference: Reference) -> Credentials | None:
        """Those for an image's registry."""
        return await self._auth(reference)

    def any_here(self, names: Collection[str]) -> bool:
        """Whether one of these images is here."""
        for name in names:
            with suppress(CoveError):
                self._context.images.get(name)
                return True
        return False

    def _one(self, name: str, platform: Platform, sink: Sink, cancel: threading.Event) -> Image:
        if not self._pull:
            image = self._local(name, platform)
            if image is not None:
                return self._unpacked(image)
        reference = Reference.parse(name)
        try:
            self._context.distribution.pull(
                reference,
                platform=platform,
                credentials=self._asked(reference),
                progress=sink,
                cancel=cancel,
            )
        except CoveError as error:
            local = self._local(name, platform) if self._pull else None
            if local is not None and isinstance(error, NotFound):
                return self._unpacked(local)
            raise type(error)(f"failed to resolve source metadata for {reference.full}: {error.message}") from error
        return self._unpacked(self._context.images.get(reference.full, platform))

    def _local(self, name: str, platform: Platform) -> Image | None:
        try:
            image = self._context.images.get(name, platform)
        except CoveError:
            return None
        own = image.config.platform
        if own.architecture and best(platform, [(own, image)]) is None:
            return None
        return image

    def _unpacked(self, image: Image) -> Image:
        self._context.store.layers.ensure_unpacked(image)
        return image

    def _asked(self, reference: Reference) -> Credentials | None:
        """In a worker's thread, of somebody who lives on the loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(_coroutine(self._auth(reference)), self._loop).result()


def _base(name: str, image: Image) -> Base:
    return Base(
        reference=name,
        digest=image.manifest.digest,
        chain=image.top or "",
        config=image.config,
        raw_config=image.raw_config,
    )


async def _coroutine(found: Awaitable[Credentials | None]) -> Credentials | None:
    return await found
