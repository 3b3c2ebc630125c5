"""Documents survive the daemon; a damaged one harms no other; a file is old or new."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cove.errors import Internal
from cove.store.database import Database
from cove.store.documents import Documents
from cove.store.files import write_atomic


class Thing(msgspec.Struct, frozen=True):
    size: int


def test_documents_come_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    Documents(database, "facts", Thing).put("a", Thing(1))
    Documents(database, "facts", Thing).put("a", Thing(2))
    database.close()
    assert Documents(Database(tmp_path / "db"), "facts", Thing).load() == {"a": Thing(2)}


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    things = Documents(database, "facts", Thing)
    with pytest.raises(RuntimeError), database.transaction():
        things.put("a", Thing(1))
        raise RuntimeError
    assert things.load() == {}


def test_a_name_is_unique(tmp_path: Path) -> None:
    things = Documents(Database(tmp_path / "db"), "networks", Thing, named=True)
    things.put("a", Thing(1), name="n")
    with pytest.raises(Internal):
        things.put("b", Thing(1), name="n")


def test_a_damaged_row_is_set_aside(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    things = Documents(database, "facts", Thing)
    things.put("good", Thing(1))
    database.execute("INSERT INTO facts VALUES ('bad', '{')")
    assert things.load() == {"good": Thing(1)} and set(things.damaged) == {"bad"}


def test_a_database_from_the_future_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(Internal, match="newer"):
        Database(tmp_path / "db")


def test_atomic_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_log_of_a_database_stays_short(tmp_path: Path) -> None:
    database, log = Database(tmp_path / "db"), tmp_path / "db-wal"
    database.execute("CREATE TABLE much (key INTEGER PRIMARY KEY, value BLOB)")
    lengths: list[int] = []

    def due() -> None:
        lengths.append(log.stat().st_size)
        database.checkpoint()
        lengths.append(log.stat().st_size)

    database.grown = due
    for number in range(3000):
        database.execute("INSERT OR REPLACE INTO much VALUES (?, ?)", (number % 50, bytes(3000)))
    assert len(lengths) == 6 and max(lengths) < 6 << 20, "a checkpoint is asked for while it is bearable"
    assert max(lengths[1::2]) <= 4 << 20, "and leaves no long file"
    database.close()
