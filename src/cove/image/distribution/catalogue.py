"""A search at a registry: the repositories of its catalogue whose name has a word.

Only the distribution project's `_catalog` is asked, page after page; a registry without it (Docker Hub, most
hosted ones) cannot be searched this way, and that is said.
"""

from __future__ import annotations

import re

import msgspec

from cove.errors import CoveError, Unsupported
from cove.image.distribution.registry import Repository

_PAGES = 100
_NEXT = re.compile(r'<[^>]*\?([^>]*)>\s*;\s*rel="?next')
_MOST = 4 << 20


class _Catalogue(msgspec.Struct, frozen=True):
    repositories: tuple[str, ...] | None = None


def search(repository: Repository, word: str, most: int) -> list[str]:
    """Up to `most` names, in the registry's order. Raises Unsupported when it has no catalogue."""
    found: list[str] = []
    query = "n=1000"
    for _ in range(_PAGES):
        try:
            response = repository.ask(f"_catalog?{query}", "registry:catalog:*")
        except CoveError as error:
            raise _unsearchable(repository, error.message) from error
        raw = response.read(_MOST, decode_content=False)
        response.release_conn()
        if response.status != 200:
            raise _unsearchable(repository, f"it answers {response.status}")
        try:
            names = msgspec.json.decode(raw, type=_Catalogue).repositories or ()
        except msgspec.DecodeError as error:
            raise _unsearchable(repository, "it sent something else than a list") from error
        found += [name for name in names if word in name]
        onward = _NEXT.search(response.headers.get("Link", ""))
        if onward is None or len(found) >= most:
            break
        query = onward[1]
    return found[:most]


def _unsearchable(repository: Repository, why: str) -> Unsupported:
    return Unsupported(
        f"the registry {repository.place.domain} cannot be searched, for it shows no catalogue ({why}); name the "
        "image that you want and pull it"
    )
