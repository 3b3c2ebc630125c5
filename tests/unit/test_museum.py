"""What docs/museum.md shows is there: every exhibit and every twin that it names is a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parents[1]
_PAGE = (_TESTS.parent / "docs/museum.md").read_text()
_NAMED = sorted(set(re.findall(r"`([\w./]+::test_\w+)`", _PAGE)))


@pytest.mark.parametrize("named", _NAMED)
def test_an_exhibit_is_a_test(named: str) -> None:
    file, _, test = named.partition("::")
    tree = ast.parse((_TESTS / "museum" / f"{file}.py").read_text())
    assert test in {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}


def test_every_line_shows_an_exhibit_and_a_twin() -> None:
    lines = [line.split(" | ") for line in _PAGE.splitlines() if line.startswith("| 20")]
    assert len(lines) > 40
    for _, _, exhibit, twin in lines:
        assert "::test_" in exhibit and ("::test_" in twin or twin.startswith("the same test"))


def test_no_vulnerability_has_two_lines() -> None:
    cves = [cve for line in _PAGE.splitlines() if line.startswith("| 20") for cve in re.findall(r"20\d\d-\d+", line)]
    assert len(cves) == len(set(cves))
