"""Namespaces that a configuration names by path: opened, and those that cannot be joined told in words."""

from __future__ import annotations

import errno
import os

from cove.kernel import namespaces
from cove.oci.spec import NamespaceType
from cove.runtime.child.common import Failure


def opened(kind: NamespaceType, path: str) -> int:
    """A descriptor of the namespace of `kind` that the file `path` is; Failure when it is none, or cannot be joined.

    The kernel has one errno for all of these (setns(2)).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(kind, path, error) from None
    if reason := _reason(fd, kind):
        os.close(fd)
        raise Failure(f"the {kind} namespace {path} cannot be joined: {reason}", number=errno.EINVAL)
    return fd


def refusal(kind: NamespaceType, path: str, error: OSError) -> Failure:
    """What the kernel's own refusal of that is told as."""
    number = error.errno or 0
    hint = ""
    if number == errno.EPERM:
        hint = "; it takes CAP_SYS_ADMIN in the user namespace that owns it"
    elif number == errno.EINVAL and kind == "pid":
        hint = "; only the runtime's own pid namespace, and those below it, can be"
    reason = os.strerror(number).lower()
    return Failure(f"the {kind} namespace {path} cannot be joined: {reason}{hint}", number=number)


def _reason(fd: int, kind: NamespaceType) -> str:
    """Why this is not to be joined; "" when nothing speaks against it."""
    found = namespaces.kind_of(fd)
    if not found:
        return "the file is no namespace; those of a process are in /proc/PID/ns"
    if found != kind:
        return f"it is a {found} namespace"
    if kind == "user" and os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/user")):
        return (
            "the runtime is in it already, and the kernel lets nobody join that; to share it, leave `user` out of "
            "linux.namespaces"
        )
    return ""
