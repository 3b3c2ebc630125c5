"""Network rates as people write them."""

from __future__ import annotations

import pytest

from cove.errors import InvalidArgument
from cove.network.rates import Rate, parse


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", Rate()),
        ("in=1m", Rate(inward=1 << 20)),
        ("in=1.5MiB,out=512k", Rate(inward=3 << 19, outward=512 << 10)),
        ("out=8mbit", Rate(outward=1_000_000)),
        ("in=100kB/s, out=1gbit", Rate(inward=100 << 10, outward=125_000_000)),
        ("in=0,out=off", Rate()),
    ],
)
def test_what_is_written_is_read(text: str, rate: Rate) -> None:
    assert parse(text) == rate
    assert parse(str(rate)) == rate


def test_what_is_not_named_stays() -> None:
    assert parse("in=2m", Rate(inward=1024, outward=2048)) == Rate(inward=2 << 20, outward=2048)
    assert parse("out=off", Rate(inward=1024, outward=2048)) == Rate(inward=1024)


@pytest.mark.parametrize("text", ["1m", "in", "up=1m", "in=-1", "in=1x", "in=1", "out=1e3", "in=99999999t"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)
