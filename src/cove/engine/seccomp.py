"""The system call filter of a container: Cove's profile or the user's, resolved for what the container may do."""

from __future__ import annotations

import platform
from collections.abc import Iterable

import msgspec

from cove.engine import security
from cove.engine.host import HostFacts
from cove.oci import seccomp_profile
from cove.oci.spec import Seccomp
from cove.wire.containers import HostConfig


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


def installation(asked: HostConfig, host: HostFacts) -> Seccomp | None:
    """How a container's own filter is installed in a further process, without its rules; None for plainly."""
    profile = security.security_options(asked, host).seccomp if asked.security_opt else None
    if profile is None or not (profile.flags or profile.listener_path):
        return None
    return msgspec.structs.replace(resolved(profile, host.architecture, ()), syscalls=())
