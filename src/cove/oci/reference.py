"""Image references: how people name images, with Docker's defaults.

    [domain[:port]/]path[:tag][@digest]

Grammar and defaults are those of the distribution project's `reference` package: a first component
without "." or ":" that is not "localhost" (and is lower-case) belongs to the path, the domain is then
docker.io, and a path of one component on docker.io lies in `library/`. This module never looks
anything up.
"""

from __future__ import annotations

import re

import msgspec

from cove.errors import InvalidArgument
from cove.oci import digest as digests

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_PATH_LENGTH = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII
)
_TAG_ONLY = re.compile(_TAG, re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
# A longer text can be no reference; refusing it early bounds the regular expression's work.
_TEXT_LENGTH = 1024


class Reference(msgspec.Struct, frozen=True):
    """A parsed reference. `tag` and `digest` are "" when absent; `parse` sees that one is there."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, *, default_tag: str = DEFAULT_TAG) -> Reference:
        """The reference that `text` spells, or InvalidArgument in Docker's words.

        `default_tag` is given to a name that has neither tag nor digest; "" leaves it bare.
        """
        if _IDENTIFIER.fullmatch(text):
            raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
        if len(text) > _TEXT_LENGTH:
            raise InvalidArgument("invalid reference format: it is longer than any reference can be")
        domain, remainder = _split_domain(text)
        remote = remainder.partition(":")[0]
        if remote != remote.lower():
            raise InvalidArgument(f"invalid reference format: repository name ({remote}) must be lowercase")
        found = _REFERENCE.fullmatch(f"{domain}/{remainder}")
        if found is None:
            raise InvalidArgument("invalid reference format")
        if len(found["path"]) > _PATH_LENGTH:
            raise InvalidArgument(
                f"invalid reference format: repository name must not be more than {_PATH_LENGTH} characters"
            )
        tag, digest = found["tag"] or "", found["digest"] or ""
        if digest:
            digests.check(digest)
        elif not tag:
            tag = default_tag
        return cls(found["domain"], found["path"], tag, digest)

    def with_tag(self, tag: str) -> Reference:
        """The same repository under another tag, without digest; InvalidArgument for a bad tag."""
        if _TAG_ONLY.fullmatch(tag) is None:
            raise InvalidArgument("invalid tag format")
        return msgspec.structs.replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        """The same repository at a digest, without tag."""
        return msgspec.structs.replace(self, tag="", digest=digests.check(digest))

    def or_latest(self) -> Reference:
        """Itself, or tagged `latest` if it is a bare name."""
        return self if self.tag or self.digest else msgspec.structs.replace(self, tag=DEFAULT_TAG)

    @property
    def name(self) -> str:
        """The repository in full: "docker.io/library/nginx"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: "nginx"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        bare = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in bare else bare

    @property
    def familiar(self) -> str:
        """As people write it: "nginx:latest", "nginx@sha256:…"."""
        return self.familiar_name + self._suffix

    @property
    def full(self) -> str:
        """Without abbreviation: "docker.io/library/nginx:latest"."""
        return self.name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.familiar


def _split_domain(text: str) -> tuple[str, str]:
    """Which part of `text` is the registry, and the rest, both completed with Docker's defaults."""
    first, slash, rest = text.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, remainder = (first, rest) if named else (DEFAULT_DOMAIN, text)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder
