"""What a context leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import InvalidArgument
from cove.patterns import Ignore, parse_ignore
from cove.wildcards import matcher


@pytest.mark.parametrize(
    ("patterns", "path", "left_out"),
    [
        (["*.md"], "README.md", True),
        (["*.md"], "docs/README.md", False),
        (["**/*.md"], "docs/README.md", True),
        (["**/*.md"], "README.md", True),
        (["docs"], "docs/a/b", True),
        (["docs/"], "docs/a", True),
        (["/docs"], "docs/a", True),
        (["*.md", "!README.md"], "README.md", False),
        (["!README.md", "*.md"], "README.md", True),
        (["*", "!src"], "src/a.c", False),
        (["*", "!src/**"], "src/a/b.c", False),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
        (["[a-c]x"], "bx", True),
        (["[^a-c]x"], "bx", False),
        (["a\\*"], "a*", True),
        (["a\\*"], "ab", False),
        (["**"], "any/thing", True),
        (["node_modules", "!node_modules/keep"], "node_modules/keep", False),
    ],
)
def test_the_last_pattern_that_fits_decides(patterns: list[str], path: str, left_out: bool) -> None:
    assert Ignore(parse_ignore("\n".join(patterns))).excludes(path) is left_out


def test_comments_blanks_and_spaces() -> None:
    assert parse_ignore("# c\n\n  a  \n! b \n#\n./x/../y\n") == ("a", "!b", "y")


def test_a_bad_pattern_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="never closed"):
        matcher("[a")


def test_a_directory_is_entered_only_for_an_exception_below_it() -> None:
    ignore = Ignore(["*", "!src/keep"])
    assert not ignore.prunes("src") and ignore.prunes("docs")


@given(
    st.lists(st.from_regex(r"!?[a-c*?/]{1,6}", fullmatch=True), max_size=5),
    st.from_regex(r"[a-c](/[a-c]){0,3}", fullmatch=True),
)
def test_what_is_pruned_holds_nothing_that_comes_back(patterns: list[str], path: str) -> None:
    ignore = Ignore(parse_ignore("\n".join(patterns)))
    parts = path.split("/")
    for depth in range(1, len(parts)):
        directory = "/".join(parts[:depth])
        if ignore.excludes(directory) and ignore.prunes(directory):
            assert ignore.excludes(path)
