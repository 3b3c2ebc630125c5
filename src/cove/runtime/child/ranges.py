"""Values of a configuration that no kernel takes, refused by name before anything is made.

The kernel answers all of these with one errno, which tells nobody what to mend.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter

from cove.oci.spec import Device, IDMapping, Linux, Process, Scheduler, Spec
from cove.runtime.child.common import Failure
from cove.runtime.numbers import numbers

_IDS = 1 << 32
_MOST_MAPPINGS = 340
"""user_namespaces(7): lines of uid_map, since Linux 4.15."""
_NAME_BYTES = 64
"""uts_namespaces(7): __NEW_UTS_LEN."""
_MOST_GROUPS = 65536
"""setgroups(2): NGROUPS_MAX."""
_LEAST_RUNTIME, _MOST_RUNTIME = 1024, (1 << 63) - 1
_CLOCKS = ("monotonic", "boottime")
_MOST_MAJOR, _MOST_MINOR = (1 << 12) - 1, (1 << 20) - 1


def check(spec: Spec) -> None:
    """Failure that names the first of a container's members that is out of its range."""
    linux = spec.linux
    assert linux is not None
    for member, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if len(name.encode()) > _NAME_BYTES:
            raise Failure(f"{member} {name} is too long: a name of a host has at most {_NAME_BYTES} bytes")
    _check_clocks(linux)
    for device in linux.devices:
        _check_device(device)
    for mount in spec.mounts:
        check_mappings(mount.uid_mappings, f"uidMappings of the mount at {mount.destination}")
        check_mappings(mount.gid_mappings, f"gidMappings of the mount at {mount.destination}")


def check_process(process: Process) -> None:
    """The same for a process, a container's first or an exec's."""
    _within("process.oomScoreAdj", process.oom_score_adj, -1000, 1000)
    if process.console_size is not None:
        _within("process.consoleSize.height", process.console_size.height, 0, 0xFFFF)
        _within("process.consoleSize.width", process.console_size.width, 0, 0xFFFF)
    if process.io_priority is not None:
        _within("process.ioPriority.priority", process.io_priority.priority, 0, 7)
    if process.scheduler is not None:
        _check_scheduler(process.scheduler)
    if (count := len(process.user.additional_gids)) > _MOST_GROUPS:
        raise Failure(f"process.user.additionalGids has {count} groups: a process has at most {_MOST_GROUPS}")
    kinds = [each.type for each in process.rlimits]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), ""):
        raise Failure(f"process.rlimits has {twice} twice: one of them must go")
    if (affinity := process.exec_cpu_affinity) is not None:
        numbers(affinity.initial, "process.execCPUAffinity.initial")
        numbers(affinity.final, "process.execCPUAffinity.final")


def check_user_namespace(linux: Linux) -> None:
    """Its maps; init and its helper are at them at the same time, so both look."""
    kinds = {each.type: each.path for each in linux.namespaces}
    if "user" not in kinds:
        if linux.uid_mappings or linux.gid_mappings:
            raise Failure("linux.uidMappings and gidMappings are of a user namespace, and linux.namespaces has none")
        return
    if not kinds["user"] and not (linux.uid_mappings and linux.gid_mappings):
        raise Failure(
            "a new user namespace needs linux.uidMappings and linux.gidMappings: which ids of the host its own are"
        )
    for member, mappings in (("linux.uidMappings", linux.uid_mappings), ("linux.gidMappings", linux.gid_mappings)):
        check_mappings(mappings, member)
        if not kinds["user"] and not any(each.container_id == 0 for each in mappings):
            raise Failure(f"{member} has no id 0: a container's first process begins as its root")


def check_mappings(mappings: Sequence[IDMapping], member: str) -> None:
    """Failure for what user_namespaces(7) forbids."""
    if len(mappings) > _MOST_MAPPINGS:
        raise Failure(f"{member} has {len(mappings)} entries: the kernel takes {_MOST_MAPPINGS} at most")
    for each in mappings:
        if each.size < 1 or any(
            not 0 <= first <= _IDS - 1 - each.size for first in (each.container_id, each.host_id)
        ):
            raise Failure(f"{member} has no such ids: {_told(each)}; there are 0 to {_IDS - 2}, and size is above 0")
    for side in ("container_id", "host_id"):
        ordered = sorted(mappings, key=attrgetter(side))
        for one, other in pairwise(ordered):
            if getattr(one, side) + one.size > getattr(other, side):
                raise Failure(f"{member} maps ids twice: {_told(one)} and {_told(other)} overlap")


def no_such_time(linux: Linux, error: OSError) -> Failure:
    """What the kernel's refusal of offsets is told as: no clock may go before 0 (time_namespaces(7))."""
    told = ", ".join(f"{clock} {each.secs} s" for clock, each in linux.time_offsets.items())
    reason = os.strerror(error.errno or 0).lower()
    return Failure(f"linux.timeOffsets cannot be set ({told}): {reason}", number=error.errno or 0)


def _told(mapping: IDMapping) -> str:
    return f"containerID {mapping.container_id} hostID {mapping.host_id} size {mapping.size}"


def _check_scheduler(wanted: Scheduler) -> None:
    """sched(7) and sched_setattr(2)."""
    _within("process.scheduler.nice", wanted.nice, -20, 19)
    if wanted.policy in ("SCHED_FIFO", "SCHED_RR"):
        _within(f"process.scheduler.priority of {wanted.policy}", wanted.priority, 1, 99)
    elif wanted.priority:
        raise Failure("process.scheduler.priority is of SCHED_FIFO and SCHED_RR alone; leave it out")
    if wanted.policy == "SCHED_DEADLINE" and (wrong := _wrong_times(wanted.runtime, wanted.deadline, wanted.period)):
        raise Failure(f"process.scheduler is not for sched_setattr: `SCHED_DEADLINE` {wrong} (nanoseconds)")


def _wrong_times(runtime: int, deadline: int, period: int) -> str:
    """What is wrong with these nanoseconds, "" when nothing is; without a period the deadline is that too."""
    for name, value in (("runtime", runtime), ("deadline", deadline)):
        if not value:
            return f"requires `{name}`"
    if not _LEAST_RUNTIME <= runtime <= _MOST_RUNTIME:
        return f"runtime {runtime} must be between {_LEAST_RUNTIME} and {_MOST_RUNTIME}"
    if runtime > deadline:
        return f"runtime {runtime} must be <= deadline {deadline}"
    if deadline > (period or deadline):
        return f"deadline {deadline} must be <= period {period}"
    return ""


def _check_clocks(linux: Linux) -> None:
    if linux.time_offsets and not any(each.type == "time" and not each.path for each in linux.namespaces):
        raise Failure("linux.timeOffsets are of a new time namespace, and linux.namespaces has none")
    for clock, offset in linux.time_offsets.items():
        if clock not in _CLOCKS:
            raise Failure(f"linux.timeOffsets has no clock {clock!r}: it is one of {', '.join(_CLOCKS)}")
        _within(f"linux.timeOffsets.{clock}.nanosecs", offset.nanosecs, 0, 10**9 - 1)


def _check_device(device: Device) -> None:
    name = f"of {device.path} (linux.devices)"
    if device.type != "p":
        _within(f"the major number {name}", device.major, 0, _MOST_MAJOR)
        _within(f"the minor number {name}", device.minor, 0, _MOST_MINOR)
    _within(f"the uid {name}", device.uid, 0, _IDS - 2)
    _within(f"the gid {name}", device.gid, 0, _IDS - 2)


def _within(what: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise Failure(f"{what} is {value}: it is a number from {least} to {most}")
