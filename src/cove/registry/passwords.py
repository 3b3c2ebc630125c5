"""A password file as `htpasswd -B` makes it: "user:$2y$…" a line; read again whenever it changes.

Only bcrypt is believed. What was right once is remembered (by a keyed hash, in memory) as long as the
file says the same, since clients show their password with every request and each look costs 50 ms of CPU.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from cove.errors import Conflict, InvalidArgument, describe
from cove.kernel import crypt
from cove.store.files import write_atomic

_BCRYPT = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
_USER = re.compile(r"[^:\s\0]{1,255}")
_NOBODY = "$2y$10$abcdefghijklmnopqrstuuFlEzrBPOrB4zH0E1zQvF5LkVLb5x0a6"
_REMEMBERED = 1024


class Passwords:
    """The file's users; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, str] = {}
        self.current()

    def current(self) -> dict[str, str]:
        """Users and their entries as they are now. Raises InvalidArgument."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            with self._lock:
                if stamp != self._stamp:
                    self._entries = parse(self._path.read_text(), str(self._path))
                    self._stamp = stamp
                return self._entries
        except (OSError, UnicodeDecodeError) as error:
            reason = describe(error) if isinstance(error, OSError) else f"{self._path} is no text"
            raise InvalidArgument(f"The password file cannot be read: {reason}") from error

    def known(self, user: str, password: str) -> bool:
        """Whether this was found right before: an answer without delay."""
        entry = self.current().get(user)
        with self._lock:
            return entry is not None and self._mark(user, password, entry) in self._right

    def verify(self, user: str, password: str) -> bool:
        """Whether it is right; takes as long for a user that there is not."""
        entry = self.current().get(user)
        try:
            right = hmac.compare_digest(crypt.crypt(password, entry or _NOBODY), entry or "")
        except OSError:
            return False
        if right and entry is not None:
            with self._lock:
                self._right[self._mark(user, password, entry)] = None
                while len(self._right) > _REMEMBERED:
                    self._right.popitem(last=False)
        return right

    def _mark(self, user: str, password: str, entry: str) -> bytes:
        return hmac.new(self._key, f"{user}\0{password}\0{entry}".encode(), hashlib.sha256).digest()


def parse(text: str, name: str) -> dict[str, str]:
    """The users in a password file; InvalidArgument for a line that would let nobody in, or somebody too easily."""
    entries = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, entry = line.strip().partition(":")
        if _USER.fullmatch(user) is None or _BCRYPT.fullmatch(entry) is None:
            raise InvalidArgument(
                f"Line {number} of the password file {name} is no user with a bcrypt entry; make it with "
                "`cove registry passwd` or `htpasswd -B`"
            )
        entries[user] = entry
    return entries


def add(path: Path, user: str, password: str) -> bool:
    """Set a user's password in the file; whether the user is new. Raises InvalidArgument, Conflict."""
    if _USER.fullmatch(user) is None:
        raise InvalidArgument(f"{user[:80]!r} cannot be a user: it has a colon or a space in it, or nothing")
    if not password or len(password.encode()) > 72:
        raise InvalidArgument("The password is empty, or longer than the 72 bytes that bcrypt looks at")
    try:
        old = parse(path.read_text(), str(path)) if path.exists() else {}
        new = {**old, user: crypt.bcrypt(password)}
        write_atomic(path, "".join(f"{name}:{entry}\n" for name, entry in new.items()).encode(), mode=0o600)
    except OSError as error:
        raise Conflict(f"The password file {path} cannot be written: {describe(error)}") from error
    return user not in old
