"""One packet format for every SEQPACKET socket between Cove's processes, with descriptors beside it.

Owns framing and fd passing. It never knows what a message means: bodies are bytes.

    packet  = number (8 bytes) · kind (1 byte) · body       fds in SCM_RIGHTS
    kind 0  = the body is here;   kind 1 = the body is in a memfd, which is the first descriptor

Sockets keep the limits of net.core.wmem_max, so a body of more than 64 KiB travels in a memfd.
Every descriptor that arrives is close-on-exec.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

_HEAD = struct.Struct("=QB")
_INLINE = 64 << 10
_MAX_FDS = 32


class Packet(NamedTuple):
    """What arrived: the request's number, the body and the descriptors, which the receiver owns."""

    number: int
    body: bytes
    fds: tuple[int, ...]

    def close(self) -> None:
        """Close descriptors that nobody wants."""
        for fd in self.fds:
            os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected SEQPACKET ends, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, number: int, body: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet whole. Raises OSError (BrokenPipeError, BlockingIOError on a full non-blocking socket)."""
    if len(body) <= _INLINE:
        _send(sock, [_HEAD.pack(number, 0), body], fds)
        return
    memory = os.memfd_create("cove-packet", os.MFD_CLOEXEC)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(memory, view) :]
        _send(sock, [_HEAD.pack(number, 1)], [memory, *fds])
    finally:
        os.close(memory)


def _send(sock: socket.socket, parts: list[bytes], fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    sock.sendmsg(parts, rights, socket.MSG_NOSIGNAL)


def arrived(sock: socket.socket) -> Packet | None:
    """What made a socket readable; None when the other end is gone, in whichever way. Raises BlockingIOError."""
    try:
        return receive(sock)
    except BlockingIOError:
        raise
    except OSError:
        return None


def message(sock: socket.socket, size: int, descriptors: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive a message that may be no packet of ours; unlike `socket.recv_fds`, which forgets its flags."""
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(4 * descriptors), flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    return data, list(fds)


def receive(sock: socket.socket) -> Packet | None:
    """Receive one packet; None at end of file. Raises BlockingIOError when a non-blocking socket has none."""
    data, fds = message(sock, _INLINE + _HEAD.size, _MAX_FDS)
    if len(data) < _HEAD.size:
        for fd in fds:
            os.close(fd)
        return None
    number, kind = _HEAD.unpack_from(data)
    if kind == 0:
        return Packet(number, data[_HEAD.size :], tuple(fds))
    memory, *rest = fds
    try:
        body = os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)
    return Packet(number, body, tuple(rest))
