"""On which NUMA nodes a container's memory lies: linux.memoryPolicy (set_mempolicy(2))."""

from __future__ import annotations

import os

from cove.kernel import syscalls
from cove.oci.spec import MemoryPolicy
from cove.runtime.child.common import Failure
from cove.runtime.numbers import known, numbers

MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_NO_NODES = {"MPOL_DEFAULT", "MPOL_LOCAL"}


def apply(policy: MemoryPolicy) -> None:
    """Set it for this process, and so for all that descend from it."""
    mode = known(MODES, policy.mode, "memory policy mode (linux.memoryPolicy.mode)")
    for flag in policy.flags:
        mode |= known(FLAGS, flag, "memory policy flag (linux.memoryPolicy.flags)")
    nodes = numbers(policy.nodes, "memory policy node list (linux.memoryPolicy.nodes)")
    if nodes and policy.mode in _NO_NODES:
        raise Failure(
            f"linux.memoryPolicy.mode {policy.mode} takes no nodes: the mode requires 0 nodes but got {len(nodes)}"
        )
    try:
        syscalls.set_mempolicy(mode, nodes)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Failure(
            f"linux.memoryPolicy {policy.mode} of nodes {policy.nodes or 'none'} cannot be set: {reason}",
            number=error.errno or 0,
        ) from None
