"""The digest of an archive as if none of its files had a time: what only was touched is the same again.

Where a header stands is told by sizes and kinds, which are hashed: two archives of one digest differ in times alone.
Source: POSIX.1-2024, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

import hashlib
import mmap
import os

_BLOCK = 512
_SIZE, _MTIME, _KIND, _MAGIC = slice(124, 136), slice(136, 148), 156, slice(257, 262)
_TIMES = (b"mtime=", b"atime=", b"ctime=")


def digest(archive: int) -> str | None:
    """Of an archive that a descriptor holds; None for one that is compressed, or no archive."""
    length = os.fstat(archive).st_size
    if length < _BLOCK:
        return None
    found = hashlib.sha256()
    with mmap.mmap(archive, length, prot=mmap.PROT_READ) as memory, memoryview(memory) as view:
        if memory[_MAGIC] != b"ustar":
            return None
        at = 0
        while at + _BLOCK <= length:
            header = memory[at : at + _BLOCK]
            at += _BLOCK
            size = _number(header[_SIZE])
            body = view[at : at + size]
            if header[_KIND : _KIND + 1] == b"x":
                records = _without_times(bytes(body))
                found.update(b"%b%d %b%b" % (header[: _SIZE.start], len(records), header[_KIND:], records))
            else:
                found.update(header[: _MTIME.start])
                found.update(header[_KIND:])
                found.update(body)
            body.release()
            at += size + -size % _BLOCK
    return f"sha256:{found.hexdigest()}"


def _number(field: bytes) -> int:
    """Octal, or GNU's base 256; 0 for what is neither."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << 88) - 1)
    try:
        return int(field.rstrip(b" \0") or b"0", 8)
    except ValueError:
        return 0


def _without_times(records: bytes) -> bytes:
    """Extended header records, those of times left out; all of them if they are not well formed."""
    kept, at = [], 0
    while at < len(records):
        space = records.find(b" ", at, at + 20)
        if space < 0 or not records[at:space].isdigit() or not int(records[at:space]):
            return records
        end = at + int(records[at:space])
        if not records[space + 1 : end].startswith(_TIMES):
            kept.append(records[at:end])
        at = end
    return b"".join(kept)
