"""A download that several readers follow, whatever their loop sees late."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cove.registry.proxy import Download


def test_a_file_that_is_in_its_place_before_a_reader_comes_is_read_there(tmp_path: Path) -> None:
    """The thread that downloads tells of the growing file, and moves it: the loop may hear of both only then."""
    growing, place = tmp_path / "growing", tmp_path / "place"

    async def case() -> bytes:
        download = Download(9, place)
        growing.write_bytes(b"all of it")
        download.advance(9, growing)
        growing.rename(place)
        reading = asyncio.create_task(_all(download))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        download.end(None)
        return await reading

    assert asyncio.run(case()) == b"all of it"


async def _all(download: Download) -> bytes:
    return b"".join([piece async for piece in download.read()])
