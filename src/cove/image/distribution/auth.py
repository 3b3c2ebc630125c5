"""Who we are to a registry: credentials, challenges and tokens.

    GET /v2/  ─▶ 401, WWW-Authenticate: Bearer realm="https://auth…/token",service="…"
    GET https://auth…/token?service=…&scope=repository:library/x:pull   (Basic, if there are credentials)
              ─▶ {"token": "…", "expires_in": 300}
    GET /v2/library/x/…   Authorization: Bearer …

or plainly `Basic`. Only the registry's own answer may pose a challenge: one from wherever a redirect
led is never answered. Credentials go to the registry and to the realm it names, encrypted both, unless
the registry itself is spoken to in plain HTTP; a redirect never carries them on.

Sources: RFC 9110 section 11, distribution's token and oauth2 specifications, Docker's X-Registry-Auth.
"""

from __future__ import annotations

import re
import threading
import time
from urllib.parse import urlencode, urlsplit

import msgspec

from cove.errors import Unauthorized, Unavailable
from cove.image.distribution.credentials import Credentials
from cove.image.distribution.transport import Call, Response, Transport, error_body, host_of

_DEFAULT_LIFE = 60
_MARGIN = 10
_MAX_TOKEN = 1 << 20
_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+(?=[A-Za-z_-]+\s*=)|\s*(?:,|$))")


class Challenge(msgspec.Struct, frozen=True):
    """One way in that the server offers; `scheme` in lower case."""

    scheme: str
    parameters: dict[str, str]


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: int = _DEFAULT_LIFE


class _Held(msgspec.Struct, frozen=True):
    header: str
    until: float


def challenges(response: Response) -> tuple[Challenge, ...]:
    """The challenges of a 401 answer."""
    found = []
    for header in response.headers.getlist("WWW-Authenticate"):
        starts = list(_SCHEME.finditer(header))
        for start, following in zip(starts, [*starts[1:], None], strict=True):
            text = header[start.end() : following.start() if following else len(header)]
            parameters = {
                m[1].lower(): re.sub(r"\\(.)", r"\1", m[2]) if m[2] is not None else m[3]
                for m in _PARAMETER.finditer(text)
            }
            found.append(Challenge(start[1].lower(), parameters))
    return tuple(found)


class Authenticator:
    """Turns one registry's challenges and one user's credentials into Authorization headers."""

    def __init__(self, transport: Transport, registry: str, credentials: Credentials) -> None:
        """`registry` is its base address, e.g. "https://quay.io"."""
        self._transport = transport
        self._registry = registry
        self._credentials = credentials
        self._challenges: tuple[Challenge, ...] = ()
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def challenged(self, found: tuple[Challenge, ...]) -> None:
        """Remember what the registry itself asked for."""
        if found:
            self._challenges = found

    def forget(self, scope: str) -> None:
        """The registry refused what `scope` has: fetch afresh next time."""
        with self._lock:
            self._held.pop(scope, None)

    def header(self, scope: str, cancel: threading.Event | None = None) -> str:
        """The Authorization for `scope` ("repository:library/x:pull", "" for none); "" when none is needed."""
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                return self._bearer(challenge, scope, cancel)
        if any(challenge.scheme == "basic" for challenge in self._challenges) and self._credentials.username:
            return self._credentials.basic
        return ""

    def _bearer(self, challenge: Challenge, scope: str, cancel: threading.Event | None) -> str:
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        with self._lock:  # held while fetching, so that parallel downloads ask for one token together
            held = self._held.get(scope)
            if held is None or held.until < time.monotonic():
                held = self._fetch(challenge, scope, cancel)
                self._held[scope] = held
            return held.header

    def _fetch(self, challenge: Challenge, scope: str, cancel: threading.Event | None) -> _Held:
        realm = self._checked_realm(challenge.parameters.get("realm", ""))
        call = self._token_request(realm, challenge.parameters.get("service", ""), scope)
        response = self._transport.send(call, cancel=cancel)
        if response.status in {400, 401, 403}:
            error_body(response)
            raise Unauthorized(
                f"unauthorized: {host_of(realm)} refuses "
                + ("these credentials: incorrect username or password" if self._credentials else "anonymous access")
            )
        if response.status != 200:
            error_body(response)
            raise Unavailable(f"the token server {host_of(realm)} answers {response.status}; try again later")
        raw = response.read(_MAX_TOKEN, decode_content=False)
        response.release_conn()
        try:
            token = msgspec.json.decode(raw, type=_Token)
        except msgspec.DecodeError as error:
            raise Unavailable(f"the token server {host_of(realm)} sent something else than a token") from error
        value = token.token or token.access_token
        if not value or not value.isprintable():
            raise Unavailable(f"the token server {host_of(realm)} sent an answer without a token")
        return _Held(f"Bearer {value}", time.monotonic() + max(token.expires_in, _DEFAULT_LIFE) - _MARGIN)

    def _token_request(self, realm: str, service: str, scope: str) -> Call:
        """By refresh token (POST) if the user has one, else by Basic or anonymously (GET)."""
        asked = {name: value for name, value in (("service", service), ("scope", scope)) if value}
        if self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._credentials.identity_token,
                "client_id": "cove",
                **asked,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return Call("POST", realm, headers, urlencode(form).encode())
        headers = {}
        if self._credentials.username:
            asked["account"] = self._credentials.username
            headers["Authorization"] = self._credentials.basic
        separator = "&" if "?" in realm else "?"
        return Call("GET", f"{realm}{separator}{urlencode(asked)}" if asked else realm, headers)

    def _checked_realm(self, realm: str) -> str:
        """`realm` if a secret may be sent there."""
        parts = urlsplit(realm)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise Unavailable(f"the registry {host_of(self._registry)} names no usable token server")
        if parts.scheme == "http" and self._registry.startswith("https:"):
            raise Unauthorized(
                f"the registry {host_of(self._registry)} wants credentials sent to {host_of(realm)} without "
                f"encryption; this is refused"
            )
        return realm
