"""The hooks that run outside a container's creation: poststart and poststop."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cove.errors import StartFailed
from cove.oci.spec import Hook, Hooks, Spec
from cove.runtime.child import hooks
from cove.runtime.child.common import Failure
from cove.runtime.oci.delete import destroy
from cove.runtime.oci.log import Log
from cove.runtime.oci.store import Container, Record


def of(container: Container) -> Hooks:
    """The hooks in the configuration that the container was made from."""
    spec = msgspec.json.decode(container.read("config.json"), type=Spec)
    return spec.hooks or Hooks()


def state(record: Record, status: str) -> hooks.State:
    """What a hook reads; a stopped container has no process."""
    pid = 0 if status == "stopped" else record.pid
    return hooks.State(id=record.id, status=status, pid=pid, bundle=record.bundle, annotations=record.annotations)


def run_poststop(listed: Iterable[Hook], record: Record, log: Log) -> None:
    """Every one of them; one that fails is told and the others still run, as the specification wants."""
    told = state(record, "stopped")
    for hook in listed:
        try:
            hooks.run("poststop", (hook,), told)
        except Failure as failure:
            log.warning(failure.message)


def run_poststart(container: Container, log: Log) -> None:
    """The program runs already. A hook that fails ends and deletes the container: StartFailed."""
    try:
        hooks.run("poststart", of(container).poststart, state(container.known, "running"))
    except Failure as failure:
        destroy(container, log)
        raise StartFailed(
            f"{failure.message}; the container was ended and deleted", stage="hooks", errno=failure.number
        ) from None
