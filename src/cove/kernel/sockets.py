"""Sockets that wait for clients, and who holds them: proc_pid_net(5) shows the sockets, proc_pid_fd(5) the holders.

`listening` looks into the network namespace of any process, from outside.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LISTEN, _UNCONNECTED = "0A", "07"
_SCTP_LISTEN = "10"


class Listener(NamedTuple):
    """A socket that takes connections or packets; "0.0.0.0" and "::" stand for every address."""

    protocol: str
    address: str
    port: int
    inode: int

    def takes(self, address: str) -> bool:
        """Whether what is sent to an address of its namespace comes to it; "" is any address."""
        return (
            not address
            or self.address == address
            or self.address == "::"
            or (self.address == "0.0.0.0" and ":" not in address)
        )


def listening(pid: int) -> list[Listener]:
    """Every such socket in the network namespace of a process."""
    found = []
    for protocol, state in (("tcp", _LISTEN), ("udp", _UNCONNECTED)):
        for version in ("", "6"):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/net/{protocol}{version}").read_text()
                found += _parse(text, protocol, state)
    with suppress(OSError):  # where the kernel has SCTP
        found += _parse_sctp(Path(f"/proc/{pid}/net/sctp/eps").read_text())
    return found


def holder(protocol: str, port: int, address: str = "") -> tuple[int, str] | None:
    """(pid, name) of a process of this network namespace that has the port; None when none can be found."""
    inodes = {
        f"socket:[{each.inode}]"
        for each in listening(os.getpid())
        if (each.protocol, each.port) == (protocol, port) and each.takes(address)
    }
    if not inodes:
        return None
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{name}") in inodes:
                        return int(pid), _name(pid)
    return None


def _parse(text: str, protocol: str, state: str) -> list[Listener]:
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == state:
            address, _, port = fields[1].partition(":")
            found.append(Listener(protocol, _address(address), int(port, 16), int(fields[9])))
    return found


def _parse_sctp(text: str) -> list[Listener]:
    """Lines of ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS…: those in the state of listening, once per address."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 8 and fields[3] == _SCTP_LISTEN:
            found += [Listener("sctp", address, int(fields[5]), int(fields[7])) for address in fields[8:]]
    return found


def _address(text: str) -> str:
    """Words of 32 bits in this machine's byte order, in hexadecimal."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _name(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
