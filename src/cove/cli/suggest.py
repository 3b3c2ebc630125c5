"""The known word that somebody most likely meant."""

from __future__ import annotations

from difflib import get_close_matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The closest of the known words, or "" when none is close."""
    found = get_close_matches(word, [*known], n=1, cutoff=0.6)
    return found[0] if found else ""
