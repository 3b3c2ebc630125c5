"""What is known of finished steps: from a key by content to the layer that it made, across restarts.

    build_cache   key ─▶ chain id of the result · size · when it was made and last used · what people call it
    build_places  place of a step in a file ─▶ the parts of its last key, to say why it runs again
    build_digests (tree, selection) ─▶ digest of the selected files
    build_archives  digest of a context's archive, and a question ─▶ what its unpacking showed

A record is believed only while its layer is there. Owns which layers the cache keeps from being collected.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from cove.build.solver import Key
from cove.store.database import Database

_MAX_PLACES = 5000
_TRIM = 256
"""After how many notes it is looked whether there are too many."""
_MAX_ARCHIVES = 1000
_FRESH_NS = 3600 * 10**9
"""How old a note of a use may be before it is written again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One finished step. Times in nanoseconds."""

    key: str
    chain: str
    parent: str
    title: str
    size: int
    created_ns: int
    used_ns: int
    uses: int


class BuildCache:
    """The tables, over the daemon's one database; used from one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted = 0

    def chains(self) -> set[str]:
        """Layers that finished steps made."""
        return {chain for (chain,) in self._database.rows("SELECT DISTINCT chain FROM build_cache")}

    def get(self, key: str) -> tuple[str, int] | None:
        """The chain id under a key and when it was made; asking is using."""
        found = self._database.rows("SELECT chain, created_ns FROM build_cache WHERE key = ?", (key,))
        if not found:
            return None
        self._database.execute(
            "UPDATE build_cache SET used_ns = ?, uses = uses + 1 WHERE key = ?", (time.time_ns(), key)
        )
        return str(found[0][0]), int(found[0][1])

    def put(self, key: str, chain: str, *, parent: str, title: str, size: int, now: int) -> None:
        """Remember a finished step."""
        self._database.execute(
            "INSERT OR REPLACE INTO build_cache (key, chain, parent, title, size, created_ns, used_ns, uses) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            (key, chain, parent, title, size, now, now),
        )

    def records(self) -> list[Record]:
        """Everything, the longest unused first."""
        rows = self._database.rows(
            "SELECT key, chain, parent, title, size, created_ns, used_ns, uses FROM build_cache ORDER BY used_ns"
        )
        return [Record(*row) for row in rows]

    def forget(self, key: str) -> None:
        self._database.execute("DELETE FROM build_cache WHERE key = ?", (key,))

    def forget_digests(self) -> None:
        """Forget what can be found out again: digests of files in layers, and what is told of earlier builds."""
        with self._database.transaction():
            self._database.execute("DELETE FROM build_archives")
            self._database.execute("DELETE FROM build_digests")
            self._database.execute("DELETE FROM build_places")

    # Why a step runs again

    def last(self, place: str) -> dict[str, str] | None:
        """The parts of the key that the step at `place` had last; None when it never ran."""
        found = self._database.rows("SELECT parts FROM build_places WHERE place = ?", (place,))
        return _unpack(found[0][0], dict[str, str]) if found else None

    def note(self, place: str, key: Key) -> None:
        """Remember what a step's key was made of."""
        packed = _pack(key.parts)
        now = time.time_ns()
        found = self._database.rows("SELECT parts, noted_ns FROM build_places WHERE place = ?", (place,))
        if found and found[0][0] == packed and now - found[0][1] < _FRESH_NS:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO build_places (place, parts, noted_ns) VALUES (?, ?, ?)", (place, packed, now)
        )
        self._noted += 1
        if self._noted % _TRIM == 0:
            self._database.execute(
                "DELETE FROM build_places WHERE place IN "
                "(SELECT place FROM build_places ORDER BY noted_ns DESC LIMIT -1 OFFSET ?)",
                (_MAX_PLACES,),
            )

    # What contexts' archives hold, by their digests

    def same(self, name: str) -> str | None:
        """What an archive is called if times do not count."""
        packed = self._archive(f"same {name}")
        return None if packed is None else packed.decode()

    def keep_same(self, name: str, same: str) -> None:
        self._keep_archive(f"same {name}", same.encode())

    def recipe(self, name: str) -> tuple[bytes, tuple[str, ...]] | None:
        """The Dockerfile of an archive, and what its ignore file says."""
        packed = self._archive(f"recipe {name}")
        return None if packed is None else _unpack(packed, tuple[bytes, tuple[str, ...]])

    def keep_recipe(self, name: str, dockerfile: bytes, ignore: tuple[str, ...]) -> None:
        self._keep_archive(f"recipe {name}", _pack((dockerfile, ignore)))

    def selection(self, name: str) -> tuple[str, list[list[str]]] | None:
        """The digest of a selection of an archive's files, and each file's."""
        packed = self._archive(f"selection {name}")
        return None if packed is None else _unpack(packed, tuple[str, list[list[str]]])

    def keep_selection(self, name: str, digest: str, files: list[list[str]]) -> None:
        self._keep_archive(f"selection {name}", _pack((digest, files)))

    def _archive(self, name: str) -> bytes | None:
        found = self._database.rows("SELECT found, used_ns FROM build_archives WHERE name = ?", (name,))
        if not found:
            return None
        now = time.time_ns()
        if now - found[0][1] > _FRESH_NS:
            self._database.execute("UPDATE build_archives SET used_ns = ? WHERE name = ?", (now, name))
        return bytes(found[0][0])

    def _keep_archive(self, name: str, packed: bytes) -> None:
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO build_archives (name, used_ns, found) VALUES (?, ?, ?)",
                (name, time.time_ns(), packed),
            )
            self._database.execute(
                "DELETE FROM build_archives WHERE rowid IN "
                "(SELECT rowid FROM build_archives ORDER BY used_ns DESC LIMIT -1 OFFSET ?)",
                (_MAX_ARCHIVES,),
            )

    # Digests of files in layers, which never change

    def digest(self, tree: str) -> str | None:
        found = self._database.rows("SELECT digest FROM build_digests WHERE tree = ?", (tree,))
        return str(found[0][0]) if found else None

    def moment(self, name: str, now: int) -> int:
        """When a configuration was first made: the same again has the same time, and so the same identity."""
        self._database.execute(
            "INSERT OR IGNORE INTO build_digests (tree, digest) VALUES (?, ?)", (f"moment {name}", str(now))
        )
        return int(self.digest(f"moment {name}") or now)

    def known(self, name: str) -> bool:
        """Whether a line that makes no layer was in an earlier build; it is from now on."""
        if self.digest(f"line {name}") is not None:
            return True
        self.keep_digest(f"line {name}", "")
        return False

    def keep_digest(self, tree: str, digest: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO build_digests (tree, digest) VALUES (?, ?)", (tree, digest))


def _pack(value: object) -> bytes:
    return zlib.compress(msgspec.json.encode(value), 1)


def _unpack(packed: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(zlib.decompress(packed), type=kind)
