"""How a container is isolated: the answer of GET /containers/{id}/explain and POST /containers/explain.

These calls are Cove's own. Numbers are bytes, bytes a second, counts or shares of one CPU; `text` fields say the
same in words. Of a container that does not run, and of one that is only planned, what is live is left out (null).
"""

from __future__ import annotations

from cove.wire.base import Value


class Namespace(Value, frozen=True, kw_only=True):
    """`mode`: "own", "host" (it shares the host's) or "shared" (with the container `with_`).

    `id` and `host_id` are the numbers of the namespace (namespaces(7)) that the container and the host are in.
    """

    type: str
    mode: str
    id: int | None = None
    host_id: int | None = None
    shared_with: str = ""
    text: str


class Pressure(Value, frozen=True, kw_only=True):
    """Per cent of the last ten and sixty seconds in which some, or all, of its tasks waited (PSI)."""

    some10: float
    some60: float
    full10: float
    scope: str
    """"container", or "host" where the kernel tells it of the whole host only (cgroup v1)."""


class Limit(Value, frozen=True, kw_only=True):
    """One limit beside its use. `unit`: "cpus", "bytes", "bytes/s", "operations/s", "processes", "weight", "set".

    `source`: the file or the place in the kernel that enforces it.
    """

    resource: str
    unit: str
    limit: float | None = None
    used: float | None = None
    peak: float | None = None
    text: str
    source: str = ""
    pressure: Pressure | None = None


class Capability(Value, frozen=True, kw_only=True):
    """A capability, or a system call, and what it lets a process do."""

    name: str
    text: str


class Seccomp(Value, frozen=True, kw_only=True):
    """`profile`: "default", "custom" or "unconfined"; `allowed` of `known` system calls of this architecture."""

    profile: str
    allowed: int = 0
    known: int = 0
    text: str
    refused: tuple[Capability, ...] = ()


class Hook(Value, frozen=True, kw_only=True):
    """A program of the host's that root runs at each start; `stage` is the runtime specification's word for when."""

    stage: str
    path: str
    args: tuple[str, ...] = ()


class Security(Value, frozen=True, kw_only=True):
    """What the first process may do. `masked` paths show nothing, `readonly` ones cannot be written."""

    user: str
    capabilities: tuple[Capability, ...] = ()
    without: tuple[Capability, ...] = ()
    """The ones that matter most among those that it lacks."""
    seccomp: Seccomp
    no_new_privileges: bool = False
    privileged: bool = False
    apparmor: str = ""
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    sysctls: dict[str, str] = {}
    devices: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    """What its CDI devices brought."""


class Mount(Value, frozen=True, kw_only=True):
    """`origin`: where it comes from, in words. `made_inside`: the container mounted it itself."""

    destination: str
    type: str
    source: str = ""
    options: str = ""
    writable: bool = True
    origin: str
    made_inside: bool = False


class Interface(Value, frozen=True, kw_only=True):
    """`host_interface` is the host's end of its veth, `bridge` what that is plugged into.

    `received` and `sent`: bytes so far, as the container counts them; rates in bytes a second, 0 is no limit.
    """

    name: str
    network: str
    driver: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    gateways: tuple[str, ...] = ()
    host_interface: str = ""
    bridge: str = ""
    rate_in: int = 0
    rate_out: int = 0
    network_rate_in: int = 0
    network_rate_out: int = 0
    received: int | None = None
    sent: int | None = None


class Process(Value, frozen=True, kw_only=True):
    """A process that listens; `pid` on the host, `inner_pid` in the container."""

    pid: int
    inner_pid: int
    command: str


class Hop(Value, frozen=True, kw_only=True):
    place: str
    text: str


class Port(Value, frozen=True, kw_only=True):
    """`path`: from the host to the process, one hop after the other. Without `listener` nobody listens."""

    container_port: int
    protocol: str
    host_ip: str = ""
    host_port: int = 0
    path: tuple[Hop, ...] = ()
    listener: Process | None = None


class Network(Value, frozen=True, kw_only=True):
    mode: str
    text: str
    interfaces: tuple[Interface, ...] = ()
    ports: tuple[Port, ...] = ()
    name_servers: tuple[str, ...] = ()


class Explanation(Value, frozen=True, kw_only=True):
    """`state`: Docker's word for it, or "planned" for a container that there is not."""

    id: str = ""
    name: str
    image: str
    command: tuple[str, ...] = ()
    state: str
    pid: int = 0
    started_at: str = ""
    cgroup: str = ""
    cgroup_version: int = 2
    namespaces: tuple[Namespace, ...] = ()
    limits: tuple[Limit, ...] = ()
    security: Security
    mounts: tuple[Mount, ...] = ()
    network: Network
    warnings: tuple[str, ...] = ()
