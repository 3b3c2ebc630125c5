"""Kernel parameters of a container's own namespaces, written through a procfs that nobody else can touch.

That procfs is a detached mount made for this: no path leads to it and nothing can be mounted over its files.
Only parameters that belong to a namespace the container has for itself are let through; any other would be
the host's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial

from cove.kernel import operations, rootpath
from cove.runtime.child.common import Child, Failure

_IPC = {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"}
_IPC |= {"kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msg_next_id", "kernel.sem_next_id", "kernel.shm_next_id"}


def check(values: Iterable[str], own: set[str]) -> None:
    """Failure unless each name of a parameter belongs to one of the container's `own` namespaces."""
    for given in values:
        _check(_dotted(given), own)
        if ".." in _path(given).split("/"):
            raise Failure(f"sysctl {given} is no parameter's name", number=errno.EINVAL)


def _check(name: str, own: set[str]) -> None:
    if name in _IPC or name.startswith("fs.mqueue."):
        needed = "ipc"
    elif name.startswith("net."):
        needed = "network"
    elif name == "kernel.domainname":
        needed = "uts"
    elif name == "kernel.hostname":
        raise Failure("sysctl kernel.hostname conflicts with the container's hostname, use that")
    else:
        raise Failure(f"sysctl {name} is not in a namespace of its own and would change the host")
    if needed not in own:
        raise Failure(f"sysctl {name} needs a {needed} namespace of the container's own")


def apply(child: Child, proc: int, values: dict[str, str]) -> None:
    """Write `values`, which have passed the check, through `proc`, the descriptor of a detached procfs.

    The process itself does it: numbers may be ids of its user namespace.
    """
    for given, value in values.items():
        explain = partial(_refused, given, value)
        try:
            fd = rootpath.open_procfs(proc, _path(given))
        except OSError as error:
            raise explain(error) from None
        child.act(operations.write(fd, value.encode()), explain)


def _refused(given: str, value: str, error: OSError) -> Failure:
    reason = os.strerror(error.errno or 0).lower()
    return Failure(f"cannot set sysctl {given} to {value!r}: {reason}", number=error.errno or 0)


def _slashed(name: str) -> bool:
    """Names come with dots or with slashes; the first separator says which (sysctl(8))."""
    slash, dot = name.find("/"), name.find(".")
    return slash >= 0 and (dot < 0 or slash < dot)


def _path(name: str) -> str:
    return "sys/" + (name if _slashed(name) else name.translate(str.maketrans("./", "/.")))


def _dotted(name: str) -> str:
    return name.translate(str.maketrans("./", "/.")) if _slashed(name) else name
