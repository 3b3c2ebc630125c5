"""Blobs on their way in.

    uploads/<random>     the bytes that came so far, in order; emptied at start

    begin ─▶ append, append, … ─▶ finish: digest compared, renamed into the store
                               └▶ cancel, or nobody came back for a day: the bytes go

An upload belongs to the repository that it was begun in. Its digest is computed while the bytes come, so
that finishing costs no second reading.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from cove.errors import Internal, describe
from cove.oci import digest as digests
from cove.registry import refusals
from cove.store.files import write_all

_KEPT_SECONDS = 86400.0
_READ = 1 << 20
_NOTHING = {"sha256": "sha256:" + "0" * 64, "sha512": "sha512:" + "0" * 128}


class Room:
    """How many bytes there are and may be; `limit` 0 is no limit."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.taken = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Raises Refused when there is not so much room."""
        with self._lock:
            if self.limit and self.taken + count > self.limit:
                raise refusals.quota_exceeded(self.limit, "this registry")
            self.taken += count

    def give(self, count: int) -> None:
        with self._lock:
            self.taken -= count


class Upload:
    """One blob on its way; `lock` is held by the request that is sending."""

    def __init__(self, identity: str, repository: str, path: Path, algorithm: str, room: Room) -> None:
        self.identity = identity
        self.repository = repository
        self.path = path
        self.lock = asyncio.Lock()
        self.touched = time.monotonic()
        self.length = 0
        self._room = room
        self._verifier = digests.Verifier(_NOTHING[algorithm])
        self._algorithm = algorithm
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise Internal(f"cannot begin an upload: {describe(error)}") from error

    def append(self, data: bytes) -> None:
        """The next bytes. Raises Refused (no room), Internal (the disk)."""
        self._room.take(len(data))
        try:
            write_all(self._fd, data)
        except OSError as error:
            self._room.give(len(data))
            os.ftruncate(self._fd, self.length)
            os.lseek(self._fd, self.length, os.SEEK_SET)
            raise Internal(f"cannot store the upload: {describe(error)}") from error
        self._verifier.update(data)
        self.length += len(data)
        self.touched = time.monotonic()

    def is_(self, digest: str) -> bool:
        """Whether what came is what `digest` names; of another algorithm than foreseen it is read again."""
        if digests.parse(digest)[0] == self._algorithm:
            return self._verifier.actual == digest
        verifier = digests.Verifier(digest)
        with self.path.open("rb") as file:
            while data := file.read(_READ):
                verifier.update(data)
        return verifier.agrees()

    def close(self, *, kept: bool) -> None:
        """The end: `kept` if its bytes are a blob now, else they go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not kept:
            self.path.unlink(missing_ok=True)
            self._room.give(self.length)
        self.length = 0


class Uploads:
    """All uploads of one registry."""

    def __init__(self, directory: Path, room: Room) -> None:
        self._directory = directory
        self._room = room
        self._found: dict[str, Upload] = {}
        directory.mkdir(mode=0o700, exist_ok=True)
        for leftover in directory.iterdir():
            leftover.unlink()

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Upload]:
        return iter(list(self._found.values()))

    def begin(self, repository: str, algorithm: str = "sha256") -> Upload:
        if algorithm not in _NOTHING:
            raise refusals.digest_invalid(f"{algorithm[:40]!r} digests are not supported: only sha256 and sha512 are")
        identity = str(uuid.uuid4())
        upload = Upload(identity, repository, self._directory / identity, algorithm, self._room)
        self._found[identity] = upload
        return upload

    def get(self, repository: str, identity: str) -> Upload:
        """Raises Refused for one that is not there, or another repository's."""
        upload = self._found.get(identity)
        if upload is None or upload.repository != repository:
            raise refusals.upload_unknown(identity)
        return upload

    def end(self, upload: Upload, *, kept: bool) -> None:
        """Forget the upload; its bytes go unless they are `kept` as a blob."""
        if self._found.pop(upload.identity, None) is not None:
            upload.close(kept=kept)

    def forget_idle(self) -> int:
        """End those that nobody came back for within a day; how many they were."""
        oldest = time.monotonic() - _KEPT_SECONDS
        idle = [upload for upload in self if upload.touched < oldest and not upload.lock.locked()]
        for upload in idle:
            self.end(upload, kept=False)
        return len(idle)
