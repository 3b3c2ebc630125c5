"""Streams without their compression: whole, several in one, cut, and bombs in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
import zstandard

from cove.errors import InvalidArgument
from cove.image.decompress import decompressed

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}
TEXT = bytes(range(256)) * 4000


def opened(data: bytes, piece: int = 1000) -> bytes:
    return b"".join(decompressed(data[at : at + piece] for at in range(0, len(data), piece)))


@pytest.mark.parametrize("how", PACKERS)
def test_one_stream_or_several_and_zeros_after_them(how: str) -> None:
    packed = PACKERS[how](TEXT)
    assert opened(packed) == TEXT
    assert opened(packed + PACKERS[how](b"more"), 7) == TEXT + b"more"
    if how != "zstd":
        assert opened(packed + bytes(512)) == TEXT


def test_frames_that_are_skipped() -> None:
    """zstd:chunked keeps its table of contents in one (RFC 8878, "Skippable Frames")."""
    skipped = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"table"
    assert opened(zstandard.compress(TEXT) + skipped + zstandard.compress(b"more") + skipped) == TEXT + b"more"


@pytest.mark.parametrize("how", PACKERS)
@pytest.mark.parametrize("missing", [1, 9, 40])
def test_a_cut_stream_is_refused(how: str, missing: int) -> None:
    with pytest.raises(InvalidArgument, match="cut off"):
        opened(PACKERS[how](TEXT)[:-missing])


@pytest.mark.parametrize("how", PACKERS)
def test_a_bomb_comes_in_small_pieces(how: str) -> None:
    zeros = bytes(64 << 20)
    bomb = PACKERS[how](zeros)
    if how == "zstd":  # blocks of four bytes, each of which stands for 128 KiB of zeros (RFC 8878, "RLE_Block")
        bomb = b"\x28\xb5\x2f\xfd\x00\x38" + (struct.pack("<I", (131072 << 3) | 2)[:3] + b"\0") * 20_000
    most = total = 0
    for piece in decompressed([bomb]):
        most, total = max(most, len(piece)), total + len(piece)
        if total >= 1 << 30:
            break
    assert total >= len(zeros) and most <= 1 << 20


def test_a_dictionary_larger_than_any_needs_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    with pytest.raises(InvalidArgument, match="cannot be decompressed"):
        opened(lzma.compress(TEXT, filters=filters))
    assert opened(lzma.compress(TEXT, preset=9 | lzma.PRESET_EXTREME)) == TEXT
