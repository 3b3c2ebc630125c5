"""The one database: what the user asked for, as documents with a key.

Owns the connection, the schema and its migrations, and the promise that a write is one small
transaction. It never interprets a document: those who own the nouns encode and decode them.

    put / delete ──▶ WAL (no fsync)      survives the death of the daemon at any instruction
    checkpoint   ──▶ database (fsync)    now and then, from a background thread, and after many writes (`grown`)

Synchronous NORMAL with a WAL means that a power failure may lose the last moments but never damages the
database (sqlite.org/pragma.html#pragma_synchronous). The automatic checkpoint is off because its fsync
would hold up whoever happened to commit.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from cove.errors import Internal

_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE facts      (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE networks   (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE volumes    (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE settings   (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE build_cache (key TEXT PRIMARY KEY, chain TEXT NOT NULL, parent TEXT NOT NULL, title TEXT NOT NULL,
        size INTEGER NOT NULL, created_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL, uses INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE build_places  (place TEXT PRIMARY KEY, parts BLOB NOT NULL, noted_ns INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE build_digests (tree TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE build_archives (name TEXT PRIMARY KEY, used_ns INTEGER NOT NULL, found BLOB NOT NULL);
    CREATE INDEX build_archives_used ON build_archives (used_ns);
    CREATE INDEX build_places_noted ON build_places (noted_ns);
    """,
    """
    CREATE TABLE projects (id INTEGER PRIMARY KEY, size INTEGER NOT NULL);
    """,
    """
    CREATE TABLE build_history (ref TEXT PRIMARY KEY, ended_ns INTEGER NOT NULL, pinned INTEGER NOT NULL,
        record BLOB NOT NULL, progress BLOB NOT NULL);
    """,
)
"""Step n brings a database from version n to n + 1; a step is never edited once it was released."""

_DURABLE_PAGES = 1000
_MANY_WRITES = 1000
_LONG_WAL = 4 << 20


def is_begun(path: Path) -> bool:
    """Whether the database at `path`, its log included, holds anything of ours; one that is damaged may."""
    if not path.exists() or not path.stat().st_size:
        return False
    reading = f"{path.absolute().as_uri()}?mode=ro"  # which moves nothing of the log
    with suppress(sqlite3.Error), closing(sqlite3.connect(reading, uri=True)) as connection:
        return bool(connection.execute("PRAGMA user_version").fetchone()[0])
    return True


class Database:
    """A connection that any thread may use, one at a time."""

    def __init__(self, path: Path, migrations: Sequence[str] = _MIGRATIONS, *, durable: bool = False) -> None:
        """Open or make the database at `path`; raises Internal when it is damaged or from the future.

        `durable`: what was written survives a power failure too (an fsync for each transaction).
        """
        self._path = path
        self._migrations = migrations
        self._lock = threading.RLock()
        self._writes = 0
        self.grown: Callable[[], object] = lambda: None
        """Called, in whatever thread, when there was so much written that a checkpoint is due."""
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint={_DURABLE_PAGES if durable else 0}")
            self._connection.execute("PRAGMA busy_timeout=5000")
            self._migrate()
        except sqlite3.Error as error:
            raise Internal(
                f"The database {path} cannot be opened ({error}); restore it from a backup, or move its whole "
                "directory aside to begin anew"
            ) from error

    def _migrate(self) -> None:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(self._migrations):
            raise Internal(
                f"The database {self._path} has version {version}, written by a newer Cove than this one, "
                f"which knows {len(self._migrations)}; install the newer version again"
            )
        for number in range(version, len(self._migrations)):
            with self.transaction():
                for statement in self._migrations[number].split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={number + 1}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes: all of them happen or none. Not to be nested. Raises Internal (a full disk, say)."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
                self._count()
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise Internal(
                        f"The database {self._path} refuses a write ({error}); is its disk full?"
                    ) from error
                raise

    def execute(self, statement: str, values: Sequence[object] = ()) -> None:
        """One write, a transaction of its own unless one is open. Raises Internal (a full disk, say)."""
        try:
            with self._lock:
                self._connection.execute(statement, values)
                self._count()
        except sqlite3.Error as error:
            raise Internal(f"The database {self._path} refuses a write ({error}); is its disk full?") from error

    def _count(self) -> None:
        self._writes += 1
        if self._writes >= _MANY_WRITES:
            self._writes = 0
            self.grown()

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Everything that a query finds."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def checkpoint(self) -> None:
        """Move the WAL into the database and to the disk. Slow; uses a connection of its own.

        Who writes all the time never lets it begin anew. So a long one is emptied: whoever writes then waits while
        the little is moved that came meanwhile.
        """
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.execute("PRAGMA busy_timeout=5000")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if os.path.getsize(f"{self._path}-wal") > _LONG_WAL:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()

    def close(self) -> None:
        """Checkpoint and let go of the file; the last connection's close removes the WAL."""
        with self._lock:
            self._connection.close()
