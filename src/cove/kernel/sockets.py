"""Which process of the host has a port: proc_pid_net(5) names the socket, proc_pid_fd(5) who holds it."""

from __future__ import annotations

import os
from contextlib import suppress

_STATES = {"tcp": "0A", "udp": "07"}
"""Listening, and unconnected."""


def holder(protocol: str, port: int) -> tuple[int, str] | None:
    """(pid, name) of a process of this network namespace that has the port; None when none can be found."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(protocol, port)}
    if not inodes:
        return None
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{name}") in inodes:
                        return int(pid), _name(pid)
    return None


def _inodes(protocol: str, port: int) -> list[str]:
    found = []
    for version in ("", "6"):
        with suppress(OSError), open(f"/proc/thread-self/net/{protocol}{version}", encoding="ascii") as file:
            for fields in map(str.split, list(file)[1:]):
                bound = int(fields[1].rpartition(":")[2], 16) == port
                if bound and fields[3] in (_STATES.get(protocol), "0A", "07"):
                    found.append(fields[9])
    return found


def _name(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
