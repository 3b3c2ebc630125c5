"""The builds that ended, as they are remembered across the daemon's lives: a table in its one database.

    build_history  ref ─▶ when it ended · whether it is pinned · the record · its progress (compressed)

The newest are kept, as many and as long as the bounds below say; pinned ones go last. Of one that a daemon did not
live to see the end of, nothing is remembered.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

from cove.buildkit.messages.control import BuildHistoryRecord, StatusResponse
from cove.errors import NotFound
from cove.grpc.protobuf import decode, encode
from cove.oci.image import Descriptor
from cove.store.database import Database

_MOST = 100
_MOST_BYTES = 64 << 20
_OLDEST_NS = 30 * 24 * 3600 * 10**9


class Record(msgspec.Struct, frozen=True):
    """One build as it is told; without `ended_ns` it runs.

    `result`: what came of it, if an image did. `error`: the status of one that failed with all its details, encoded.
    """

    told: BuildHistoryRecord
    began_ns: int
    ended_ns: int = 0
    result: Descriptor | None = None
    error: bytes = b""

    @property
    def ref(self) -> str:
        return self.told.ref


class _Stored(msgspec.Struct, frozen=True):
    """A record as it lies in the table."""

    told: bytes
    began_ns: int
    ended_ns: int
    result: Descriptor | None = None
    error: bytes = b""


class Records:
    """The table; used from one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, record: Record, progress: bytes) -> list[str]:
        """Remember a build that ended, its `progress` as `packed` makes it; the refs that are forgotten for it."""
        stored = _Stored(encode(record.told), record.began_ns, record.ended_ns, record.result, record.error)
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO build_history (ref, ended_ns, pinned, record, progress) "
                "VALUES (?, ?, ?, ?, ?)",
                (record.ref, record.ended_ns, record.told.pinned, msgspec.json.encode(stored), progress),
            )
            doomed = list(self._beyond(record.ended_ns))
            for ref in doomed:
                self._database.execute("DELETE FROM build_history WHERE ref = ?", (ref,))
        return doomed

    def _beyond(self, now_ns: int) -> Iterator[str]:
        """What is too much or too old; the newest stays in any case."""
        rows = self._database.rows(
            "SELECT ref, ended_ns, pinned, length(record) + length(progress) FROM build_history "
            "ORDER BY pinned DESC, ended_ns DESC"
        )
        newest = max(ended for _, ended, _, _ in rows)
        room = 0
        for place, (ref, ended, pinned, size) in enumerate(rows):
            room += size
            old = now_ns - ended > _OLDEST_NS and not pinned
            if (place >= _MOST or room > _MOST_BYTES or old) and ended != newest:
                yield str(ref)

    def all(self) -> list[Record]:
        """Everything, the newest first."""
        rows = self._database.rows("SELECT record, pinned FROM build_history ORDER BY ended_ns DESC")
        return [_read(*row) for row in rows]

    def get(self, ref: str) -> Record | None:
        """One of them; None when it is not remembered."""
        rows = self._database.rows("SELECT record, pinned FROM build_history WHERE ref = ?", (ref,))
        return _read(*rows[0]) if rows else None

    def progress(self, ref: str) -> list[StatusResponse] | None:
        """What was told of a build while it ran; None when it is not remembered."""
        rows = self._database.rows("SELECT progress FROM build_history WHERE ref = ?", (ref,))
        return unpacked(rows[0][0]) if rows else None

    def pin(self, ref: str, pinned: bool) -> None:
        """Whether it shall be forgotten last. Raises NotFound."""
        self._known(ref)
        self._database.execute("UPDATE build_history SET pinned = ? WHERE ref = ?", (pinned, ref))

    def forget(self, ref: str) -> None:
        """Remember it no longer. Raises NotFound."""
        self._known(ref)
        self._database.execute("DELETE FROM build_history WHERE ref = ?", (ref,))

    def _known(self, ref: str) -> None:
        if not self._database.rows("SELECT 1 FROM build_history WHERE ref = ?", (ref,)):
            raise NotFound(f"no build {ref} that ended is remembered")


def packed(news: list[StatusResponse]) -> bytes:
    """A build's progress as bytes: messages with their lengths, compressed."""
    pieces = [encode(each) for each in news]
    return zlib.compress(b"".join(len(each).to_bytes(4, "big") + each for each in pieces), 1)


def unpacked(data: bytes) -> list[StatusResponse]:
    """As `packed` made them."""
    whole, found, at = zlib.decompress(data), [], 0
    while at < len(whole):
        end = at + 4 + int.from_bytes(whole[at : at + 4], "big")
        found.append(decode(StatusResponse, whole[at + 4 : end]))
        at = end
    return found


def _read(stored: bytes, pinned: int) -> Record:
    found = msgspec.json.decode(stored, type=_Stored)
    told = msgspec.structs.replace(decode(BuildHistoryRecord, found.told), pinned=bool(pinned))
    return Record(told, found.began_ns, found.ended_ns, found.result, found.error)
