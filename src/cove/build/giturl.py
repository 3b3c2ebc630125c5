"""Which addresses mean a git repository, and what part of it. Pure.

    REMOTE[#REF[:SUBDIRECTORY]]
    REMOTE[?branch=B|tag=T|ref=R][&subdir=D][&checksum=COMMIT][&keep-git-dir][&submodules=false][&mtime=commit]

Source: the Dockerfile reference, "Adding files from a Git repository"; the build documentation, "URL queries".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote

from cove.errors import InvalidArgument

_SCP = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*@[A-Za-z0-9.-]+:(?!//).+")
_HTTP_GIT = re.compile(r"https?://[^#?]+\.git(?:$|[#?])")
_HOSTED = re.compile(r"(?:https?://)?github\.com/[^/#?]+/[^/#?]+/?(?:[#?].*)?$")
_TRUE, _FALSE = ("", "1", "t", "true"), ("0", "f", "false")
_PLAIN = {"ref": "ref", "subdir": "subdirectory", "checksum": "checksum", "commit": "checksum"}
_PREFIXED = {"tag": "refs/tags/", "branch": "refs/heads/"}


@dataclass(frozen=True, slots=True)
class GitUrl:
    """A repository's address, and what of it.

    `ref`: a branch, tag or commit, "" for the repository's default. `subdirectory`: "" for all. `checksum`: how the
    commit's id must begin, which is fetched itself `by_commit`. `keep_git_dir`: None where nothing is said.
    `commit_times`: files have the commit's time instead of that of the checkout.
    """

    remote: str
    ref: str = ""
    subdirectory: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True
    commit_times: bool = False
    by_commit: bool = False


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
    address, _, fragment = text.partition("#")
    remote, _, query = address.partition("?")
    ref, _, subdirectory = fragment.partition(":")
    found = _asked(GitUrl(remote, ref, subdirectory), query)
    for what, value in (
        ("repository", found.remote),
        ("reference", found.ref),
        ("directory", found.subdirectory),
        ("checksum", found.checksum),
    ):
        if value.startswith("-") or "\0" in value or "\n" in value:
            raise InvalidArgument(
                f"invalid git {what} {value!r}: it must not begin with a dash or hold control characters"
            )
    return replace(found, subdirectory=found.subdirectory.strip("/"))


def _asked(url: GitUrl, query: str) -> GitUrl:
    """With what the query says."""
    for name, values in parse_qs(query, keep_blank_values=True).items():
        value = unquote(values[0])
        if len(values) > 1:
            raise InvalidArgument(f'query "{name}" of {url.remote} has multiple values')
        if name in ("keep-git-dir", "submodules", "fetch-by-commit"):
            field = {"keep-git-dir": "keep_git_dir", "fetch-by-commit": "by_commit"}.get(name, name)
            said: dict[str, Any] = {field: _true(name, value)}
            url = replace(url, **said)
            continue
        if not value:
            raise InvalidArgument(f'query "{name}" of {url.remote} has no value')
        if name == "mtime":
            if value not in ("checkout", "commit"):
                raise InvalidArgument(f'invalid mtime value: "{value}" (must be "checkout" or "commit")')
            url = replace(url, commit_times=value == "commit")
        elif name in _PREFIXED:
            prefix = _PREFIXED[name]
            url = _agreed(url, "ref", value if value.startswith(prefix) else prefix + value)
        elif name in _PLAIN:
            url = _agreed(url, _PLAIN[name], value)
        else:
            raise InvalidArgument(f'unexpected query "{name}" of {url.remote}')
    if url.by_commit and not url.checksum:
        raise InvalidArgument(f"fetch-by-commit of {url.remote} needs a checksum, which is the commit")
    return url


def _agreed(url: GitUrl, field: str, value: str) -> GitUrl:
    before = getattr(url, field)
    if before and before != value:
        raise InvalidArgument(f'{field} conflicts: "{before}" vs "{value}"')
    said: dict[str, Any] = {field: value}
    return replace(url, **said)


def _true(name: str, value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise InvalidArgument(f'invalid {name} value: "{value}"')
    return value.lower() in _TRUE
