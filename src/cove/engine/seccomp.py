"""The system call filter of a container: Cove's profile or the user's, resolved for what the container may do."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from cove.oci import seccomp_profile
from cove.oci.spec import Seccomp


def resolved(profile: seccomp_profile.Profile | None, machine: str, capabilities: Iterable[str]) -> Seccomp:
    """The filter for a container with these capabilities (its bounding set, "CAP_…") on `machine` (uname -m).

    `profile`: the user's own, None for Cove's.
    """
    return seccomp_profile.resolve(
        profile or seccomp_profile.default(),
        capabilities=frozenset(capabilities),
        machine=machine,
        kernel=platform.release(),
    )
