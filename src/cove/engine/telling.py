"""Events about containers and images: who they name and what they carry with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from cove.engine.bridging import Message
from cove.engine.containers.registry import Container
from cove.engine.events import Events
from cove.errors import CoveError
from cove.image.distribution.seams import Images, StoredImage


def tell(events: Events, container: Container, action: str, **extra: str) -> None:
    """An event about a container, with its labels, image and name as attributes."""
    record = container.record
    events.emit(
        "container", action, record.id, {**record.config.labels, "image": record.image, "name": record.name, **extra}
    )


def tell_image(events: Events, action: str, image: StoredImage, name: str = "") -> None:
    """An event about an image, with its labels as attributes; the name that it was done to, else its identity."""
    events.emit("image", action, image.id, {**image.config.config.labels, "name": name or image.id})


def tell_travel(events: Events, images: Images, action: str, name: str) -> None:
    """An image came or went under a name, which is who the event is about."""
    try:
        labels = images.get(name).config.config.labels
    except CoveError:
        labels = {}
    events.emit("image", action, name, {**labels, "name": name})


async def after(messages: AsyncIterator[Message], tell: Callable[[], None]) -> AsyncIterator[Message]:
    """The messages of something done, and after a good end what there is to tell of it."""
    async for message in messages:
        yield message
    tell()
