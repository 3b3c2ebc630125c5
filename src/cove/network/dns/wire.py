"""DNS messages (RFC 1035, EDNS of RFC 6891): a query is read, an answer is written. Pure functions on bytes.

Reads only what a resolver for containers needs: the header, the one question and the size that the client's
OPT record allows. Everything else of a query passes through to other servers untouched.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
IN = 1
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")
_TTL = 5
"""Seconds: a name may lead elsewhere as soon as its container is replaced."""
_PLAIN_LIMIT = 512
_OUR_LIMIT = 1232
_MAX_NAME = 255


class Query(NamedTuple):
    """A query as it came. `name` is lower case without the last dot; `limit` bytes of answer fit into a datagram.

    `rcode` other than NOERROR: it cannot be answered otherwise.
    """

    id: int
    flags: int
    name: str
    type: int
    question: bytes
    limit: int = _PLAIN_LIMIT
    edns: bool = False
    rcode: int = NOERROR


class Answer(NamedTuple):
    """One record for the name that was asked: an address or, for PTR, a name."""

    type: int
    value: str


def parse(data: bytes) -> Query | None:
    """Read a query; None for what is none and gets no answer."""
    if len(data) < _HEADER.size:
        return None
    identity, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        return None
    broken = Query(identity, flags, "", 0, b"", rcode=FORMERR)
    if flags & _OPCODE:
        return broken._replace(rcode=NOTIMP)
    if questions != 1 or answers or authorities:
        return broken
    try:
        name, at = _name(data, _HEADER.size)
        kind, klass = struct.unpack_from(">HH", data, at)
    except (ValueError, struct.error):
        return broken
    query = Query(identity, flags, name, kind, data[_HEADER.size : at + 4])
    if klass != IN:
        return query._replace(rcode=REFUSED)
    return _with_edns(query, data, at + 4, additional)


def _with_edns(query: Query, data: bytes, at: int, additional: int) -> Query:
    for _ in range(additional):
        try:
            _, at = _name(data, at)
            kind, size, extended, length = _RECORD.unpack_from(data, at)
        except (ValueError, struct.error):
            return query._replace(rcode=FORMERR)
        at += _RECORD.size + length
        if kind == OPT:
            version = extended >> 16 & 0xFF
            return query._replace(
                edns=True,
                limit=max(_PLAIN_LIMIT, min(size, 4096)),
                rcode=BADVERS if version else NOERROR,
            )
    return query


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name written out in labels, as questions have it; where it ends. ValueError for anything else."""
    labels: list[str] = []
    length = 0
    while True:
        if at >= len(data):
            raise ValueError("the name has no end")
        size = data[at]
        at += 1
        if size == 0:
            return ".".join(labels), at
        length += size + 1
        if size > 63 or length > _MAX_NAME or at + size > len(data):
            raise ValueError("not a label")
        labels.append(data[at : at + size].decode("latin-1").lower())
        at += size


def respond(query: Query, answers: Sequence[Answer] = (), rcode: int = NOERROR, *, limit: int = 65535) -> bytes:
    """The answer to a query; what does not fit into `limit` bytes is left out, and the answer marked so."""
    option = b"\0" + _RECORD.pack(OPT, _OUR_LIMIT, rcode >> 4 << 24, 0) if query.edns else b""
    room = limit - _HEADER.size - len(query.question) - len(option)
    records: list[bytes] = []
    flags = _QR | _AA | _RA | query.flags & (_RD | _OPCODE) | rcode & 0xF
    for answer in answers:
        record = _record(answer)
        room -= len(record)
        if room < 0:
            flags |= _TC
            break
        records.append(record)
    counts = (1 if query.question else 0, len(records), 0, 1 if option else 0)
    return _HEADER.pack(query.id, flags, *counts) + query.question + b"".join(records) + option


def _record(answer: Answer) -> bytes:
    """The record's owner is a pointer to the question's name."""
    if answer.type == PTR:
        value = b"".join(bytes([len(each)]) + each.encode("latin-1") for each in answer.value.split(".") if each)
        value += b"\0"
    else:
        value = ipaddress.ip_address(answer.value).packed
    return b"\xc0\x0c" + _RECORD.pack(answer.type, IN, _TTL, len(value)) + value


def renumbered(message: bytes, identity: int) -> bytes:
    """The same message under another number."""
    return identity.to_bytes(2, "big") + message[2:]


def answers(message: bytes, identity: int, question: bytes) -> bool:
    """Whether `message` is an answer with this number to this question (names compare without case)."""
    if len(message) < _HEADER.size or not message[2] & 0x80 or int.from_bytes(message[:2], "big") != identity:
        return False
    asked = message[_HEADER.size : _HEADER.size + len(question)]
    return asked.lower() == question.lower()


def rcode(message: bytes) -> int:
    return message[3] & 0xF


def addresses(message: bytes) -> list[tuple[str, int]]:
    """The addresses an answer gives, each with its time to live in seconds; none of a damaged one."""
    found: list[tuple[str, int]] = []
    try:
        _, _, questions, count, _, _ = _HEADER.unpack_from(message)
        at = _HEADER.size
        for _ in range(questions):
            at = _skip(message, at) + 4
        for _ in range(count):
            at = _skip(message, at)
            kind, _, ttl, length = _RECORD.unpack_from(message, at)
            at += _RECORD.size
            if (kind, length) in ((A, 4), (AAAA, 16)):
                found.append((str(ipaddress.ip_address(message[at : at + length])), ttl))
            at += length
    except (IndexError, ValueError, struct.error):
        return []
    return found


def _skip(message: bytes, at: int) -> int:
    """Past a name, compressed or not."""
    while size := message[at]:
        if size >= 0xC0:
            return at + 2
        at += size + 1
    return at + 1


def reverse_address(name: str) -> str:
    """The address that a name under in-addr.arpa or ip6.arpa asks for, "" when it is none."""
    try:
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            return str(ipaddress.IPv6Address(int(digits, 16))) if len(digits) == 32 else ""
    except ValueError:
        return ""
    return ""


def address_answers(found: Iterable[str], kind: int) -> list[Answer]:
    """Those of the addresses that a question of this type asks for."""
    answers_ = [Answer(AAAA if ":" in each else A, each) for each in found]
    return [each for each in answers_ if kind in (each.type, ANY)]
