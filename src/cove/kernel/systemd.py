"""Transient units of systemd: a scope made for processes that exist, changed, and stopped.

    StartTransientUnit ──▶ job's path ──▶ JobRemoved(job, result) ──▶ "done", or the reason

Each operation has a connection of its own: a fraction of a millisecond, and no signals of others pile up between.
Source: org.freedesktop.systemd1(5), systemd.resource-control(5).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cove.errors import Conflict, Internal, Unsupported
from cove.kernel.dbus import Connection, DBusError, Variant

Property = tuple[str, Variant]

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_SYSTEM_BUS = Path("/run/dbus/system_bus_socket")
_PRIVATE = Path("/run/systemd/private")
"""systemd's own socket, for root, where no bus runs."""

_JOBS = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
_NO_SUCH_UNIT = f"{_NAME}.NoSuchUnit"
_UNIT_EXISTS = f"{_NAME}.UnitExists"


def is_running() -> bool:
    """Whether systemd is this host's init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def start_scope(name: str, properties: Sequence[Property]) -> None:
    """Make a transient scope and wait until it is there. Raises Conflict when its name is taken."""
    with _connected() as bus:
        try:
            _job(bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", list(properties), [])
        except DBusError as error:
            if error.name != _UNIT_EXISTS:
                raise _refused(f"to make {name}", error) from error
            raise Conflict(
                f"systemd has a unit {name} already; remove what runs in it or choose another name"
            ) from error


def set_properties(name: str, properties: Sequence[Property]) -> None:
    """Change limits of a unit until it ends."""
    with _connected() as bus:
        try:
            _call(bus, "SetUnitProperties", "sba(sv)", name, True, list(properties))
        except DBusError as error:
            raise _refused(f"the limits of {name}", error) from error


def stop_unit(name: str) -> None:
    """Stop a unit and wait until it is gone; one that is gone is no error."""
    with _connected() as bus:
        try:
            _job(bus, "StopUnit", "ss", name, "replace")
        except DBusError as error:
            if error.name != _NO_SUCH_UNIT:
                raise _refused(f"to stop {name}", error) from error
            return
        try:
            _call(bus, "ResetFailedUnit", "s", name)
        except DBusError:
            return  # it had not failed, so it is forgotten already


def _refused(what: str, error: DBusError) -> Internal:
    return Internal(f"systemd refuses {what}: {error}")


def _connected() -> Connection:
    bus = _SYSTEM_BUS.exists()
    path = _SYSTEM_BUS if bus else _PRIVATE
    try:
        return Connection(path, bus=bus)
    except OSError as error:
        raise Unsupported(
            f"systemd does not answer on {path} ({error}); run with the cgroupfs driver for control groups, "
            "or on a host whose init is systemd"
        ) from error


def _call(bus: Connection, member: str, signature: str, *arguments: object) -> list[object]:
    return bus.call(_NAME, _PATH, _MANAGER, member, signature, *arguments)


def _job(bus: Connection, member: str, signature: str, *arguments: object) -> None:
    """Ask for a job and wait for its end."""
    bus.listen(_JOBS)
    _call(bus, "Subscribe", "")
    (job,) = _call(bus, member, signature, *arguments)
    while True:
        signal = bus.signal()
        if signal.member == "JobRemoved" and signal.body[1] == job:
            break
    if signal.body[3] != "done":
        raise Internal(f"systemd's job {member} for {signal.body[2]} ended as {signal.body[3]!r}; see its journal")
