"""Which images may be pulled and run: /etc/cove/policy.toml, read again whenever it changes.

    [[image]]
    prefix = "registry.lan/prod"              # the longest prefix that fits a name counts; "*" fits every name
    keys   = ["/etc/cove/keys/prod.pub"]      # one of these must have signed it

    [[image]]
    prefix = "docker.io/library"              # nothing is asked of these

    [[image]]
    prefix = "*"
    refuse = "only what our registry has signed runs here"

No file, or no rule that fits, asks nothing. A file that makes no sense refuses every image.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cove.errors import Forbidden, InvalidArgument, describe
from cove.image.content import ContentStore
from cove.image.trust import signatures
from cove.image.trust.attachments import Attachments
from cove.image.trust.signatures import Key, Signature
from cove.oci import digest as digests
from cove.oci.reference import Reference


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of names with a prefix: a signature by one of `keys`, or nothing; or they are refused."""

    prefix: str
    keys: tuple[str, ...] = ()
    refuse: str = ""


class _Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    image: tuple[Rule, ...] = ()


class Trust:
    """Decides by the policy file at `path` (None: there is none); safe to use from several threads."""

    def __init__(self, path: Path | None, content: ContentStore, attachments: Attachments) -> None:
        self._path = path
        self._content = content
        self._attachments = attachments
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._policy = _Policy()

    def rule(self, reference: Reference) -> Rule | None:
        """What is asked of `reference`. Raises Forbidden for a policy that cannot be read."""
        rules = [rule for rule in self._current().image if _fits(rule.prefix, reference.name)]
        return max(rules, key=lambda rule: len(rule.prefix) * (rule.prefix != "*"), default=None)

    def wants_signature(self, reference: Reference) -> bool:
        """Whether only a signature lets the image in; Forbidden when nothing does."""
        rule = self.rule(reference)
        if rule is not None and rule.refuse:
            raise Forbidden(f"the policy {self._path} refuses {reference.familiar}: {rule.refuse}")
        return rule is not None and bool(rule.keys)

    def admit(self, reference: Reference, digest: str) -> None:
        """Raise Forbidden unless the policy lets the image `digest` be used as `reference`."""
        if not self.wants_signature(reference):
            return
        rule = self.rule(reference)
        if rule is None or not self.verify(digest, self._keys(rule)):
            raise Forbidden(
                f"the policy {self._path} refuses {reference.familiar}: {digests.short(digest)} has no signature of "
                f"a key that counts for {rule.prefix if rule else 'it'}"
            )

    def verify(self, digest: str, keys: Iterable[Key]) -> list[Signature]:
        """The signatures of `digest` that are here and that one of the keys made."""
        return signatures.verified(self._content, digest, self._attachments.of(digest), keys)

    def keys_for(self, reference: Reference) -> list[Key]:
        """The keys that the policy names for `reference`."""
        rule = self.rule(reference)
        return self._keys(rule) if rule else []

    def _keys(self, rule: Rule) -> list[Key]:
        found = []
        for name in rule.keys:
            try:
                found.append(signatures.read_key(Path(name).read_bytes(), name))
            except OSError as error:
                raise Forbidden(f"a key of the policy {self._path} cannot be read: {describe(error)}") from error
        return found

    def _current(self) -> _Policy:
        if self._path is None:
            return self._policy
        with self._lock:
            try:
                found = self._path.stat()
                stamp = (found.st_mtime_ns, found.st_ino)
                if stamp != self._stamp:
                    import tomllib  # only for who has a policy

                    self._policy = msgspec.convert(tomllib.loads(self._path.read_text()), _Policy)
                    self._stamp = stamp
            except FileNotFoundError:
                self._policy, self._stamp = _Policy(), None
            except (OSError, ValueError) as error:
                self._stamp = None
                raise Forbidden(
                    f"the policy {self._path} makes no sense, so that no image may be used: {error}"
                ) from error
            return self._policy


def _fits(prefix: str, name: str) -> bool:
    return prefix == "*" or name == prefix or name.startswith(prefix.rstrip("/") + "/")


def parse_keys(texts: Iterable[str]) -> list[Key]:
    """Keys that a client sent. InvalidArgument for what is none."""
    found = [signatures.read_key(text.encode(), "given") for text in texts]
    if not found:
        raise InvalidArgument("no key was given and the policy names none for this image; use --key FILE")
    return found
