"""The control group of a container: which manager makes it (or none, "disabled"), and its path."""

from __future__ import annotations

import errno
import os

from cove.errors import Conflict, CoveError, Internal, InvalidArgument, Unsupported
from cove.kernel.cgroups import Cgroups
from cove.runtime.oci.store import CGROUP_PARENT, Record, is_frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cove.oci.spec import Linux
    from cove.runtime.oci.main import Call


def driver(manager: str) -> Cgroups:
    """What makes and limits groups. Unsupported when systemd is asked for and is not there."""
    if manager == "disabled":
        from cove.kernel.cgroups_none import NoCgroups

        return NoCgroups()
    if manager == "systemd":
        from cove.kernel import systemd as init

        if not init.is_running():
            raise Unsupported("systemd is not running on this host, so it cannot make control groups; use cgroupfs")
    return Cgroups.detect(CGROUP_PARENT, manager, hybrid=True)


def of(record: Record) -> Cgroups:
    """The driver of a container that is there."""
    if record.manager == "disabled":
        from cove.kernel.cgroups_none import NoCgroups

        return NoCgroups(record.pid, own_pids=record.own_pids)
    return driver(record.manager)


def begin(record: Record) -> None:
    """The container's program runs."""
    if record.idle:
        of(record).begin(record.cgroup, record.idle)


def make(call: Call, linux: Linux) -> tuple[str, Cgroups, str]:
    """A new container's group with its limits: the manager, the driver and the path.

    Who is root only in a user namespace, or not at all, may often make no group: then the container goes without one,
    if nothing is to be limited (as with other runtimes, so that rootless engines work on every host).
    """
    cgroups, group = driver(call.manager), path_of(linux.cgroups_path, call.manager)
    if call.manager == "disabled" and not _begins_pids(linux):
        raise InvalidArgument(
            "a container without a control group needs a pid namespace of its own: nothing else could end all of it"
        )
    if call.manager == "cgroupfs" and is_frozen(cgroups.directories(group)):
        raise Conflict(
            f"container's cgroup unexpectedly frozen: no process could begin in {group}; thaw or remove it"
        )
    if call.manager == "cgroupfs" and (inside := cgroups.procs(group)):
        raise Conflict(
            f"container's cgroup is not empty: {len(inside)} process(es) found in {group}, such as {inside[0]}; "
            "give the container another one (linux.cgroupsPath)"
        )
    try:
        cgroups.create(group, linux.resources)
    except CoveError as error:
        cgroups.remove_parent()
        if not isinstance(error, Internal):
            raise
        if not (call.manager == "cgroupfs" and _refused(error) and _is_rootless(call) and _begins_pids(linux)):
            raise
        without = driver("disabled")
        without.create("", linux.resources)
        call.log.debug(f"the container goes without a control group: {error.message}")
        return "disabled", without, ""
    return call.manager, cgroups, group


def _refused(error: Internal) -> bool:
    reason = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
    return reason in (errno.EACCES, errno.EPERM, errno.EROFS)


def _begins_pids(linux: Linux) -> bool:
    return any(each.type == "pid" and not each.path for each in linux.namespaces)


def _is_rootless(call: Call) -> bool:
    """--rootless says so against appearances."""
    if call.rootless != "auto":
        return call.rootless == "true"
    from cove.runtime import rootless

    return rootless.is_rootless()


def path_of(given: str, manager: str) -> str:
    """`linux.cgroupsPath` from the hierarchy's root (a relative one begins there too); or systemd's own form."""
    if manager == "disabled":
        return ""
    if manager == "systemd":
        own = given.removeprefix(f"/{CGROUP_PARENT}/")
        if own != given:
            return f":{CGROUP_PARENT}:{own}"
        if given.count(":") != 2:
            raise InvalidArgument(f"cgroupsPath {given} is no slice:prefix:name, which --systemd-cgroup needs")
        return given
    if given.count(":") == 2 and not given.startswith("/"):
        raise InvalidArgument(f"cgroupsPath {given} is systemd's slice:prefix:name; use --systemd-cgroup")
    return os.path.normpath("/" + given.lstrip("/"))
