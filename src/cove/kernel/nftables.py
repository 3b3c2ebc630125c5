"""nftables through libnftables(3): commands in nft's own language, run in one transaction each.

Owns the binding to libnftables.so.1 and the notification socket. What the rules say is decided elsewhere
(`cove.network.firewall`). A transaction of 50 map elements takes less than a millisecond this way, so nothing
speaks the wire format by hand but the watch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from cove.errors import Unsupported
from cove.kernel import nlwire

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
_DELTABLE, _DELCHAIN, _NEWRULE, _DELRULE, _DELSET, _DELSETELEM = 2, 5, 6, 8, 11, 14
_LOSSES = {NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (_DELTABLE, _DELCHAIN, _DELRULE, _DELSET)}
_RULES = {NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (_NEWRULE, _DELRULE)}
_ELEMENTS = {NFNL_SUBSYS_NFTABLES << 8 | _DELSETELEM}
_NFGENMSG = 4
_TABLE_NAME = 1
"""Every message about a table, chain, rule or set carries its table's name as attribute 1."""
_OUTPUT_TERSE = 1 << 11
_SEATS = 4


class Seats:
    """Low descriptors, kept free for the library's socket: it waits with select(2), which ends a process whose
    descriptor is beyond FD_SETSIZE (1024), and a process that has many containers has all of those in use.

    More than one, as another thread may take one at the moment they are given up.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._take()

    def give_up(self) -> None:
        """Idempotent."""
        while self._held:
            os.close(self._held.pop())

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within, the library may be given one; afterwards those that it does not use are kept free again."""
        self.give_up()
        try:
            yield
        finally:
            self._take()

    def _take(self) -> None:
        with suppress(OSError):  # no descriptor is left at all: then whoever wants one hears of it
            while len(self._held) < _SEATS:
                self._held.append(os.open("/", os.O_PATH | os.O_CLOEXEC))


class Nftables:
    """One libnftables context, in the network namespace of the thread that made it; safe to share."""

    def __init__(self) -> None:
        """Unsupported when the library is not installed; OSError when the kernel has no nftables."""
        self._library = _load()
        self._lock = threading.Lock()
        self._ports: frozenset[int] = frozenset()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.EPROTONOSUPPORT, "nft_ctx_new: the kernel does not answer on its nftables socket")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_TERSE)

    def run(self, commands: str) -> str:
        """Run `commands` as one transaction and return what they print; set elements are not listed.

        OSError with nft's own words when a command is refused; then none has had an effect.
        """
        with self._lock:
            failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            code = ctypes.get_errno()
            complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            raise OSError(code or errno.EINVAL, f"nft: {_first_error(complaint)}")
        return output.decode()

    def are_ours(self, ports: frozenset[int]) -> bool:
        """Whether these netlink ports, by which notifications name who caused them, are all this process's."""
        if not ports <= self._ports:  # the library keeps its socket to itself
            self._ports = _netfilter_ports()
        return ports <= self._ports

    def close(self) -> None:
        with self._lock:
            self._library.nft_ctx_free(self._context)
            self._context = None


class Heard(NamedTuple):
    """Whether something of a table may have been deleted, whether a rule came to it, and the netlink ports of those
    who deleted elements of its sets and maps.
    """

    lost: bool
    gained: bool
    elements: frozenset[int]


class Watch(nlwire.Socket):
    """Hears of every change to nftables in this network namespace; never blocks."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, groups=(NFNLGRP_NFTABLES,))
        self.set_blocking(False)

    def heard(self, table: str) -> Heard:
        """Read all that waits about `table`.

        A yes may be the caller's own doing, and is also the answer after an overflow: look, then act.
        """
        lost = gained = False
        elements: set[int] = set()
        while True:
            try:
                received = self.receive()
            except BlockingIOError:
                return Heard(lost, gained, frozenset(elements))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = gained = True
                continue
            lost = lost or any(_concerns(message, table, _LOSSES) for message in received)
            gained = gained or any(_concerns(message, table, _RULES) for message in received)
            elements |= {message.port for message in received if _concerns(message, table, _ELEMENTS)}


def _concerns(message: nlwire.Message, table: str, kinds: set[int]) -> bool:
    if message.type not in kinds:
        return False
    values = dict(nlwire.attributes(message.body[_NFGENMSG:]))
    return nlwire.string(values.get(_TABLE_NAME, b"")) == table


def _netfilter_ports() -> frozenset[int]:
    """The ports of this process's sockets of the family (proc_pid_net(5))."""
    own = set()
    with os.scandir("/proc/thread-self/fd") as descriptors:
        for each in descriptors:
            with suppress(OSError):
                own.add(os.readlink(each.path))
    with open("/proc/thread-self/net/netlink", encoding="ascii") as file:
        sockets = [line.split() for line in file][1:]
    return frozenset(
        int(port)
        for _, family, port, *_, inode in sockets
        if int(family) == NETLINK_NETFILTER and f"socket:[{inode}]" in own
    )


def _first_error(complaint: bytes) -> str:
    """nft's first line, without the position in a buffer that nobody sees."""
    line = complaint.decode("utf-8", "replace").strip().partition("\n")[0]
    return line.partition("Error: ")[2] or line or "the command was refused"


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1", use_errno=True)
    except OSError:
        raise Unsupported(
            "Networks need the library libnftables.so.1, which is not installed; "
            "install the package libnftables1 (Debian, Ubuntu) or nftables (others)"
        ) from None
    library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = (ctypes.c_void_p,)
    library.nft_ctx_free.restype = None
    library.nft_run_cmd_from_buffer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    library.nft_run_cmd_from_buffer.restype = ctypes.c_int
    library.nft_ctx_output_set_flags.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    library.nft_ctx_output_set_flags.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
        getattr(library, name).restype = ctypes.c_int
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
        getattr(library, name).restype = ctypes.c_char_p
    return library
