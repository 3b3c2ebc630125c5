"""Which process listens on which port: sockets of a network namespace, and who holds them.

Reads /proc/PID/net/{tcp,udp}* (proc_pid_net(5)) and the descriptors of the container's processes, from the host.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cove.wire.explain import Process

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_LISTEN, _UNCONNECTED = "0A", "07"
_MOST_PROCESSES = 4096


class Listener(NamedTuple):
    """A socket that takes connections or packets; "0.0.0.0" and "::" stand for every address."""

    protocol: str
    address: str
    port: int
    inode: int


def listening(pid: int) -> list[Listener]:
    """Every such socket in the network namespace of a process."""
    found = []
    for protocol, state in (("tcp", _LISTEN), ("udp", _UNCONNECTED)):
        for version in ("", "6"):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/net/{protocol}{version}").read_text()
                found += _parse(text, protocol, state)
    return found


def _parse(text: str, protocol: str, state: str) -> list[Listener]:
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == state:
            address, _, port = fields[1].partition(":")
            found.append(Listener(protocol, _address(address), int(port, 16), int(fields[9])))
    return found


def _address(text: str) -> str:
    """Words of 32 bits in this machine's byte order, in hexadecimal."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def holders(pids: Iterable[int]) -> dict[int, Process]:
    """Who holds each socket, by inode; of several processes that share one, the first."""
    found: dict[int, Process] = {}
    for pid in sorted(pids)[:_MOST_PROCESSES]:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    match = _SOCKET.fullmatch(os.readlink(f"/proc/{pid}/fd/{name}"))
                    if match and int(match[1]) not in found:
                        found[int(match[1])] = _process(pid)
    return found


def _process(pid: int) -> Process:
    command, inner = "", pid
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Name:"):
                command = line.split("\t", 1)[1]
            elif line.startswith("NSpid:"):
                inner = int(line.split()[-1])
    return Process(pid=pid, inner_pid=inner, command=command)
