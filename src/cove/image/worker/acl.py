"""POSIX access control lists: from the text that tar archives carry to the attribute that the kernel takes.

    SCHILY.acl.access=user::rwx,user:bob:r-x:1000,group::r-x,mask::r-x,other::---
                                 name or number ┘   └ number, as star writes it

Sources: acl(5) for the text; linux/posix_acl_xattr.h for the attribute: version 2, then entries of tag (16
bits), permissions (16) and id (32), little-endian, in the order of their tags.
"""

from __future__ import annotations

import re
import struct

from cove.errors import InvalidArgument

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFFFFFF
_TAGS = {
    ("user", False): 0x01,
    ("user", True): 0x02,
    ("group", False): 0x04,
    ("group", True): 0x08,
    ("mask", False): 0x10,
    ("other", False): 0x20,
}
_KINDS = {"u": "user", "g": "group", "m": "mask", "o": "other"}
_PERMISSIONS = re.compile(r"[r-][w-][x-]")
_MOST = 1000


def from_text(text: str, member: str) -> bytes:
    """The attribute's value. InvalidArgument for what is no list, or names somebody without a number."""
    entries: list[tuple[int, int, int]] = []
    lines = [line.partition("#")[0].strip() for line in re.split(r"[,\n]", text)]
    for line in filter(None, lines):
        kind, _, rest = line.partition(":")
        who, _, rest = rest.partition(":")
        permissions, _, number = rest.partition(":")
        tag = _TAGS.get((_KINDS.get(kind, kind), bool(who)))
        if tag is None or _PERMISSIONS.fullmatch(permissions) is None or len(entries) >= _MOST:
            raise InvalidArgument(f"the archive's member {member[:200]!r} has a damaged access control list")
        bits = sum(bit for bit, letter in zip((4, 2, 1), permissions, strict=True) if letter != "-")
        entries.append((tag, bits, _identity(who, number, member) if who else _NOBODY))
    return _VERSION + b"".join(
        _ENTRY.pack(*entry) for entry in sorted(entries, key=lambda entry: (entry[0], entry[2]))
    )


def _identity(who: str, number: str, member: str) -> int:
    for text in (number, who):
        if text.isascii() and text.isdecimal() and len(text) < 11 and int(text) < _NOBODY:
            return int(text)
    raise InvalidArgument(
        f"the archive's member {member[:200]!r} has an access control list for {who[:100]!r} without a number; "
        f"pack it with --numeric-owner"
    )
