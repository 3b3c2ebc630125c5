"""The control group of a container: which driver, which path."""

from __future__ import annotations

import os

from cove.errors import InvalidArgument, Unsupported
from cove.kernel.cgroups import Cgroups
from cove.runtime.oci.store import CGROUP_PARENT


def driver(*, systemd: bool) -> Cgroups:
    """What makes and limits groups. Unsupported when systemd is asked for and is not there."""
    if systemd and not os.path.isdir("/run/systemd/system"):
        raise Unsupported("systemd is not running on this host, so it cannot make control groups; use cgroupfs")
    if systemd:
        raise Unsupported("control groups made by systemd are not supported; use cgroupfs")
    return Cgroups.detect(CGROUP_PARENT)


def path_of(given: str) -> str:
    """`linux.cgroupsPath` from the hierarchy's root; a relative one begins there too."""
    if given.count(":") == 2 and not given.startswith("/"):
        raise InvalidArgument(f"cgroupsPath {given} is systemd's slice:prefix:name; use --systemd-cgroup")
    return os.path.normpath("/" + given.lstrip("/"))
