"""The places that may have what a name stands for: mirrors in the administrator's order, then the registry.

    manifest, tags   each place in turn, until one answers
    blob             from the place that answered last, on at the next one from the byte where it broke off

What a place fails at, it is not asked for again before the others were. A sentence that tells of a
failure tells of every place that was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cove.errors import CoveError, Forbidden, NotFound, Unauthorized, Unavailable
from cove.image.distribution import transport as http
from cove.image.distribution.registry import Fetched, Repository
from cove.oci.image import Descriptor

T = TypeVar("T")

_ELSEWHERE = (Unavailable, NotFound, Forbidden, Unauthorized)
"""What another place may do better."""


class Sources:
    """Reads about one name; safe to use from several threads."""

    def __init__(self, repositories: Sequence[Repository], cancel: threading.Event | None) -> None:
        self.reference = repositories[0].reference
        self._repositories = list(repositories)
        self._cancel = cancel
        self._lock = threading.Lock()

    @property
    def anonymous(self) -> bool:
        """Whether the last resort is seen without credentials."""
        return self._repositories[-1].anonymous

    def manifest(self, which: str) -> Fetched:
        """The manifest or index at a tag or digest."""
        return self._first(lambda repository: repository.manifest(which))

    def manifest_beside(self, tag: str) -> Fetched:
        """The manifest at a tag that few images have; only the first place is asked for it."""
        return self._order()[0].manifest(tag)

    def tags(self) -> tuple[str, ...]:
        return self._first(lambda repository: repository.tags())

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """What is attached to the manifest `digest`."""
        return self._first(lambda repository: repository.referrers(digest))

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on; not verified yet, never too many."""
        failures: list[tuple[Repository, CoveError]] = []
        done = start
        for repository in self._order():
            try:
                for piece in repository.blob(blob, done):
                    done += len(piece)
                    yield piece
                return
            except _ELSEWHERE as error:
                http.check(self._cancel)
                failures.append((repository, error))
                self._last(repository)
        raise _all_failed(failures)

    def distrust(self) -> bool:
        """What the first place sent was wrong: ask it last from now on. False if there is no other."""
        with self._lock:
            self._repositories.append(self._repositories.pop(0))
            return len(self._repositories) > 1

    def _first(self, ask: Callable[[Repository], T]) -> T:
        failures: list[tuple[Repository, CoveError]] = []
        for repository in self._order():
            try:
                return ask(repository)
            except _ELSEWHERE as error:
                http.check(self._cancel)
                failures.append((repository, error))
        raise _all_failed(failures)

    def _order(self) -> list[Repository]:
        with self._lock:
            return list(self._repositories)

    def _last(self, repository: Repository) -> None:
        with self._lock:
            self._repositories.remove(repository)
            self._repositories.append(repository)


def _all_failed(failures: list[tuple[Repository, CoveError]]) -> CoveError:
    """The error of the last place asked, which is the registry itself, and what the others said."""
    *mirrors, (_, last) = failures
    if not mirrors:
        return last
    said = "; ".join(f"{repository.place.host}: {error.message}" for repository, error in mirrors)
    return type(last)(f"{last.message} (before that, {said})")
