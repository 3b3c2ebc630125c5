"""Which images of a list, and which platform, were asked for. Pure but for the look at images that a filter names."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec

from cove.engine.images.view import created_ns
from cove.errors import InvalidArgument
from cove.image.images import Image, Images
from cove.oci.platform import Platform
from cove.oci.reference import Reference
from cove.wire.filters import Filters
from cove.wire.times import moment


def wanted(image: Image, filters: Filters, images: Images) -> bool:
    """Whether an image passes every filter. Raises NotFound for an image that before or since names."""
    dangling = filters.flag("dangling")
    labels = image.config.config.labels
    created = created_ns(image.created)
    return (
        (dangling is None or dangling != bool(image.names))
        and filters.labels(labels)
        and not ("label!" in filters and filters.labels(labels, "label!"))
        and all(created < created_ns(images.get(ref).created) for ref in filters.get("before"))
        and all(created > created_ns(images.get(ref).created) for ref in filters.get("since"))
        and all(created < moment(at, now_ns=time.time_ns()) for at in filters.get("until"))
        and _referenced(image, filters.get("reference"))
    )


def narrowed(image: Image, patterns: tuple[str, ...]) -> Image:
    """The image under those names only that were asked for."""
    if not patterns:
        return image
    return msgspec.structs.replace(
        image,
        names=tuple(name for name in image.names if _fits(name, patterns)),
        repo_digests=tuple(name for name in image.repo_digests if _fits(name, patterns)),
    )


def check_patterns(patterns: Iterable[str]) -> None:
    """Refuse a pattern whose bracket is never closed. Raises InvalidArgument."""
    for pattern in patterns:
        rest = pattern
        while "[" in rest:
            rest = rest.partition("[")[2]
            if "]" not in rest[1:]:
                raise InvalidArgument(f"syntax error in pattern: {pattern!r} opens a bracket and does not close it")
            rest = rest[1:].partition("]")[2]


def _referenced(image: Image, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(_fits(name, patterns) for name in (*image.names, *image.repo_digests))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns "repo", "repo:tag", with * and ?, which do not stand for a slash.

    Short and full names count: "busybox" and "docker.io/library/busybox".
    """
    reference = Reference.parse(name)
    spellings = (reference.familiar, reference.familiar_name, reference.full, reference.name)
    return any(_matches(spelling, pattern) for pattern in patterns for spelling in spellings)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def asked_platform(text: str) -> Platform | None:
    """What a client writes: "linux/arm64", or the JSON object of newer ones; None for nothing."""
    if not text.startswith("{"):
        return Platform.parse(text) if text else None
    try:
        return msgspec.json.decode(text, type=Platform).normalised()
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the platform is not in order: {error}") from error


def asked_platforms(texts: Sequence[str]) -> list[Platform]:
    """The same for a repeated parameter."""
    return [platform for text in texts if (platform := asked_platform(text))]
