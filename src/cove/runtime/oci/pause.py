"""`pause` and `resume`: stop every process of a container where it is, and let them go on."""

from __future__ import annotations

from cove.errors import Conflict
from cove.runtime.oci import groups, store
from cove.runtime.oci.main import Call


def pause(call: Call, words: list[str]) -> int:
    """Freeze it; it must be running or created."""
    return _freeze(call, words, ("running", "created"), frozen=True)


def resume(call: Call, words: list[str]) -> int:
    """Thaw it; it must be paused."""
    return _freeze(call, words, ("paused",), frozen=False)


def _freeze(call: Call, words: list[str], wanted: tuple[str, ...], *, frozen: bool) -> int:
    call.parse(words, (), 1, 1)
    container = store.find(call.root, call.arguments[0])
    container.lock()
    status = container.status()
    if status == "created" and store.is_frozen(container.known.cgroup_directories):
        status = "paused"
    if status not in wanted:
        raise Conflict(f"container not {' or '.join(wanted)}: {container.id} is {status}, {call.verb} cannot be done")
    record = container.known
    groups.of(record).freeze(record.cgroup, frozen)
    return 0
