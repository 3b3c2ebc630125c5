"""Events about containers: who they name and what they carry with them."""

from __future__ import annotations

from cove.engine.containers.registry import Container
from cove.engine.events import Events


def tell(events: Events, container: Container, action: str, **extra: str) -> None:
    """An event about a container, with its labels, image and name as attributes."""
    record = container.record
    events.emit(
        "container", action, record.id, {**record.config.labels, "image": record.image, "name": record.name, **extra}
    )
