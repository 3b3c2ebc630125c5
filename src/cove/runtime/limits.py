"""Limits that this host does not let anyone raise, or that its kernel has no more, and rights: told in words."""

from __future__ import annotations

import resource

from cove.kernel import privileges, syscalls
from cove.oci.spec import Process, Resources, Spec

_CAP_SYS_RESOURCE = 1 << 24
_UNLIMITED = (1 << 64) - 1


def warnings(process: Process) -> tuple[str, ...]:
    """One sentence for each limit of `process` that will be lower than it says; to be asked by its maker."""
    if not process.rlimits or syscalls.capget()[0] & _CAP_SYS_RESOURCE:
        return ()
    found = []
    for limit in process.rlimits:
        number = privileges.RLIMITS.get(limit.type)
        if number is None:
            continue
        ceiling = resource.getrlimit(number)[1] & _UNLIMITED
        if limit.hard & _UNLIMITED > ceiling:
            wanted = "unlimited" if limit.hard & _UNLIMITED == _UNLIMITED else str(limit.hard)
            found.append(f"{limit.type} is lowered from {wanted} to {ceiling}, the most that this host allows")
    return tuple(found)


def not_raised(process: Process) -> tuple[str, ...]:
    """A sentence about the capabilities that shall be ambient and cannot be (capabilities(7)); likewise.

    Root's programs have what root is permitted, ambient or not: some builders always ask so, and nothing is lost.
    """
    sets = process.capabilities
    if sets is None or not sets.ambient or process.user.uid == 0:
        return ()
    lost = [name for name in sets.ambient if name not in sets.permitted or name not in sets.inheritable]
    return (f"can't raise ambient capability {', '.join(lost)}: not both permitted and inheritable",) if lost else ()


def not_had(spec: Spec) -> tuple[str, ...]:
    """A sentence about the capabilities that nobody on this host can have; to be asked by its maker.

    A user namespace of its own begins with all of them (user_namespaces(7)).
    """
    sets = spec.process.capabilities if spec.process is not None else None
    if sets is None or (spec.linux is not None and any(each.type == "user" for each in spec.linux.namespaces)):
        return ()
    wanted = dict.fromkeys((*sets.bounding, *sets.effective, *sets.permitted, *sets.inheritable, *sets.ambient))
    had = privileges.bounding()
    lost = [name for name in wanted if not privileges.capability_mask([name]) & had]
    return (f"{', '.join(lost)} cannot be given: the runtime itself does not have it",) if lost else ()


def without_effect(resources: Resources | None) -> tuple[str, ...]:
    """One sentence for each limit that the kernel counts as a part of another one; to be asked by its maker."""
    if resources is None or resources.memory is None or not resources.memory.kernel:
        return ()
    return (
        "linux.resources.memory.kernel has no effect: since Linux 5.16 what the kernel uses is part of memory.limit",
    )


def raise_ceilings(process: Process, pid: int) -> None:
    """Raise the hard limits of `pid`, which inside its user namespace has no right to, as far as `process` asks."""
    for limit in process.rlimits:
        number = privileges.RLIMITS.get(limit.type)
        if number is None:
            continue
        soft, hard = resource.prlimit(pid, number)
        wanted = resource.RLIM_INFINITY if limit.hard & _UNLIMITED == _UNLIMITED else limit.hard
        if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
            try:
                resource.prlimit(pid, number, (soft, wanted))
            except PermissionError:
                continue  # it stays as low as this host wants it
