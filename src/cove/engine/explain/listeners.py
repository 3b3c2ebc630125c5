"""Which of a container's processes holds which socket: reads their descriptors, from the host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cove.wire.explain import Process

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_MOST_PROCESSES = 4096


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
