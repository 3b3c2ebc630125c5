"""`kill`: send a signal to a container's first process, or to all of them."""

from __future__ import annotations

import os

from cove.errors import Conflict
from cove.kernel import procstat
from cove.runtime.oci import signals, store
from cove.runtime.oci.main import Call


def kill(call: Call, words: list[str]) -> int:
    """Send it; a container that has stopped cannot be signalled."""
    call.parse(words, ("all|a",), 1, 2)
    number = signals.parse(call.arguments[1] if len(call.arguments) > 1 else "TERM")
    container = store.find(call.root, call.arguments[0])
    everyone = call.options.switch("all")
    shared = not container.known.own_pids
    if not everyone and not signal_first(container.known, number) and not (shared and _left(container)):
        raise Conflict(f"container not running: {container.id} has no process that a signal could be sent to")
    # Without a pid namespace of its own, the end of the first process ends nobody else.
    if everyone or (number == signals.KILL and shared):
        _signal_all(container, number)
    if number == signals.KILL:
        thaw(container.known)
    return 0


def thaw(record: store.Record) -> None:
    """A frozen process of version 1 does not even die."""
    if store.is_frozen(record.cgroup_directories):
        from cove.runtime.oci import groups

        groups.of(record).freeze(record.cgroup, False)


def signal_first(record: store.Record, number: int) -> bool:
    """Signal the very process that was noted; False when it is gone."""
    if not procstat.is_alive(record.pid, record.ticks, record.boot):
        return False
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return False  # it ended meanwhile
    try:
        if not procstat.is_alive(record.pid, record.ticks, record.boot):
            return False
        signals.send(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _left(container: store.Container) -> bool:
    """Whether processes outlived the first one."""
    from cove.runtime.oci import groups

    return bool(groups.of(container.known).procs(container.known.cgroup))


def _signal_all(container: store.Container, number: int) -> None:
    from cove.runtime.oci import groups

    record = container.known
    cgroups = groups.of(record)
    if number == signals.KILL:
        cgroups.kill(record.cgroup)
    else:
        cgroups.signal(record.cgroup, number)
