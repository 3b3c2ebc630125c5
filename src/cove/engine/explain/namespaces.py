"""The namespaces of a container beside the host's: which is its own, whose it shares, and what that means.

Reads /proc/PID/ns (namespaces(7)); the rest is words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from cove.oci.spec import Spec
from cove.wire.explain import Namespace

_KINDS = ("mount", "pid", "network", "ipc", "uts", "cgroup", "user", "time")
_FILES = {"mount": "mnt", "network": "net"}
_NUMBER = re.compile(r"\[(\d+)\]")

_OWN = {
    "mount": "a file system of its own: it has what Mounts lists, and nothing else of the host is in reach",
    "pid": "sees and signals its own processes only; its first one is number 1 in it",
    "network": "its own interfaces, addresses, routes, ports and firewall",
    "ipc": "its own shared memory, semaphores and message queues",
    "uts": "its own host name",
    "cgroup": "takes its own control group for the root: it cannot see others",
    "user": "its own users: root in it is an ordinary user outside",
    "time": "its own boot and monotonic clocks",
}
_HOST = {
    "mount": "the host's file system",
    "pid": "sees and may signal every process of the host",
    "network": "the host's interfaces, addresses and ports: nothing of the network is isolated",
    "ipc": "the host's shared memory, semaphores and message queues",
    "uts": "the host's host name",
    "cgroup": "sees where its control group is among the host's",
    "user": "root in it is root on the host, bounded by the capabilities and the system calls below",
    "time": "the host's clocks",
}
_SHARED = {
    "pid": "sees the processes of {name} and is seen by them",
    "network": "the interfaces, addresses and ports of {name}: both reach each other on 127.0.0.1",
    "ipc": "the shared memory, semaphores and message queues of {name}",
}


def explain(spec: Spec, pid: int, lenders: Mapping[str, str]) -> tuple[Namespace, ...]:
    """One of each kind; `pid` 0 for a container that does not run. `lenders`: names by kind of namespace."""
    listed = {each.type for each in spec.linux.namespaces} if spec.linux else set()
    found = []
    for kind in _KINDS:
        here = number(os.getpid(), kind)
        if here is None:
            continue  # a kernel without this kind
        there = number(pid, kind) if pid else None
        own = there != here if there is not None else kind in listed
        lender = lenders.get(kind, "")
        mode = "shared" if lender else "own" if own else "host"
        text = _SHARED[kind].format(name=lender) if lender else (_OWN if own else _HOST)[kind]
        if pid and kind == "pid" and mode == "own":
            text += f", {pid} on the host"
        if kind == "uts" and own and spec.hostname:
            text += f", {spec.hostname}"
        if kind == "user" and own:
            text += _mapping(spec, pid)
        found.append(Namespace(type=kind, mode=mode, id=there, host_id=here, shared_with=lender, text=text))
    return tuple(found)


def _mapping(spec: Spec, pid: int) -> str:
    """Who root in the container is outside (user_namespaces(7), /proc/PID/uid_map)."""
    maps = [(each.container_id, each.host_id, each.size) for each in spec.linux.uid_mappings] if spec.linux else []
    if pid:
        try:
            text = Path(f"/proc/{pid}/uid_map").read_text()
            maps = [(int(inner), int(outer), int(size)) for inner, outer, size in map(str.split, text.splitlines())]
        except (OSError, ValueError):
            return ""
    outside = next((host - inner for inner, host, size in maps if inner <= 0 < inner + size), None)
    return f", {outside} on the host" if outside is not None else ""


def number(pid: int, kind: str) -> int | None:
    """The number of the namespace that a process is in; None when either is not there."""
    try:
        match = _NUMBER.search(os.readlink(f"/proc/{pid}/ns/{_FILES.get(kind, kind)}"))
    except OSError:
        return None
    return int(match[1]) if match else None
