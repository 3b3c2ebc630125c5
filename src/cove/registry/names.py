"""The grammar of repositories' names, tags and digests in the distribution API."""

from __future__ import annotations

import re

from cove.errors import InvalidArgument
from cove.oci import digest as digests
from cove.registry import refusals

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_LONGEST = 255


def repository(text: str) -> str:
    """`text` if it can name a repository."""
    if len(text) > _LONGEST or _NAME.fullmatch(text) is None:
        raise refusals.name_invalid(text)
    return text


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def digest(text: str) -> str:
    """`text` if it is a digest that can be verified."""
    try:
        return digests.check(text)
    except InvalidArgument as error:
        raise refusals.digest_invalid(error.message) from None


def tag_or_digest(text: str) -> str:
    """`text` if it can name a manifest."""
    if ":" in text:
        return digest(text)
    if not is_tag(text):
        raise refusals.manifest_invalid(f"{text[:150]!r} is neither a tag nor a digest")
    return text
