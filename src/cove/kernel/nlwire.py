"""Netlink's wire: headers, attributes, sockets and acknowledged batches, for every netlink family.

Owns the encoding (netlink(7): a 16-byte header, then 4-byte aligned attributes) and the exchange. Knows
nothing of links or rules: `cove.kernel.netlink` (rtnetlink) and `cove.kernel.nftables` build on it.

    Socket.commit(requests)    one datagram, acknowledged as a whole, the first refusal raised
    Socket.dump(request)       one question, all its answers
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_RECEIVE = 1 << 18
_ACKNOWLEDGEMENT = 4096  # one is 36 bytes (NETLINK_CAP_ACK); a larger buffer is mapped anew for each


class Request(NamedTuple):
    """One message to the kernel; `call` and `subject` say in an error what was asked, and of whom."""

    type: int
    flags: int
    body: bytes
    call: str
    subject: str = ""


class Message(NamedTuple):
    """One message from the kernel; `port` is the netlink port of whoever caused it."""

    type: int
    flags: int
    sequence: int
    port: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) & 3)


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(1, "little"))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A number in network byte order, as nfnetlink wants it."""
    return attribute(kind, value.to_bytes(4, "big"))


def nest(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(children))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) pairs of an encoded run of attributes."""
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def string(value: bytes) -> str:
    """A NUL-terminated string, decoded."""
    return value.rstrip(b"\0").decode("utf-8", "replace")


def messages(data: bytes) -> Iterator[Message]:
    """The messages in one received datagram."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield Message(kind, flags, sequence, port, data[at + HEADER.size : at + length])
        at += (length + 3) & ~3


class Socket:
    """A netlink socket of one family, bound to the network namespace of the thread that made it."""

    def __init__(self, family: int, *, groups: Iterable[int] = ()) -> None:
        """`groups` are the numbers of the multicast groups to join."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sequence = 0
        try:
            self._socket.bind((0, sum(1 << (group - 1) for group in groups)))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """This socket's own netlink port, as notifications name it."""
        port: int = self._socket.getsockname()[0]
        return port

    def commit(self, requests: Sequence[Request]) -> None:
        """Send all in one datagram and wait until the last is acknowledged; a refusal is answered unasked.

        The kernel carries them out in order and goes on after a refusal: of several, the first is raised,
        as OSError with the call in its text and the subject as its file name.
        """
        if not requests:
            return
        first = self._sequence + 1
        self._send([*((request, 0) for request in requests[:-1]), (requests[-1], NLM_F_ACK)])
        failure: OSError | None = None
        pending = True
        while pending:
            for message in messages(self._socket.recv(_ACKNOWLEDGEMENT)):
                if message.type != NLMSG_ERROR or not first <= message.sequence <= self._sequence:
                    continue
                pending = message.sequence != self._sequence
                code = -_ERRNO.unpack_from(message.body)[0]
                if code and failure is None:
                    failure = _refused(code, requests[message.sequence - first])
        if failure is not None:
            raise failure

    def dump(self, request: Request) -> list[Message]:
        """All answers to a request for a list."""
        self._send([(request, NLM_F_DUMP)])
        return list(self._answers(request))

    def get(self, request: Request) -> Message:
        """The one answer to a request for one object."""
        self._send([(request, 0)])
        while True:
            for message in messages(self._socket.recv(_RECEIVE)):
                if message.sequence != self._sequence:
                    continue
                if message.type == NLMSG_ERROR:
                    raise _refused(-_ERRNO.unpack_from(message.body)[0], request)
                return message

    def send(self, data: bytes) -> None:
        """A datagram built by the caller."""
        self._socket.send(data)

    def receive(self) -> list[Message]:
        """Whatever waits (or comes) as one datagram."""
        return list(messages(self._socket.recv(_RECEIVE)))

    def set_blocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def _send(self, requests: Iterable[tuple[Request, int]]) -> None:
        parts: list[bytes] = []
        for request, extra in requests:
            self._sequence += 1
            parts.append(encode(request, extra, self._sequence))
        self._socket.send(b"".join(parts))

    def _answers(self, request: Request) -> Iterator[Message]:
        while True:
            for message in messages(self._socket.recv(_RECEIVE)):
                if message.sequence != self._sequence:
                    continue
                if message.type == NLMSG_ERROR:
                    raise _refused(-_ERRNO.unpack_from(message.body)[0], request)
                if message.type == NLMSG_DONE:
                    return
                yield message


def encode(request: Request, extra: int, sequence: int) -> bytes:
    """A request as the kernel reads it, padded to four bytes."""
    length = HEADER.size + len(request.body)
    flags = request.flags | extra | NLM_F_REQUEST
    return HEADER.pack(length, request.type, flags, sequence, 0) + request.body + bytes(-length & 3)


def _refused(code: int, request: Request) -> OSError:
    return OSError(code, f"{request.call}: {os.strerror(code)}", request.subject or None)
