"""Which addresses mean a git repository, and what part of it: REMOTE[#REF[:SUBDIRECTORY]]. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cove.errors import InvalidArgument

_SCP = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*@[A-Za-z0-9.-]+:(?!//).+")
_HTTP_GIT = re.compile(r"https?://[^#?]+\.git(?:$|[#?])")
_HOSTED = re.compile(r"(?:https?://)?github\.com/[^/#]+/[^/#]+?/?(?:#.*)?$")


@dataclass(frozen=True, slots=True)
class GitUrl:
    """A repository's address, a branch, tag or commit in it ("" for its default), and a directory below."""

    remote: str
    ref: str = ""
    subdirectory: str = ""


def parse_git(text: str) -> GitUrl | None:
    """The repository that `text` means; None when it is none. InvalidArgument for one that would be a flag of git."""
    if text.startswith("github.com/"):
        text = f"https://{text}"
    known = (
        text.startswith(("git://", "ssh://", "git@"))
        or _HTTP_GIT.match(text) is not None
        or _SCP.fullmatch(text) is not None
        or (text.startswith("https://github.com/") and _HOSTED.fullmatch(text) is not None)
    )
    if not known:
        return None
    remote, _, fragment = text.partition("#")
    ref, _, subdirectory = fragment.partition(":")
    for what, value in (("repository", remote), ("reference", ref), ("directory", subdirectory)):
        if value.startswith("-") or "\0" in value or "\n" in value:
            raise InvalidArgument(
                f"invalid git {what} {value!r}: it must not begin with a dash or hold control characters"
            )
    return GitUrl(remote, ref, subdirectory.strip("/"))
