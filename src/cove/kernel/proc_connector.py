"""How processes end that are nobody's children here, from the kernel's process connector (CONFIG_PROC_EVENTS).

For kernels before 6.15, whose pidfds forget the exit code of a process that another one reaped. The kernel tells
every end on the machine; a socket filter lets those of the watched processes through and nothing else, so that they
wait in the socket, for as long as they must, until somebody asks.

    want(4711) ─▶ filter replaced ··· 4711 ends ─▶ one datagram waits ··· status(4711) ─▶ its wait status

The connector serves the machine's first namespaces only (pid, user and network).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC, _CN_VAL_PROC = 1, 1
_LISTEN = 1
_PROC_EVENT_EXIT = 0x80000000
# Offsets in a datagram: nlmsghdr (16), cn_msg (20), and proc_event: what, cpu, a time stamp (8), what happened.
_AT_KIND, _AT_PID, _AT_TGID, _AT_STATUS = 36, 52, 56, 60
_SO_ATTACH_FILTER = 26
_LOAD, _LOAD_X, _JUMP_EQUAL, _JUMP_EQUAL_X, _RETURN = 0x20, 0x07, 0x15, 0x1D, 0x06
_MOST = 1500
"""Two instructions for each watched process, and a filter has at most 4096."""


class ProcConnector:
    """The ends of the processes that were asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._wanted: set[int] = set()
        self._ended: dict[int, int] = {}

    @classmethod
    def open(cls) -> ProcConnector | None:
        """Begin to listen; None where the kernel tells this process nothing."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR)
        connector = cls(sock)
        try:
            connector._filter()
            sock.bind((0, _CN_IDX_PROC))
            body = struct.pack("=IIIIHHI", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0, _LISTEN)
            sock.send(struct.pack("=IHHII", 16 + len(body), 3, 0, 0, os.getpid()) + body)
        except OSError:
            sock.close()
            return None
        sock.setblocking(False)
        return connector

    def want(self, pid: int) -> None:
        """Listen for the end of `pid`, from now on."""
        if len(self._wanted) < _MOST:
            self._wanted.add(pid)
            self._filter()

    def status(self, pid: int) -> int | None:
        """The wait status that `pid` ended with, in wait(2)'s form; None when nothing was heard of it yet."""
        while True:
            try:
                data = self._socket.recv(4096)
            except OSError:  # nothing more, or some were lost (ENOBUFS)
                break
            if len(data) >= _AT_STATUS + 4:
                self._ended[_u32(data, _AT_PID)] = _u32(data, _AT_STATUS)
        return self._ended.get(pid)

    def forget(self, pid: int) -> None:
        """No longer listen for `pid`."""
        if pid in self._wanted:
            self._wanted.remove(pid)
            self._ended.pop(pid, None)
            self._filter()

    def _filter(self) -> None:
        """Let through: an exit, of a whole process, which is one of the wanted."""
        refuse = (_RETURN, 0, 0, 0)
        code = [
            (_LOAD, 0, 0, _AT_KIND),
            (_JUMP_EQUAL, 1, 0, _network(_PROC_EVENT_EXIT)),
            refuse,
            (_LOAD, 0, 0, _AT_TGID),
            (_LOAD_X, 0, 0, 0),
            (_LOAD, 0, 0, _AT_PID),
            (_JUMP_EQUAL_X, 1, 0, 0),
            refuse,
        ]
        for pid in sorted(self._wanted):
            code += [(_JUMP_EQUAL, 0, 1, _network(pid)), (_RETURN, 0, 0, 0xFFFF)]
        code.append(refuse)
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))
        fprog = struct.pack("@HP", len(code), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _u32(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("=I", data, offset)[0]
    return value


def _network(value: int) -> int:
    """As a socket filter's load sees a word of the machine's own order: it takes every word for big-endian."""
    return struct.unpack(">I", struct.pack("=I", value))[0]  # type: ignore[no-any-return]
