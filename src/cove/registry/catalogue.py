"""Which repository has what: manifests, tags, blobs, and what refers to what.

    repositories ──< manifests ──< tags
         │               └──────< edges (what a manifest needs: configuration, layers, an index's manifests)
         └──────────< blobs      (a repository's own right to a blob of the common store)

A blob lies in the store once, however many repositories have it; a repository shows only what it has
itself. Every change is one transaction on disk. Times are Unix seconds. Reads go through a connection of
their own, so that none waits for a write's fsync.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cove.registry import clock
from cove.store.database import Database

_MIGRATIONS = (
    """
    CREATE TABLE repositories (name TEXT PRIMARY KEY, created REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE manifests (
        repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
        subject TEXT NOT NULL, artifact_type TEXT NOT NULL, annotations TEXT NOT NULL,
        pushed REAL NOT NULL, used REAL NOT NULL, PRIMARY KEY (repository, digest)) WITHOUT ROWID;
    CREATE INDEX manifests_by_subject ON manifests (repository, subject) WHERE subject != '';
    CREATE INDEX manifests_by_digest ON manifests (digest);
    CREATE TABLE tags (
        repository TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, changed REAL NOT NULL,
        checked REAL NOT NULL, PRIMARY KEY (repository, name)) WITHOUT ROWID;
    CREATE INDEX tags_by_digest ON tags (repository, digest);
    CREATE TABLE blobs (
        repository TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL,
        PRIMARY KEY (repository, digest)) WITHOUT ROWID;
    CREATE INDEX blobs_by_digest ON blobs (digest);
    CREATE TABLE edges (
        repository TEXT NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
        PRIMARY KEY (repository, manifest, digest)) WITHOUT ROWID;
    CREATE INDEX edges_by_digest ON edges (repository, digest)
    """,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest as a repository has it; `annotations` is JSON, `subject` a digest or ""."""

    digest: str
    media_type: str
    size: int
    subject: str = ""
    artifact_type: str = ""
    annotations: str = "{}"


@dataclass(frozen=True, slots=True)
class Tag:
    """`changed`: when it was moved last; `checked`: when its upstream was asked last."""

    name: str
    digest: str
    changed: float
    checked: float


_ENTRY = "digest, media_type, size, subject, artifact_type, annotations"


class Catalogue:
    """Reads from the event loop's thread, writes from any."""

    def __init__(self, path: Path) -> None:
        self._write = Database(path, _MIGRATIONS, durable=True)
        self._read = Database(path, _MIGRATIONS)

    def close(self) -> None:
        self._read.close()
        self._write.close()

    # ── what is there ─────────────────────────────────────────────────────────────────────────────

    def has_repository(self, name: str) -> bool:
        return bool(self._read.rows("SELECT 1 FROM repositories WHERE name = ?", (name,)))

    def repositories(self, *, after: str = "", most: int = -1) -> list[str]:
        rows = self._read.rows("SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?", (after, most))
        return [str(name) for (name,) in rows]

    def tags(self, repository: str, *, after: str = "", most: int = -1) -> list[Tag]:
        """In ASCII order, those that come after `after`."""
        rows = self._read.rows(
            "SELECT name, digest, changed, checked FROM tags WHERE repository = ? AND name > ? ORDER BY name LIMIT ?",
            (repository, after, most),
        )
        return [Tag(*row) for row in rows]

    def tag(self, repository: str, name: str) -> Tag | None:
        rows = self._read.rows(
            "SELECT name, digest, changed, checked FROM tags WHERE repository = ? AND name = ?", (repository, name)
        )
        return Tag(*rows[0]) if rows else None

    def manifest(self, repository: str, digest: str) -> Entry | None:
        rows = self._read.rows(
            f"SELECT {_ENTRY} FROM manifests WHERE repository = ? AND digest = ?", (repository, digest)
        )
        return Entry(*rows[0]) if rows else None

    def referrers(self, repository: str, subject: str, artifact_type: str = "") -> list[Entry]:
        rows = self._read.rows(
            f"SELECT {_ENTRY} FROM manifests WHERE repository = ? AND subject = ? AND subject != '' "
            "AND (? = '' OR artifact_type = ?) ORDER BY pushed, digest",
            (repository, subject, artifact_type, artifact_type),
        )
        return [Entry(*row) for row in rows]

    def blob(self, repository: str, digest: str) -> int | None:
        """The size of a blob that the repository has; a manifest's bytes count as one."""
        for table in ("blobs", "manifests"):
            rows = self._read.rows(
                f"SELECT size FROM {table} WHERE repository = ? AND digest = ?", (repository, digest)
            )
            if rows:
                return int(rows[0][0])
        return None

    def holder(self, digest: str) -> str | None:
        """Some repository that has the blob."""
        rows = self._read.rows("SELECT repository FROM blobs WHERE digest = ? LIMIT 1", (digest,))
        return str(rows[0][0]) if rows else None

    def needed_by(self, repository: str, digest: str) -> str | None:
        """A manifest of the repository that needs the blob."""
        rows = self._read.rows(
            "SELECT manifest FROM edges WHERE repository = ? AND digest = ? LIMIT 1", (repository, digest)
        )
        return str(rows[0][0]) if rows else None

    def announced(self, repository: str, digest: str) -> int | None:
        """The size that a manifest of the repository gives for what it needs."""
        rows = self._read.rows(
            "SELECT size FROM edges WHERE repository = ? AND digest = ? LIMIT 1", (repository, digest)
        )
        return int(rows[0][0]) if rows else None

    def room(self, repository: str) -> int:
        """The bytes of everything that a repository has."""
        (row,) = self._read.rows(
            "SELECT (SELECT coalesce(sum(size), 0) FROM blobs WHERE repository = ?1) "
            "+ (SELECT coalesce(sum(size), 0) FROM manifests WHERE repository = ?1)",
            (repository,),
        )
        return int(row[0])

    def counts(self) -> dict[str, int]:
        """How many rows each table has."""
        tables = ("repositories", "manifests", "tags", "blobs")
        return {table: int(self._read.rows(f"SELECT count(*) FROM {table}")[0][0]) for table in tables}

    # ── changes ───────────────────────────────────────────────────────────────────────────────────

    def add_blob(self, repository: str, digest: str, size: int) -> None:
        with self._write.transaction():
            self._add_repository(repository)
            self._write.execute(
                "INSERT INTO blobs VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = excluded.used",
                (repository, digest, size, clock.now()),
            )

    def add_manifest(self, repository: str, entry: Entry, needs: Mapping[str, int], tags: Iterable[str]) -> None:
        """A manifest, what it needs (digests and sizes) and its new tags, all at once.

        From now on the manifest alone decides how long the repository keeps the blobs.
        """
        now = clock.now()
        with self._write.transaction():
            self._add_repository(repository)
            self._write.execute(
                "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "media_type = excluded.media_type, pushed = excluded.pushed, used = excluded.used",
                (
                    repository,
                    entry.digest,
                    entry.media_type,
                    entry.size,
                    entry.subject,
                    entry.artifact_type,
                    entry.annotations,
                    now,
                    now,
                ),
            )
            for digest, size in needs.items():
                self._write.execute(
                    "INSERT OR IGNORE INTO edges VALUES (?, ?, ?, ?)", (repository, entry.digest, digest, size)
                )
                self._write.execute(
                    "UPDATE blobs SET used = 0 WHERE repository = ? AND digest = ?", (repository, digest)
                )
            for tag in tags:
                self._tag(repository, tag, entry.digest, now)

    def set_tag(self, repository: str, tag: str, digest: str) -> None:
        with self._write.transaction():
            self._tag(repository, tag, digest, clock.now())

    def remove_tag(self, repository: str, tag: str) -> None:
        self._write.execute("DELETE FROM tags WHERE repository = ? AND name = ?", (repository, tag))

    def remove_manifest(self, repository: str, digest: str) -> None:
        """The manifest and every tag that names it."""
        with self._write.transaction():
            self._remove_manifest(repository, digest)

    def remove_blob(self, repository: str, digest: str) -> None:
        self._write.execute("DELETE FROM blobs WHERE repository = ? AND digest = ?", (repository, digest))

    def used(self, blobs: Mapping[tuple[str, str], float], manifests: Mapping[tuple[str, str], float]) -> None:
        """When these (repository, digest) were asked for last."""
        with self._write.transaction():
            for table, found in (("blobs", blobs), ("manifests", manifests)):
                for (repository, digest), at in found.items():
                    self._write.execute(
                        f"UPDATE {table} SET used = max(used, ?) WHERE repository = ? AND digest = ?",
                        (at, repository, digest),
                    )

    # ── garbage ───────────────────────────────────────────────────────────────────────────────────

    def forget_blobs(self, before: float) -> list[tuple[str, str, int]]:
        """Take from repositories the blobs that no manifest of theirs needs and nobody asked for since.

        What was taken: (repository, digest, size).
        """
        where = (
            "used < ? AND NOT EXISTS (SELECT 1 FROM edges WHERE edges.repository = blobs.repository "
            "AND edges.digest = blobs.digest)"
        )
        with self._write.transaction():
            rows = self._write.rows(f"SELECT repository, digest, size FROM blobs WHERE {where}", (before,))
            self._write.execute(f"DELETE FROM blobs WHERE {where}", (before,))
        return [(str(repository), str(digest), int(size)) for repository, digest, size in rows]

    def untagged(self, before: float) -> list[tuple[str, str]]:
        """Manifests without a tag that are part of no index, refer to nothing there, and unused since."""
        rows = self._write.rows(
            "SELECT repository, digest FROM manifests AS m WHERE used < ? "
            "AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository = m.repository AND t.digest = m.digest) "
            "AND NOT EXISTS (SELECT 1 FROM edges e WHERE e.repository = m.repository AND e.digest = m.digest) "
            "AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.repository = m.repository AND s.digest = m.subject)",
            (before,),
        )
        return [(str(repository), str(digest)) for repository, digest in rows]

    def unused(self, below: Sequence[str], before: float) -> list[tuple[str, str]]:
        """Manifests of the repositories `below` these prefixes ("" is all) that nobody asked for since."""
        rows = self._write.rows("SELECT repository, digest FROM manifests WHERE used < ?", (before,))
        return [(name, digest) for name, digest in rows if any(not at or name.startswith(f"{at}/") for at in below)]

    def remove_manifests(self, found: Iterable[tuple[str, str]]) -> None:
        with self._write.transaction():
            for repository, digest in found:
                self._remove_manifest(repository, digest)

    def forget_repositories(self, before: float) -> int:
        """Take away the names of repositories that have nothing."""
        nothing = " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.repository = repositories.name)"
            for table in ("manifests", "blobs")
        )
        return self._remove("repositories", f"created < ? AND {nothing}", (before,))

    def keeps(self, digest: str) -> bool:
        """Whether any repository has these bytes, as a blob or as a manifest."""
        return any(
            self._write.rows(f"SELECT 1 FROM {table} WHERE digest = ? LIMIT 1", (digest,))
            for table in ("blobs", "manifests")
        )

    # ── inside a transaction ──────────────────────────────────────────────────────────────────────

    def _add_repository(self, name: str) -> None:
        self._write.execute("INSERT OR IGNORE INTO repositories VALUES (?, ?)", (name, clock.now()))

    def _tag(self, repository: str, name: str, digest: str, now: float) -> None:
        self._write.execute(
            "INSERT INTO tags VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET digest = excluded.digest, "
            "changed = CASE WHEN digest = excluded.digest THEN changed ELSE excluded.changed END, "
            "checked = excluded.checked",
            (repository, name, digest, now, now),
        )

    def _remove_manifest(self, repository: str, digest: str) -> None:
        for statement in (
            "DELETE FROM tags WHERE repository = ? AND digest = ?",
            "DELETE FROM edges WHERE repository = ? AND manifest = ?",
            "DELETE FROM manifests WHERE repository = ? AND digest = ?",
        ):
            self._write.execute(statement, (repository, digest))

    def _remove(self, table: str, where: str, values: tuple[object, ...]) -> int:
        with self._write.transaction():
            (row,) = self._write.rows(f"SELECT count(*) FROM {table} WHERE {where}", values)
            self._write.execute(f"DELETE FROM {table} WHERE {where}", values)
        return int(row[0])
