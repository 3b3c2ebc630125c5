"""Who a container's process is: Docker's user string, looked up in the image's own /etc/passwd and /etc/group.

    "" | name | uid, then optionally ":" and group | gid

The files are the image's and hostile: read bounded, only if regular, lines that make no sense are skipped. A
string of digits is always a number, whatever the files call so; a number beyond 2^31-1 is refused. So no
string but "", "0" or a name whose entry says 0 becomes root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from cove.kernel import rootpath
from cove.runtime.child.common import Failure

MAX_ID = (1 << 31) - 1
_FILE_BYTES = 8 << 20


class Identity(msgspec.Struct, frozen=True):
    """The ids to take; `home` is what HOME becomes where the environment has none.

    `groups` has the primary group too: what denies it something cannot be got around by becoming another group.
    None leaves the groups of whoever made the container.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] | None
    home: str


def resolve(root: int, user: str, group_add: Iterable[str], proc: int | None = None) -> Identity:
    """The identity that `user` and the further groups `group_add` mean inside `root`; Failure when none.

    `proc` as for `rootpath.open_expected`.
    """
    name, _, group = user.partition(":")
    files = _Files(root, proc)
    accounts = list(files.accounts())
    entry = _account(accounts, name)
    if entry is None and _number(name, "user") is None:
        raise Failure(f"unable to find user {name}: no matching entries in passwd file")
    uid = entry.uid if entry else int(name)
    supplementary: list[int] = []
    if group:
        gid = files.group_id(group)
    else:
        gid = entry.gid if entry else 0
        supplementary = [each.gid for each in files.groups() if entry and entry.name in each.members]
    supplementary += [files.group_id(each) for each in group_add]
    return Identity(uid, gid, tuple(dict.fromkeys((gid, *supplementary))), entry.home if entry else "/")


def home_of(root: int, uid: int, proc: int | None = None) -> str:
    """The home directory that the image names for `uid`, "/" when none."""
    return next((each.home for each in _Files(root, proc).accounts() if each.uid == uid), "/")


# ── the files ─────────────────────────────────────────────────────────────────────────────────────


class _Account(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def _account(accounts: list[_Account], name: str) -> _Account | None:
    """The account called `name` or, when that is a number (or empty, for root), the first one with that id."""
    number = _number(name or "0", "user")
    if number is not None:
        found = next((each for each in accounts if each.uid == number), None)
        return found or (_Account("root", 0, 0, "/") if not name else None)
    return next((each for each in accounts if each.name == name), None)


def _number(text: str, kind: str) -> int | None:
    """`text` as an id, None when it is no plain decimal number; Failure when it is none that an id may have."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        return None
    if digits != text or len(text) > 10 or int(text) > MAX_ID:
        raise Failure(f"{kind} {text[:32]} is out of range: uids and gids must be in range 0-{MAX_ID}")
    return int(text)


def _entry_id(text: str) -> int | None:
    """An id of a file's entry; None when the line is to be skipped."""
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None


class _Files:
    """The image's /etc/passwd and /etc/group; `proc` as for `rootpath.open_expected`."""

    def __init__(self, root: int, proc: int | None) -> None:
        self._root = root
        self._proc = proc

    def accounts(self) -> Iterator[_Account]:
        for parts in self._lines("/etc/passwd", 6):
            uid, gid = _entry_id(parts[2]), _entry_id(parts[3])
            if uid is not None and gid is not None:
                yield _Account(parts[0], uid, gid, parts[5] or "/")

    def groups(self) -> Iterator[_Group]:
        for parts in self._lines("/etc/group", 3):
            gid = _entry_id(parts[2])
            if gid is not None:
                yield _Group(parts[0], gid, tuple(parts[3].split(",")) if len(parts) > 3 else ())

    def group_id(self, group: str) -> int:
        number = _number(group, "group")
        if number is not None:
            return number
        found = next((each.gid for each in self.groups() if each.name == group), None)
        if found is None:
            raise Failure(f"unable to find group {group}: no matching entries in group file")
        return found

    def _lines(self, path: str, fields: int) -> Iterator[list[str]]:
        """The entries of a passwd-like file; an unreadable, endless or irregular file has none."""
        try:
            content = rootpath.read_small(self._root, path, _FILE_BYTES, proc=self._proc)
        except OSError:
            return
        for line in content.decode("utf-8", "replace").split("\n"):
            parts = line.strip().split(":")
            if len(parts) >= fields and parts[0] and not parts[0].startswith("#"):
                yield parts
