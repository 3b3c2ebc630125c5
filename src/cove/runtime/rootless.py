"""What somebody without rights on this host does otherwise.

Such a caller may make a user namespace and be root in there, but mount nothing outside of it: init mounts all by
itself, and only what its own user can read. The ids of the namespace are the caller's own one, or those that
/etc/subuid and /etc/subgid grant, written by newuidmap(1) and newgidmap(1).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cove.kernel import namespaces, syscalls
from cove.oci.spec import IDMapping
from cove.runtime.child.common import Failure

_CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    """Whether this process may mount in the namespaces it is in."""
    return bool(syscalls.capget()[0] >> _CAP_SYS_ADMIN & 1)


def is_rootless() -> bool:
    """Whether this process is not the root of the host, but somebody else or root of a user namespace."""
    if os.geteuid() != 0:
        return True
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def write_id_maps(pid: int, uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> None:
    """Give the new user namespace of `pid` its maps, as far as the caller's own right or a grant goes."""
    own = _is_one(uids, os.geteuid()) and _is_one(gids, os.getegid())
    if own:
        with open(f"/proc/{pid}/setgroups", "wb", buffering=0) as file:
            file.write(b"deny")  # or a group that denies something could be got rid of (user_namespaces(7))
        namespaces.write_id_maps(pid, *([(e.container_id, e.host_id, e.size) for e in each] for each in (uids, gids)))
        return
    for program, mappings in (("newuidmap", uids), ("newgidmap", gids)):
        words = [str(number) for e in mappings for number in (e.container_id, e.host_id, e.size)]
        try:
            child = os.posix_spawnp(program, [program, str(pid), *words], dict(os.environ))
        except FileNotFoundError:
            raise Failure(f"more ids than one's own need {program}, which is not there (Debian's uidmap)") from None
        if os.waitpid(child, 0)[1]:
            raise Failure(f"{program} gives no such ids: {' '.join(words)}; /etc/subuid and /etc/subgid grant them")


def _is_one(mappings: Sequence[IDMapping], own: int) -> bool:
    return len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == own
