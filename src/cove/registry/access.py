"""Who may do what: nobody asked, passwords, or tokens.

    open       no password file: everybody may do everything
    basic      every request shows a user's password
    token      GET /token with a password (or without, if anonymous pulls are allowed) ─▶ a token for the
               scopes asked for; every other request shows it. A password is accepted there too.

Users of the password file may do everything; nobody may push to a registry that is read-only, which the
routes see to.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cove.errors import Unauthorized
from cove.httpd.messages import Request
from cove.registry.metrics import Metrics
from cove.registry.passwords import Passwords
from cove.registry.refusals import Refused
from cove.registry.tokens import Grant, Signer

PULL, PUSH, DELETE = "pull", "push", "delete"
_ALL = ("pull", "push", "delete")
_REALM = "Cove registry"
_HASHERS = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks; `access` is what a token grants, None for a user, who may do everything."""

    user: str
    access: tuple[Grant, ...] | None = None

    def may(self, action: str, repository: str) -> bool:
        if self.access is None:
            return True
        return any(
            grant.type == "repository"
            and grant.name == repository
            and (action in grant.actions or "*" in grant.actions)
            for grant in self.access
        )

    def may_list(self) -> bool:
        """Whether everything may be looked over: the catalogue, the page, the metrics."""
        if self.access is None:
            return True
        return any(grant.type == "registry" and grant.name == "catalog" for grant in self.access)


_ANYBODY = Identity("")


class Access:
    """The registry's door; `url` is how clients reach it, "" for as the request says."""

    def __init__(
        self,
        passwords: Passwords | None,
        signer: Signer | None,
        metrics: Metrics,
        *,
        anonymous_pull: bool = False,
        url: str = "",
    ) -> None:
        self._passwords = passwords
        self._signer = signer
        self._metrics = metrics
        self._anonymous_pull = anonymous_pull
        self._url = url.rstrip("/")
        self._hashers = ThreadPoolExecutor(_HASHERS, thread_name_prefix="bcrypt")

    def close(self) -> None:
        self._hashers.shutdown(wait=False, cancel_futures=True)

    @property
    def open(self) -> bool:
        return self._passwords is None

    # ── at every request ──────────────────────────────────────────────────────────────────────────

    async def check(self, request: Request, repository: str, *actions: str) -> Identity:
        """Who asks, if they may do `actions` there. Raises Refused with the challenge to answer."""
        if self._passwords is None:
            return _ANYBODY
        scope = f"repository:{repository}:{','.join(actions)}" if repository else ""
        identity = await self._identity(request, scope)
        for action in actions:
            if not identity.may(action, repository):
                raise self._challenge(request, scope, "the token does not allow this", error="insufficient_scope")
        return identity

    async def check_overview(self, request: Request, *, page: bool = False) -> Identity:
        """Who asks, if they may see everything; a `page` is asked for by a browser, which knows only passwords."""
        if self._passwords is None or (page and self._anonymous_pull):
            return _ANYBODY
        scope = "registry:catalog:*"
        identity = await self._identity(request, scope, browser=page)
        if not identity.may_list():
            raise self._challenge(request, scope, "the token does not allow this", error="insufficient_scope")
        return identity

    def mounts_from(self, identity: Identity, repository: str) -> bool:
        """Whether they may take a blob over from another repository ("": any)."""
        return identity.access is None or (repository != "" and identity.may(PULL, repository))

    async def _identity(self, request: Request, scope: str, *, browser: bool = False) -> Identity:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        match scheme.lower():
            case "basic":
                return Identity(await self._user(request, value.strip(), scope, browser=browser))
            case "bearer" if self._signer is not None:
                try:
                    claims = self._signer.verify(value.strip())
                except Unauthorized as error:
                    raise self._challenge(request, scope, error.message, error="invalid_token") from error
                return Identity(claims.sub, claims.access)
        raise self._challenge(request, scope, "authentication required", browser=browser)

    async def _user(self, request: Request, value: str, scope: str, *, browser: bool = False) -> str:
        try:
            user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = colon = password = ""
        if colon and await self._verify(user, password):
            return user
        self._metrics.count("cove_registry_refused_logins_total")
        raise self._challenge(request, scope, "the user or the password is wrong", browser=browser)

    async def _verify(self, user: str, password: str) -> bool:
        assert self._passwords is not None
        if self._passwords.known(user, password):
            return True
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._hashers, self._passwords.verify, user, password)

    def _challenge(
        self, request: Request, scope: str, message: str, *, error: str = "", browser: bool = False
    ) -> Refused:
        if self._signer is None or browser:
            value = f'Basic realm="{_REALM}", charset="UTF-8"'
        else:
            value = f'Bearer realm="{self._base(request)}/token",service="{self._signer.service}"'
            value += f',scope="{scope}"' if scope else ""
            value += f',error="{error}"' if error else ""
        code = "DENIED" if error == "insufficient_scope" else "UNAUTHORIZED"
        return Refused(401, code, message, ("WWW-Authenticate", value))

    def _base(self, request: Request) -> str:
        if self._url:
            return self._url
        host = request.headers.get("host", "")
        sane = "".join(character for character in host if character.isalnum() or character in ".-:[]")
        return f"{'https' if request.secure else 'http'}://{sane}"

    # ── tokens ────────────────────────────────────────────────────────────────────────────────────

    async def token(self, request: Request, form: dict[str, str], scopes: list[str]) -> dict[str, object]:
        """A token for the scopes that whoever asks may have. Raises Refused."""
        if self._signer is None:
            raise Refused(404, "UNSUPPORTED", "this registry gives no tokens")
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        value = value.strip() if scheme.lower() == "basic" else ""
        if form.get("grant_type") == "password":
            pair = f"{form.get('username', '')}:{form.get('password', '')}"
            value = base64.b64encode(pair.encode()).decode()
        user = await self._user(request, value, "", browser=True) if value else ""
        if not user and not self._anonymous_pull:
            raise self._challenge(request, "", "authentication required", browser=True)
        granted = _granted(scopes, _ALL if user else (PULL,), overview=bool(user) or self._anonymous_pull)
        token = self._signer.sign(user, granted)
        return {"token": token, "access_token": token, "expires_in": int(self._signer.life)}


def _granted(scopes: list[str], allowed: tuple[str, ...], *, overview: bool) -> tuple[Grant, ...]:
    """Of the scopes "type:name:action,action" what is allowed; the name may have colons."""
    grants = []
    for scope in " ".join(scopes).split()[:100]:
        kind, _, rest = scope.partition(":")
        name, _, asked = rest.rpartition(":")
        actions = tuple(action for action in allowed if action in asked.split(",") or "*" in asked.split(","))
        if kind == "repository" and actions:
            grants.append(Grant(type=kind, name=name, actions=actions))
        elif kind == "registry" and name == "catalog" and overview:
            grants.append(Grant(type=kind, name=name, actions=("*",)))
    return tuple(grants)
