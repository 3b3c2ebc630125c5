"""Events about containers and images: who they name and what they carry with them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from cove.engine.bridging import Message
from cove.engine.containers.registry import Container
from cove.engine.events import Events


def tell(events: Events, container: Container, action: str, **extra: str) -> None:
    """An event about a container, with its labels, image and name as attributes."""
    record = container.record
    events.emit(
        "container", action, record.id, {**record.config.labels, "image": record.image, "name": record.name, **extra}
    )


def tell_image(events: Events, action: str, identity: str, name: str) -> None:
    """An event about an image."""
    events.emit("image", action, identity, {"name": name})


async def tell_after(
    events: Events, messages: AsyncIterator[Message], action: str, name: str
) -> AsyncIterator[Message]:
    """The messages of something done with the image `name`, and after a good end the event."""
    async for message in messages:
        yield message
    tell_image(events, action, name, name)
