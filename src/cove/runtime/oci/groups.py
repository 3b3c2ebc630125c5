"""The control group of a container: which driver, which path."""

from __future__ import annotations

import os

from cove.errors import InvalidArgument, Unsupported
from cove.kernel.cgroups import Cgroups
from cove.runtime.oci.store import CGROUP_PARENT


def driver(*, systemd: bool) -> Cgroups:
    """What makes and limits groups. Unsupported when systemd is asked for and is not there."""
    if systemd:
        from cove.kernel import systemd as init

        if not init.is_running():
            raise Unsupported("systemd is not running on this host, so it cannot make control groups; use cgroupfs")
    return Cgroups.detect(CGROUP_PARENT, "systemd" if systemd else "cgroupfs")


def path_of(given: str, *, systemd: bool) -> str:
    """`linux.cgroupsPath` from the hierarchy's root (a relative one begins there too); or systemd's own form."""
    if systemd:
        own = given.removeprefix(f"/{CGROUP_PARENT}/")
        if own != given:
            return f":{CGROUP_PARENT}:{own}"
        if given.count(":") != 2:
            raise InvalidArgument(f"cgroupsPath {given} is no slice:prefix:name, which --systemd-cgroup needs")
        return given
    if given.count(":") == 2 and not given.startswith("/"):
        raise InvalidArgument(f"cgroupsPath {given} is systemd's slice:prefix:name; use --systemd-cgroup")
    return os.path.normpath("/" + given.lstrip("/"))
