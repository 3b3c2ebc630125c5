"""Bearer tokens: JSON Web Tokens (RFC 7519) that say what their bearer may do.

    header.claims.signature, each base64url; the claims' "access" is the distribution project's:
    [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]

The registry signs its own with HMAC-SHA256 and believes no other algorithm, whatever a token's header says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

import msgspec

from cove.errors import Internal, Unauthorized, describe
from cove.store.files import write_atomic

_LEEWAY = 30.0
_LONGEST = 16 << 10
_HEADER = b'{"alg":"HS256","typ":"JWT"}'


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Actions ("pull", "push", "delete", "*") on one thing."""

    type: str
    name: str
    actions: tuple[str, ...]


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix seconds."""

    iss: str
    aud: str
    sub: str
    exp: float
    iat: float
    access: tuple[Grant, ...] = ()


class _Header(msgspec.Struct, frozen=True):
    alg: str = ""


class Signer:
    """Tokens of one issuer for one service, under one secret key."""

    def __init__(self, key: bytes, *, issuer: str, service: str, life: float) -> None:
        self._key = key
        self._issuer = issuer
        self.service = service
        self.life = life

    def sign(self, subject: str, access: tuple[Grant, ...]) -> str:
        now = time.time()
        claims = Claims(iss=self._issuer, aud=self.service, sub=subject, iat=now, exp=now + self.life, access=access)
        content = f"{_encode(_HEADER)}.{_encode(msgspec.json.encode(claims))}"
        return f"{content}.{_encode(self._mac(content))}"

    def verify(self, token: str) -> Claims:
        """What a token says, if it is ours and still holds. Raises Unauthorized."""
        content, _, signature = token.rpartition(".")
        header, _, claims = content.partition(".")
        try:
            if len(token) > _LONGEST or msgspec.json.decode(_decode(header), type=_Header).alg != "HS256":
                raise ValueError
            if not hmac.compare_digest(_decode(signature), self._mac(content)):
                raise ValueError
            found = msgspec.json.decode(_decode(claims), type=Claims)
        except (ValueError, binascii.Error, msgspec.MsgspecError):
            raise Unauthorized("the bearer token is not one that this registry believes") from None
        now = time.time()
        if found.iss != self._issuer or found.aud != self.service or found.iat > now + _LEEWAY:
            raise Unauthorized("the bearer token is meant for another registry")
        if found.exp < now - _LEEWAY:
            raise Unauthorized("the bearer token has expired")
        return found

    def _mac(self, content: str) -> bytes:
        return hmac.new(self._key, content.encode(), hashlib.sha256).digest()


def key_at(path: Path) -> bytes:
    """The secret key in a file, made at the first time. Raises Internal."""
    try:
        if not path.exists():
            write_atomic(path, secrets.token_bytes(32), mode=0o600)
        if os.stat(path).st_mode & 0o077:
            raise Internal(
                f"The token key {path} can be read by others than its owner: chmod 600 it, or make a new one"
            )
        key = path.read_bytes()
    except OSError as error:
        raise Internal(f"The token key cannot be used: {describe(error)}") from error
    if len(key) < 32:
        raise Internal(f"The token key {path} is shorter than 32 bytes; remove it, and a new one is made")
    return key


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
