"""`cove build --annotation`: as people write them, and as the daemon takes them.

org.example.k=v                          ─▶ annotation.org.example.k
index,manifest[linux/amd64]:k=v          ─▶ annotation-index.k, annotation-manifest[linux/amd64].k
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cove.cli.flags import UsageError

_KINDS = ("index", "manifest", "index-descriptor", "manifest-descriptor")
_KIND = re.compile(rf"({'|'.join(_KINDS)})(\[[A-Za-z0-9_/-]+\])?")


def given(texts: Iterable[str]) -> dict[str, str]:
    """The annotations by name. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        kinds, colon, key = name.rpartition(":")
        if not equals or not key:
            raise UsageError(f"--annotation {text} must have the form KEY=VALUE or TYPE[PLATFORM],…:KEY=VALUE")
        if not colon:
            found[f"annotation.{key}"] = value
        for kind in kinds.split(",") if colon else ():
            if not _KIND.fullmatch(kind):
                raise UsageError(f"--annotation {text}: unknown type {kind!r}; {', '.join(_KINDS)} are known")
            found[f"annotation-{kind}.{key}"] = value
    return found
