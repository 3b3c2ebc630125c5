"""`delete`: what is left of a container goes: its processes, its control group, its directory."""

from __future__ import annotations

import os
import time

from cove.errors import Conflict, Internal, InvalidArgument, NotFound
from cove.kernel import procstat
from cove.runtime.oci import signals, store
from cove.runtime.oci.kill import signal_first, thaw
from cove.runtime.oci.log import Log
from cove.runtime.oci.main import Call

_PATIENCE = 10.0


def delete(call: Call, words: list[str]) -> int:
    """Remove it when it has stopped or was never started; with --force whatever it does, and no matter if it is."""
    call.parse(words, ("force|f", "regex"), 1, 1)
    force = call.options.switch("force")
    if not call.options.switch("regex"):
        _delete(call, call.arguments[0], force=force)
        return 0
    for identity in _matching(call.root, call.arguments[0]):
        _delete(call, identity, force=force)
    return 0


def _matching(root: str, pattern: str) -> list[str]:
    """The ids in which `pattern` is found (crun's --regex); those of damaged containers too."""
    import re

    try:
        wanted = re.compile(pattern)
        return sorted(name for name in os.listdir(root) if wanted.search(name))
    except re.error as error:
        raise InvalidArgument(f"--regex {pattern} is no regular expression: {error}") from None
    except FileNotFoundError:
        return []


def _delete(call: Call, identity: str, *, force: bool) -> None:
    try:
        container = store.find(call.root, identity)
        container.lock()
    except NotFound:
        if force:
            return
        raise
    except Internal:
        if not force:
            raise
        store.discard(call.root, identity)
        return
    if not force:
        _check_deletable(container)
    destroy(container, call.log)


def _check_deletable(container: store.Container) -> None:
    status = container.status()
    if status not in ("stopped", "created", "creating"):
        raise Conflict(
            f"cannot delete container {container.id} that is not stopped: {status}; kill it first, or use --force"
        )


def destroy(container: store.Container, log: Log) -> None:
    """End what runs, remove the group, run the poststop hooks, forget the container."""
    record = container.record
    if record is None:
        container.remove()  # its `create` died before it had made a process
        return
    if signal_first(record, signals.KILL):
        thaw(record)
        _await_end(record)
    _remove_group(record)
    if record.monitored:
        from cove.runtime.child import resctrl

        resctrl.remove(record.id)
    if record.poststop:
        from cove.runtime.oci import afterwards

        afterwards.run_poststop(afterwards.of(container).poststop, record, log)
    container.remove()


def _await_end(record: store.Record) -> None:
    pause, deadline = 0.0005, time.monotonic() + _PATIENCE
    while procstat.is_alive(record.pid, record.ticks, record.boot):
        if time.monotonic() > deadline:
            raise Internal(f"the first process of {record.id} did not end within {_PATIENCE:.0f} s of SIGKILL")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _remove_group(record: store.Record) -> None:
    """An empty group is one rmdir a hierarchy; whatever else it is needs the whole of it, and so does a scope."""
    if record.manager == "systemd":
        _remove_used_group(record)
        return
    for directory in record.cgroup_directories:
        try:
            os.rmdir(directory)
            _remove_parent(directory)
        except FileNotFoundError:
            continue
        except OSError:
            _remove_used_group(record)
            return


def _remove_parent(directory: str) -> None:
    """The group that held ours goes with the last of them."""
    parent = os.path.dirname(directory)
    if parent.endswith(f"/{store.CGROUP_PARENT}"):
        try:
            os.rmdir(parent)
        except OSError:
            return


def _remove_used_group(record: store.Record) -> None:
    from cove.runtime.oci import groups

    cgroups = groups.of(record)
    cgroups.kill(record.cgroup)
    cgroups.remove(record.cgroup)
    cgroups.remove_parent()
