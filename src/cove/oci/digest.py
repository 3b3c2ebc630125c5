"""Content digests: `algorithm:hex`, the only names that untrusted content is believed by.

Source: the OCI image-spec, descriptor.md, "Digests". Of the algorithms registered there, sha256 and
sha512 are accepted; any other cannot be verified and is therefore refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from cove.errors import InvalidArgument

if TYPE_CHECKING:
    from hashlib import _Hash

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


def parse(text: str) -> tuple[str, str]:
    """Split a digest into its algorithm and its hexadecimal digits, or raise InvalidArgument."""
    algorithm, colon, digits = text.partition(":")
    if not colon or algorithm not in _HEX_DIGITS:
        raise InvalidArgument(f"invalid digest {text[:80]!r}: only sha256 and sha512 digests are supported")
    if len(digits) != _HEX_DIGITS[algorithm] or _HEX.fullmatch(digits) is None:
        raise InvalidArgument(
            f"invalid digest {text[:150]!r}: {algorithm} has {_HEX_DIGITS[algorithm]} lower-case hexadecimal digits"
        )
    return algorithm, digits


def check(text: str) -> str:
    """Return `text` if it is a digest that can be verified, else raise InvalidArgument."""
    parse(text)
    return text


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that can be verified."""
    try:
        parse(text)
    except InvalidArgument:
        return False
    return True


def of(data: bytes) -> str:
    """The sha256 digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def short(digest: str) -> str:
    """The 12 hexadecimal digits that people see, whatever the algorithm."""
    return digest.partition(":")[2][:12] or digest[:12]


def matches(data: bytes, digest: str) -> bool:
    """Whether `data` is what `digest` names."""
    verifier = Verifier(digest)
    verifier.update(data)
    return verifier.agrees()


class Verifier:
    """Hashes a stream piece by piece and says at its end whether it was what its digest names."""

    def __init__(self, expected: str) -> None:
        self.expected = expected
        self.length = 0
        self._algorithm, self._digits = parse(expected)
        self._hash: _Hash = hashlib.new(self._algorithm)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(data)
        self.length += len(data)

    @property
    def actual(self) -> str:
        """The digest of all that was seen so far."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def agrees(self) -> bool:
        return hmac.compare_digest(self._hash.hexdigest(), self._digits)
