"""Who a user is at a registry, as clients send it with their requests."""

from __future__ import annotations

import base64
import binascii

import msgspec

from cove.errors import InvalidArgument


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sends in X-Registry-Auth; all empty means anonymous. Never printed."""

    username: str = ""
    password: str = ""
    auth: str = ""
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")
    server_address: str = msgspec.field(default="", name="serveraddress")

    @classmethod
    def from_header(cls, value: str) -> Credentials:
        """The credentials in a X-Registry-Auth header: base64url of JSON, padded or not."""
        if not value:
            return cls()
        try:
            raw = base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
            found = msgspec.json.decode(raw or b"{}")
            credentials = msgspec.convert({k: v for k, v in (found or {}).items() if v is not None}, cls)
            return credentials._completed()
        except (binascii.Error, msgspec.MsgspecError, AttributeError, UnicodeDecodeError) as error:
            # The value itself stays out of the message: it is a secret.
            raise InvalidArgument("invalid X-Registry-Auth header: it is not base64url-encoded JSON") from error

    def _completed(self) -> Credentials:
        """With `auth` ("user:password" in base64) taken apart, as old configuration files have it."""
        if self.username or not self.auth:
            return self
        username, _, password = base64.b64decode(self.auth).decode().partition(":")
        return msgspec.structs.replace(self, username=username, password=password.rstrip("\0"), auth="")

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, …)"

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
