"""Addresses of git repositories: what they name, and what is refused."""

from __future__ import annotations

import pytest

from cove.build.giturl import GitUrl, parse_git
from cove.errors import InvalidArgument

_BASE = "https://e.example/r.git"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://e.example/r", None),
        ("https://e.example/r.git/", None),
        (_BASE, GitUrl(_BASE)),
        (f"{_BASE}#a/b:c/d", GitUrl(_BASE, "a/b", "c/d")),
        (f"{_BASE}?branch=b&subdir=/s/", GitUrl(_BASE, "refs/heads/b", "s")),
        (f"{_BASE}?tag=refs/tags/t&checksum=abc", GitUrl(_BASE, "refs/tags/t", checksum="abc")),
        (f"{_BASE}?keep-git-dir&submodules=false", GitUrl(_BASE, keep_git_dir=True, submodules=False)),
        (f"{_BASE}?commit=abc&fetch-by-commit=1", GitUrl(_BASE, checksum="abc", by_commit=True)),
        (f"{_BASE}?ref=x&mtime=commit", GitUrl(_BASE, "x", commit_times=True)),
        ("git@e.example:a/r.git#x", GitUrl("git@e.example:a/r.git", "x")),
        ("ssh://git@e.example/r?ref=x", GitUrl("ssh://git@e.example/r", "x")),
    ],
)
def test_what_addresses_name(text: str, found: GitUrl | None) -> None:
    assert parse_git(text) == found


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("branch=a&tag=b", "ref conflicts"),
        ("branch=a&branch=b", "multiple values"),
        ("branch=", "has no value"),
        ("keep-git-dir=maybe", "invalid keep-git-dir"),
        ("mtime=now", "invalid mtime"),
        ("depth=1", "unexpected query"),
        ("ref=-x", "must not begin with a dash"),
        ("fetch-by-commit", "needs a checksum"),
    ],
)
def test_queries_that_are_refused(query: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        parse_git(f"{_BASE}?{query}")
