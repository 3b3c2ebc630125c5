"""Flags that people know from `docker` and that Cove does not have: why, and what to do instead.

Read only once a command line has failed to parse, so that a flag of `docker` is never just unknown.
"""

from __future__ import annotations

_WINDOWS = "it is for containers of Windows, and Cove runs those of Linux"
_SWARM = "it belongs to Docker's swarm mode, which Cove does not have"

_REASONS = {
    "cpu-count": f"{_WINDOWS}; use --cpus",
    "cpu-percent": f"{_WINDOWS}; use --cpus",
    "io-maxbandwidth": f"{_WINDOWS}; use --device-read-bps and --device-write-bps",
    "io-maxiops": f"{_WINDOWS}; use --device-read-iops and --device-write-iops",
    "isolation": _WINDOWS,
    "use-api-socket": "it would make the container root on this host without saying so; "
    "mount the daemon's socket yourself with -v if you mean it",
    "checkpoint": "Cove cannot restore processes from a checkpoint",
    "checkpoint-dir": "Cove cannot restore processes from a checkpoint",
    "disable-content-trust": "who may sign images is the administrator's choice, in policy.toml",
    "squash": "Cove keeps the layers of a build; for an image of one layer copy everything into a last stage: "
    "FROM scratch and COPY --from=STAGE / /",
    "compress": "a build's context goes to the daemon as it is, which is faster on one machine",
    "security-opt": "the steps of a build run under the default profile; "
    "give security.insecure with --allow to those that name it",
    "cluster": _SWARM,
    "ingress": _SWARM,
    "availability": _SWARM,
    "group": _SWARM,
    "limit-bytes": f"{_SWARM}; a volume's limit is --opt size=BYTES",
    "required-bytes": _SWARM,
    "secret": _SWARM,
    "sharing": _SWARM,
    "topology-preferred": _SWARM,
    "topology-required": _SWARM,
    "scope": "networks and volumes of Cove are always of this host",
    "link-local-ip": "addresses of a container come from its network's subnets; use --ip or --ip6",
    "insecure": "whether a registry may be spoken to in plain HTTP is said once, in registries.toml",
    "cpuset-mems": "a build's steps may use the memory of every node; use --cpuset-cpus",
}


def why(flag: str) -> str:
    """Why Cove does not have this flag of `docker`; "" for a flag that `docker` does not have either."""
    return _REASONS.get(flag, "")
