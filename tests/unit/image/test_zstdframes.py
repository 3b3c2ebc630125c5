"""zstd in pieces that each stand for little."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import InvalidArgument
from cove.image.decompress import decompressed
from cove.image.zstdframes import blocks


def _packed(data: bytes, **wishes: object) -> bytes:
    packer = zstandard.ZstdCompressor(**wishes).compressobj()  # type: ignore[arg-type]
    return packer.compress(data) + packer.flush()


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans(), st.integers(1, 700), st.integers(0, 600))
def test_any_frames_in_any_pieces_come_out_as_they_went_in(
    frames: list[bytes], checksum: bool, size: int, zeros: int
) -> None:
    stream = b"".join(_packed(frame * 50, write_checksum=checksum) for frame in [b"first", *frames]) + bytes(zeros)
    assert b"".join(blocks(_cut(stream, size))) == stream
    assert b"".join(decompressed(_cut(stream, size))) == b"first" * 50 + b"".join(frame * 50 for frame in frames)


@given(st.binary(max_size=2000), st.integers(1, 300))
def test_what_is_no_zstd_is_passed_on_as_it_is(data: bytes, size: int) -> None:
    for stream in (data, b"\x28\xb5\x2f\xfd" + data):
        assert b"".join(blocks(_cut(stream, size))) == stream


def test_a_piece_never_stands_for_more_than_a_block() -> None:
    bomb = _packed(bytes(64 << 20)) + _packed(os.urandom(1 << 20))
    decompressor, largest = zstandard.ZstdDecompressor().decompressobj(), 0
    for piece in blocks([bomb]):
        if decompressor.eof:
            decompressor = zstandard.ZstdDecompressor().decompressobj()
        largest = max(largest, len(decompressor.decompress(piece)))
    assert largest <= 128 << 10


@pytest.mark.parametrize("kept", [5, 9, 4000, -1])
def test_one_that_was_cut_off_is_told(kept: int) -> None:
    with pytest.raises(InvalidArgument):
        list(decompressed([_packed(os.urandom(300_000), write_checksum=True)[:kept]]))
