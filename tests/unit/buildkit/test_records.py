"""What is remembered of builds that ended, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from cove.buildkit.messages.control import BuildHistoryRecord, StatusResponse, VertexLog
from cove.buildkit.records import Record, Records, packed, unpacked
from cove.errors import NotFound
from cove.store.database import Database

DAY = 24 * 3600 * 10**9


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(Database(tmp_path / "cove.db"))


def put(records: Records, ref: str, ended_ns: int, *, pinned: bool = False, size: int = 0) -> list[str]:
    told = BuildHistoryRecord(ref=ref, pinned=pinned, exporter_response={"image.name": "i"})
    return records.put(Record(told, ended_ns - 5, ended_ns), b"\0" * size if size else packed([]))


def refs(records: Records) -> list[str]:
    return [each.ref for each in records.all()]


def test_a_record_comes_back_as_it_was(records: Records) -> None:
    assert put(records, "a", 10) == []
    (found,) = records.all()
    assert (found.ref, found.began_ns, found.ended_ns) == ("a", 5, 10)
    assert found.told.exporter_response == {"image.name": "i"} and not found.told.pinned
    assert records.get("a") == found and records.get("b") is None


def test_progress_comes_back_message_by_message() -> None:
    news = [StatusResponse(logs=(VertexLog(vertex="v", message=text),)) for text in (b"", b"one", b"two" * 1000)]
    assert unpacked(packed(news)) == news and unpacked(packed([])) == []


def test_the_newest_are_kept_and_pinned_ones_longest(records: Records) -> None:
    put(records, "pinned", 1, pinned=True)
    forgotten = [ref for number in range(2, 103) for ref in put(records, f"b{number}", number)]
    assert forgotten == ["b2", "b3"]
    assert len(refs(records)) == 100 and refs(records)[0] == "b102" and refs(records)[-1] == "pinned"


def test_the_old_and_the_large_go_but_never_the_newest(records: Records) -> None:
    put(records, "old", DAY)
    put(records, "pinned", DAY, pinned=True)
    assert put(records, "new", 32 * DAY) == ["old"]
    assert put(records, "large", 33 * DAY, size=65 << 20) == ["new"]
    assert refs(records) == ["large", "pinned"]
    assert put(records, "larger", 34 * DAY, size=65 << 20) == ["large"]


def test_records_are_pinned_and_forgotten_by_name(records: Records) -> None:
    put(records, "a", 1)
    records.pin("a", True)
    (found,) = records.all()
    assert found.told.pinned
    records.forget("a")
    assert records.all() == [] and records.progress("a") is None
    for unknown in (records.forget, lambda ref: records.pin(ref, False)):
        with pytest.raises(NotFound):
            unknown("a")
