"""Which ids containers get: the files of subuid(5), ranges that lie free, modes that are none."""

from __future__ import annotations

import pytest

from cove.engine.isolation import userns
from cove.engine.isolation.userns import Range
from cove.errors import Conflict, InvalidArgument, Unsupported

SUBUID = "# people\nann:100000:65536\nann:300000:10\nbroken:x:1\ncove:500000:200000\n"


def test_entries_skip_what_makes_no_sense() -> None:
    assert [owner for owner, _ in userns.entries(SUBUID)] == ["ann", "ann", "cove"]


def test_a_remap_takes_all_ranges_of_its_user() -> None:
    maps = userns.remap("ann:cove", SUBUID, SUBUID)
    assert [(each.container_id, each.host_id, each.size) for each in maps.uids] == [
        (0, 100000, 65536),
        (65536, 300000, 10),
    ]
    assert [(each.container_id, each.host_id, each.size) for each in maps.gids] == [(0, 500000, 200000)]


def test_a_remap_without_an_entry_is_refused_but_the_default_is_not() -> None:
    with pytest.raises(InvalidArgument, match="bob:100000:65536"):
        userns.remap("bob", SUBUID, SUBUID)
    assert userns.remap("default", "", "").uids[0].host_id == 1 << 30


def test_free_ranges_avoid_everybody() -> None:
    first = userns.free(65536, "", [])
    assert first.first == (1 << 30) + 65536
    assert userns.free(65536, "", [first]).first == first.first + 65536
    assert userns.free(10, f"ann:{first.first + 5}:100\n", []).first == first.first + 105
    assert userns.free(10, f"ann:{first.first}:100\n", [Range(first.first + 100, 50)]).first == first.first + 150


def test_the_users_own_entry_is_the_pool_and_may_be_full() -> None:
    assert userns.free(65536, SUBUID, []).first == 500000
    taken = [Range(500000, 65536), Range(565536, 65536)]
    assert userns.free(65536, SUBUID, taken).first == 631072
    with pytest.raises(Conflict, match="no 65536 free ids"):
        userns.free(65536, SUBUID, [*taken, Range(631072, 10000)])


@pytest.mark.parametrize("mode", ["", "host", "remap", "auto", "auto:size=65536", "container:x"])
def test_modes(mode: str) -> None:
    userns.check(mode)


@pytest.mark.parametrize("mode", ["Host", "auto:", "auto:size=", "auto:size=1", "container:", "keep-id", "private"])
def test_modes_that_are_none(mode: str) -> None:
    with pytest.raises(InvalidArgument):
        userns.check(mode)


def test_a_path_is_refused_with_the_reason() -> None:
    with pytest.raises(Unsupported):
        userns.check("ns:/proc/1/ns/user")
