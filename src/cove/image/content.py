"""The blobs: an OCI image layout that holds nothing which was not verified.

    image/
    ├── oci-layout                  {"imageLayoutVersion": "1.0.0"}
    ├── index.json                  names → manifests; owned by `cove.image.images`
    ├── blobs/<algorithm>/<hex>     what the digest says, complete and on disk
    ├── ingest/<random>             blobs that are still being written; emptied at start
    └── partial/<algorithm>-<hex>   downloads that broke off (`cove.image.arrival`); kept for a day

A blob is born in one order: written to `ingest`, its digest and length compared, fsynced, renamed to
its name, the directory fsynced. So a name never points at what was not verified, whoever dies when.
Two writers of one blob do not disturb each other: the second rename replaces equal bytes.

This module never knows what a blob means, and never decides which are garbage.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from cove.errors import Internal, InvalidArgument, NotFound, describe
from cove.image.arrival import Arrival, arriving, forget_old
from cove.oci import digest as digests
from cove.store.files import sync_directory, write_all, write_atomic

T = TypeVar("T")

_CHUNK = 1 << 20
_GRACE = 3600.0
_ALGORITHMS = ("sha256", "sha512")
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Readable(Protocol):
    """What `ingest` needs of a file."""

    def read(self, size: int, /) -> bytes: ...


class Derived(Protocol):
    """Blobs that are nowhere stored because they can be made again: built layers' archives."""

    def length(self, digest: str) -> int | None: ...

    def pieces(self, digest: str) -> Iterator[bytes]: ...


class ContentStore:
    """Blobs by digest, in the layout at `root`; safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        self._partial = root / "partial"
        self._wanted: dict[str, float] = {}
        self._kept: list[set[str]] = []
        self.admit: Callable[[int], None] = lambda size: None
        """Asked before a blob of so many bytes (0: unknown) comes in; raises when there is no room for it."""
        self.derived: Derived | None = None
        self.stable = threading.RLock()
        """Held while garbage is collected, and by whoever must not see something vanish that it was just told of."""
        for directory in (*(self._blobs / name for name in _ALGORITHMS), self._ingest, self._partial):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._ingest.iterdir():
            leftover.unlink()
        forget_old(self._partial)
        if not (root / "oci-layout").exists():
            write_atomic(root / "oci-layout", _LAYOUT, mode=0o644)

    def path(self, digest: str) -> Path:
        """Where the blob lies if it is there; InvalidArgument for what is no digest."""
        algorithm, digits = digests.parse(digest)
        return self._blobs / algorithm / digits

    def has(self, digest: str) -> bool:
        """Whether the blob is there; if so it stays for a while, because somebody counts on it."""
        with self.stable:
            self._wanted[digest] = time.monotonic()
            return self.path(digest).is_file() or self._derivable(digest) is not None

    def exists(self, digest: str) -> bool:
        """Whether the blob is there, asked by somebody who does not count on it."""
        return self.path(digest).is_file() or self._derivable(digest) is not None

    def wanted(self) -> set[str]:
        """Blobs that were stored or asked for lately: an image that is still being put together needs them."""
        oldest = time.monotonic() - _GRACE
        lately = {digest for digest, since in list(self._wanted.items()) if since > oldest}
        return lately.union(*self._kept)

    @contextmanager
    def keeping(self) -> Iterator[set[str]]:
        """Within, no garbage is made of the blobs that are put into the set."""
        kept: set[str] = set()
        self._kept.append(kept)
        try:
            yield kept
        finally:
            self._kept = [each for each in self._kept if each is not kept]
            for digest in kept:
                self._wanted.pop(digest, None)

    def settled(self, blobs: Iterable[str]) -> None:
        """These blobs belong to a named image now, which alone decides how long they stay."""
        for digest in blobs:
            self._wanted.pop(digest, None)

    def mark(self, digest: str) -> float:
        """What changes when somebody stores the blob, asks for it, or gives it a name."""
        return self._wanted.get(digest, 0.0)

    def abandon(self, marks: Mapping[str, float]) -> None:
        """These blobs were stored in vain: delete those whose mark is what it was then."""
        with self.stable:
            for digest, mark in marks.items():
                if self._wanted.get(digest) == mark and not any(digest in kept for kept in self._kept):
                    del self._wanted[digest]
                    self.delete(digest)

    def size(self, digest: str) -> int:
        """Its length in bytes, or NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            if (length := self._derivable(digest)) is not None:
                return length
            raise _missing(digest) from error

    def _derivable(self, digest: str) -> int | None:
        return self.derived.length(digest) if self.derived is not None else None

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading, or NotFound; it stays readable even if it is deleted meanwhile."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            length = self._derivable(digest)
            if length is None or self.derived is None:
                raise _missing(digest) from error
        self.ingest(self.derived.pieces(digest), expected=digest, size=length)
        return self.path(digest).open("rb")

    def read(self, digest: str) -> bytes:
        """The whole blob, verified once more: for documents that decisions rest on.

        A blob that no longer is what its name says is set aside (`<name>.damaged`), so that the next
        pull fetches it anew.
        """
        with self.open(digest) as file:
            data = file.read()
        if not digests.matches(data, digest):
            path = self.path(digest)
            path.replace(path.with_suffix(".damaged"))
            raise Internal(f"the stored blob {digest} is damaged and was set aside; pull or load its image again")
        return data

    def ingest(
        self, stream: Iterable[bytes] | Readable, *, expected: str | None = None, size: int | None = None
    ) -> str:
        """Store what `stream` gives and return its digest.

        `expected` and `size`, where given, must agree, else InvalidArgument and nothing is stored.
        The host's failures (a full disk) are Internal; the stream's own errors pass through.
        """
        self.admit(size or 0)
        hasher = digests.Verifier(expected) if expected else _Hasher()
        temporary = self._ingest / secrets.token_hex(8)
        descriptor = _storing(os.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                for chunk in _chunks(stream):
                    hasher.update(chunk)
                    if size is None:
                        self.admit(hasher.length)
                    if size is not None and hasher.length > size:
                        raise InvalidArgument(f"the blob {expected or ''} is longer than the {size} bytes announced")
                    _storing(write_all, descriptor, chunk)
                _check(hasher, expected, size)
                _storing(os.fsync, descriptor)
            finally:
                os.close(descriptor)
            destination = self.path(hasher.actual)
            self._wanted[hasher.actual] = time.monotonic()
            temporary.replace(destination)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(destination.parent)
        return hasher.actual

    def adopt(self, path: Path, digest: str) -> None:
        """Name a complete file of the store's own file system, whose digest the caller has compared."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            destination = self.path(digest)
            path.replace(destination)
            sync_directory(destination.parent)
        except OSError as error:
            raise Internal(f"cannot store a blob: {describe(error)}") from error

    @contextmanager
    def arrival(self, digest: str, size: int) -> Iterator[Arrival]:
        """Store a blob that comes from far away; what came of it is kept when the way breaks off.

        One arrival of a digest at a time.
        """
        self.admit(size)
        self._wanted[digest] = time.monotonic()
        with arriving(self._partial, digest, size, self.path(digest)) as arrival:
            yield arrival
        self._wanted[digest] = time.monotonic()

    def partial(self) -> int:
        """The bytes of downloads that broke off and may go on."""
        total = 0
        for path in self._partial.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
        return total

    def note_use(self, digest: str) -> None:
        """Remember, on disk, that the blob was used now."""
        with suppress(OSError):
            os.utime(self.path(digest))

    def used(self, digest: str) -> float:
        """When it was noted to be used, or stored; Unix seconds."""
        try:
            return self.path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def put(self, data: bytes) -> str:
        """Store a document made here and return its digest."""
        digest = digests.of(data)
        return digest if self.has(digest) else self.ingest([data], expected=digest, size=len(data))

    def delete(self, digest: str) -> None:
        """Forget the blob; it is no error if there is none."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Every blob there is, in no order."""
        for algorithm in _ALGORITHMS:
            for entry in (self._blobs / algorithm).iterdir():
                if digests.is_digest(name := f"{algorithm}:{entry.name}"):
                    yield name


class _Hasher:
    """A verifier without an expectation."""

    def __init__(self) -> None:
        self.length = 0
        self._hash = hashlib.sha256()

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.length += len(data)

    @property
    def actual(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def _chunks(stream: Iterable[bytes] | Readable) -> Iterator[bytes]:
    read = getattr(stream, "read", None)
    if read is None:
        yield from stream  # type: ignore[misc]
        return
    while chunk := read(_CHUNK):
        yield chunk


def _check(hasher: digests.Verifier | _Hasher, expected: str | None, size: int | None) -> None:
    if size is not None and hasher.length != size:
        raise InvalidArgument(
            f"the blob {expected or ''} is {hasher.length} bytes long but {size} were announced: it was cut off"
        )
    if expected is not None and hasher.actual != expected:
        raise InvalidArgument(f"the content does not match its digest: expected {expected}, got {hasher.actual}")


def _storing(call: Callable[..., T], *arguments: object) -> T:
    """Call the host's file system; its refusal is Internal, told apart from the stream's own errors."""
    try:
        return call(*arguments)
    except OSError as error:
        raise Internal(f"cannot store a blob: {describe(error)}") from error


def _missing(digest: str) -> NotFound:
    return NotFound(f"the blob {digest} is not in the store")
