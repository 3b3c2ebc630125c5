"""Registry passwords that `cove login` keeps, and the header that carries one to the daemon.

They lie in COVE_CONFIG (else ~/.config/cove)/auth.json, mode 0600, in the field's usual form:
{"auths": {"registry.example": {"auth": "base64 of user:password"}}}. What other tools stored in
DOCKER_CONFIG (else ~/.docker)/config.json is read as well, and never written. Either file may name helper
programs ("credHelpers": {registry: NAME}, "credsStore": NAME), which then keep the passwords instead.
"""

from __future__ import annotations

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64

from cove.cli import helpers
from cove.client.codec import decode, encode
from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_HUB = "https://index.docker.io/v1/"


def own_path() -> str:
    directory = os.environ.get("COVE_CONFIG") or os.path.expanduser("~/.config/cove")
    return os.path.join(directory, "auth.json")


def _foreign_path() -> str:
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return os.path.join(directory, "config.json")


def find(registry: str) -> dict[str, str]:
    """{username, password, serveraddress} (or an identitytoken) for a registry, or {} when none is kept."""
    for path in (own_path(), _foreign_path()):
        content = _read(path)
        if (helper := _helper(content, registry)) and (found := helpers.get(helper, _server(registry))):
            return {**found, "serveraddress": _server(registry)}
        kept = content.get("auths") or {}
        for name in _names(registry):
            if found := _unpack(kept.get(name) or {}, path):
                return {**found, "serveraddress": name}
    return {}


def header(registry: str) -> str:
    """The X-Registry-Auth of a request: base64 (URL alphabet) of the credentials' JSON, or ""."""
    found = find(registry)
    return b2a_base64(encode(found), newline=False).translate(bytes.maketrans(b"+/", b"-_")).decode() if found else ""


def all_headers() -> str:
    """The X-Registry-Config of a build: base64 of the credentials of every registry that has some, or ""."""
    found: dict[str, dict[str, str]] = {}
    for path in (_foreign_path(), own_path()):
        for name, entry in (_read(path).get("auths") or {}).items():
            if kept := _unpack(entry or {}, path):
                found[name] = kept
    return b2a_base64(encode(found), newline=False).translate(bytes.maketrans(b"+/", b"-_")).decode() if found else ""


def keep(registry: str, username: str, password: str) -> str:
    """Store a password; returns where: a path, or a helper program."""
    for path in (own_path(), _foreign_path()):
        if helper := _helper(_read(path), registry):
            helpers.store(helper, _server(registry), username, password)
            return f"docker-credential-{helper}"
    path = own_path()
    content = _read(path)
    auth = b2a_base64(f"{username}:{password}".encode(), newline=False).decode()
    content.setdefault("auths", {})[registry] = {"auth": auth}
    _write(path, content)
    return path


def forget(registry: str) -> bool:
    """Remove a stored password, wherever `keep` may have put it; whether there was one."""
    kept = {helper for path in (own_path(), _foreign_path()) if (helper := _helper(_read(path), registry))}
    erased = [helpers.erase(helper, _server(registry)) for helper in sorted(kept)]
    path = own_path()
    content = _read(path)
    if (content.get("auths") or {}).pop(registry, None) is None:
        return any(erased)
    _write(path, content)
    return True


def _names(registry: str) -> Iterable[str]:
    """What a registry is called in the files."""
    return ("docker.io", "index.docker.io", _HUB) if registry == "docker.io" else (registry, f"https://{registry}")


def _server(registry: str) -> str:
    """What a registry is called for helpers."""
    return _HUB if registry == "docker.io" else registry


def _helper(content: dict[str, Any], registry: str) -> str:
    """The helper that keeps a registry's password; "" for none."""
    chosen = content.get("credHelpers") or {}
    for name in _names(registry):
        if chosen.get(name):
            return str(chosen[name])
    return str(content.get("credsStore") or "")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return dict(decode(file.read() or b"{}"))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, PermissionError) as error:
        raise InvalidArgument(f"the file of registry passwords {path} cannot be read: {error}") from error


def _write(path: str, content: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        file.write(encode(content) + b"\n")
        file.flush()
        os.fsync(fd)
    os.replace(temporary, path)


def _unpack(entry: dict[str, Any], path: str) -> dict[str, str]:
    """What an entry of "auths" holds; {} for an empty one, which helpers leave behind."""
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"])}
    if not entry.get("auth"):
        return {}
    try:
        username, _, password = a2b_base64(entry["auth"]).decode().partition(":")
    except (Base64Error, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the file of registry passwords {path} has a damaged entry: {error}") from error
    return {"username": username, "password": password}
