"""The wire format, against bytes from its own documentation, and back."""

from __future__ import annotations

from typing import Annotated

import pytest

from cove.errors import InvalidArgument
from cove.grpc.protobuf import Message, decode, encode


class Inner(Message, frozen=True):
    a: Annotated[int, 1] = 0


class Outer(Message, frozen=True):
    number: Annotated[int, 1] = 0
    text: Annotated[str, 2] = ""
    inner: Annotated[Inner | None, 3] = None
    many: Annotated[tuple[int, ...], 6] = ()
    flag: Annotated[bool, 7] = False
    pairs: Annotated[dict[str, bytes], 8] = {}


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (Outer(number=150), "089601"),
        (Outer(text="testing"), "120774657374696e67"),
        (Outer(inner=Inner(a=150)), "1a03089601"),
        (Outer(number=-2), "08feffffffffffffffff01"),
        (Outer(many=(3, 270)), "3003308e02"),
        (Outer(flag=True, pairs={"k": b"v"}), "380142060a016b120176"),
        (Outer(text="\udcff"), "1201ff"),
        (Outer(), ""),
    ],
)
def test_values_and_their_bytes(value: Outer, raw: str) -> None:
    assert encode(value).hex() == raw
    assert decode(Outer, bytes.fromhex(raw)) == value


def test_packed_numbers_and_unknown_fields() -> None:
    assert decode(Outer, bytes.fromhex("3206038e029ea705")).many == (3, 270, 86942)
    assert decode(Outer, bytes.fromhex("f2010378797a0801")).number == 1


@pytest.mark.parametrize("raw", ["08", "1205", "1a0308", "0b", "0a0101", "08ffffffffffffffffffffff01"])
def test_what_is_no_message(raw: str) -> None:
    with pytest.raises(InvalidArgument):
        decode(Outer, bytes.fromhex(raw))
