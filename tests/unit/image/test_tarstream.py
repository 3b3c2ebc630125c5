"""The bounded tar reader agrees with the standard library on sound archives, and refuses the rest."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cove.errors import InvalidArgument
from cove.image.worker.tarstream import entries

NAMES = ("plain", "d/" * 60 + "long", "n" * 200, "ü/中", "deep/" * 300 + "end")


def made(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size = 700 * number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
            link = tarfile.TarInfo(f"l{number}")
            link.type, link.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE)[number % 2], name
            tar.addfile(link)
    return buffer.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
@pytest.mark.parametrize("piece", [7, 512, 1 << 20])
def test_agrees_with_tarfile(form: int, pack: Callable[[bytes], bytes], piece: int) -> None:
    data = pack(made(form))
    found = [
        (entry.name, entry.kind, entry.link if "link" in entry.kind else "", b"".join(entry.content))
        for entry in entries(data[at : at + piece] for at in range(0, len(data), piece))
    ]
    expected = []
    for number, name in enumerate(NAMES):
        expected.append((name, "file", "", bytes([number]) * 700 * number))
        expected.append((f"l{number}", ("symlink", "hardlink")[number % 2], name, b""))
    assert found == expected


def test_content_may_be_left_unread_and_members_may_be_joined() -> None:
    first, second = made(tarfile.GNU_FORMAT), gzip.compress(b"")
    assert [entry.name for entry in entries([first])][::2] == list(NAMES)
    assert (
        len([entry.name for entry in entries([gzip.compress(first[:3000]) + second + gzip.compress(first[3000:])])])
        == 10
    )


def test_a_bomb_stays_small() -> None:
    info = tarfile.TarInfo("big")
    info.size = 1 << 28
    packer = zstandard.ZstdCompressor().compressobj()
    bomb = (
        packer.compress(info.tobuf()) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    )
    longest = max(len(piece) for entry in entries([bomb]) for piece in entry.content)
    assert len(bomb) < 100_000 and longest <= 1 << 20


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=12))
def test_any_damage_is_an_answer(at: int, change: bytes) -> None:
    data = bytearray(made(tarfile.PAX_FORMAT))
    data[at : at + len(change)] = change
    try:
        for entry in entries([bytes(data)]):
            assert sum(len(piece) for piece in entry.content) == entry.size
    except InvalidArgument:
        pass
