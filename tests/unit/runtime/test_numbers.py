"""Lists of numbers in a configuration."""

from __future__ import annotations

import pytest

from cove.runtime.child.common import Failure
from cove.runtime.numbers import known, numbers


def test_lists() -> None:
    assert numbers("0-3,7", "x") == {0, 1, 2, 3, 7} and numbers("", "x") == frozenset() and numbers(" 5 ", "x") == {5}


@pytest.mark.parametrize("text", ["-1", "1-", "3-1", "a", "1,,2", "0-999999", "١"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(Failure, match=r"process\.execCPUAffinity"):
        numbers(text, "process.execCPUAffinity.initial")


def test_known_words_are_listed() -> None:
    assert known({"A": 1, "B": 2}, "B", "letter") == 2
    with pytest.raises(Failure, match="invalid letter 'C': it is one of A, B"):
        known({"A": 1, "B": 2}, "C", "letter")
