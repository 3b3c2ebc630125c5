"""Owners by name, as --chown gives them: looked up in a tree's own /etc/passwd and /etc/group.

The files are a stranger's: read bounded, lines that make no sense are skipped. A string of digits is a number,
whatever the files call so.
"""

from __future__ import annotations

from collections.abc import Iterator

from cove.errors import InvalidArgument
from cove.kernel.rootpath import read_small

_MOST = (1 << 31) - 1
_FILE_BYTES = 8 << 20


def owner_of(root: int, text: str) -> tuple[int, int]:
    """ "user", "user:group", numbers or names; a group not given is the number of the user."""
    user, colon, group = text.partition(":")
    uid, own = _user(root, user)
    if not colon or not group:
        return uid, own if not colon else uid
    return uid, _group(root, group)


def user_of(root: int, text: str, proc: int | None) -> tuple[int, int]:
    """The ids of a process that runs as "user", "user:group", ":group"; without a group, the user's own or 0.

    `proc`: for a tree that others may change meanwhile, as for `rootpath.open_expected`.
    """
    user, _, group = text.partition(":")
    uid, gid = 0, 0
    if user:
        number = _number(user, "user")
        uid, gid = _user(root, user, proc) if number is None else (number, _own_group(root, number, proc))
    return uid, _group(root, group, proc) if group else gid


def _own_group(root: int, uid: int, proc: int | None) -> int:
    """The group of the first user with this number; 0 for a number without a name."""
    for fields in _lines(root, "etc/passwd", 4, proc):
        if fields[2] == str(uid) and fields[3].isdecimal():
            return int(fields[3])
    return 0


def _user(root: int, name: str, proc: int | None = None) -> tuple[int, int]:
    number = _number(name, "user")
    if number is not None:
        return number, number
    for fields in _lines(root, "etc/passwd", 4, proc):
        if fields[0] == name and fields[2].isdecimal() and fields[3].isdecimal():
            return int(fields[2]), int(fields[3])
    raise InvalidArgument(f"invalid user {name!r}: there is no such name in the image's /etc/passwd")


def _group(root: int, name: str, proc: int | None = None) -> int:
    number = _number(name, "group")
    if number is not None:
        return number
    for fields in _lines(root, "etc/group", 3, proc):
        if fields[0] == name and fields[2].isdecimal():
            return int(fields[2])
    raise InvalidArgument(f"invalid group {name!r}: there is no such name in the image's /etc/group")


def _number(text: str, kind: str) -> int | None:
    if not (text.isascii() and text.isdecimal()):
        return None
    if int(text) > _MOST:
        raise InvalidArgument(f"invalid {kind} {text}: it is beyond {_MOST}")
    return int(text)


def _lines(root: int, path: str, least: int, proc: int | None) -> Iterator[list[str]]:
    try:
        content = read_small(root, path, _FILE_BYTES, proc=proc)
    except OSError:
        return
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(":")
        if len(fields) >= least:
            yield fields
