"""Image names, as far as a client needs them: which registry, which repository, which tag."""

from __future__ import annotations


def split(name: str) -> tuple[str, str]:
    """(repository, tag or digest): `a/b:1` is (`a/b`, `1`), `a/b` is (`a/b`, ``)."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return split(repository)[0], digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")


def registry(name: str) -> str:
    """The registry that a name belongs to; `docker.io` when it names none."""
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
