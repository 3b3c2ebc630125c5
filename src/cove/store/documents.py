"""A table as a mapping from keys to frozen values.

Owns the encoding (JSON, so that a person can read the database) and what happens to a row that cannot
be read: it is set aside by name in `damaged`, and nothing else is lost with it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from cove.store.database import Database

T = TypeVar("T")


class Documents(Generic[T]):
    """Values of one type in a table with the columns (key, record) or (key, name, record)."""

    def __init__(
        self, database: Database, table: str, kind: type[T], *, key: str = "id", named: bool = False
    ) -> None:
        self._database = database
        self._decoder = msgspec.json.Decoder(kind)
        self._encoder = msgspec.json.Encoder()
        columns = (key, "name", "record") if named else (key, "record")
        updates = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
        self._named = named
        self._insert = (
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {updates}"
        )
        self._remove = f"DELETE FROM {table} WHERE {key} = ?"
        self._rename = f"UPDATE {table} SET name = ? WHERE {key} = ?"
        self._select = f"SELECT {key}, record FROM {table}"
        self.damaged: dict[str, str] = {}

    def load(self) -> dict[str, T]:
        """Every value by its key; rows that cannot be read are in `damaged`, with the reason."""
        values: dict[str, T] = {}
        for key, record in self._database.rows(self._select):
            try:
                values[str(key)] = self._decoder.decode(record)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                self.damaged[str(key)] = str(error)
                if self._named:  # its name is free again; no name that anybody chooses has a slash
                    self._database.execute(self._rename, (f"damaged/{key}", key))
        return values

    def put(self, key: str, value: T, *, name: str = "") -> None:
        """Store a value, in place of an earlier one with this key."""
        record = self._encoder.encode(value)
        self._database.execute(self._insert, (key, name, record) if self._named else (key, record))

    def delete(self, key: str) -> None:
        """Forget a value; nothing happens when there is none."""
        self._database.execute(self._remove, (key,))
