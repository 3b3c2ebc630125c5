"""Containers: what is asked for (Config, HostConfig) and what is told (inspect, summary, state).

Durations are in nanoseconds, sizes in bytes, times RFC 3339 text with nanoseconds. Where absent
and empty mean different things (an entry point, a command) the type has None; elsewhere empty
stands for both.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.wire.base import Value
from cove.wire.descriptors import Descriptor
from cove.wire.mounts import Mount, MountPoint
from cove.wire.networks import EndpointSettings
from cove.wire.ports import PortMap, PortSet, PortSummary


class HealthConfig(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A health check; zero means inherited, `test` ("NONE",) switches it off."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Value, frozen=True, kw_only=True):
    """What a container is, wherever it runs."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: PortSet = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: PortSet | None = None
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: tuple[str, ...] | None = None


class WeightDevice(Value, frozen=True, kw_only=True):
    path: str
    weight: int = 0


class ThrottleDevice(Value, frozen=True, kw_only=True):
    path: str
    rate: int = 0


class DeviceMapping(Value, frozen=True, kw_only=True):
    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Value, frozen=True, kw_only=True):
    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] = msgspec.field(name="DeviceIDs", default=())
    capabilities: tuple[tuple[str, ...], ...] = ()
    options: dict[str, str] = {}


class Ulimit(Value, frozen=True, kw_only=True):
    name: str
    soft: int = 0
    hard: int = 0


class Resources(Value, frozen=True, kw_only=True):
    """Limits. Zero (or None) means no limit, in an update no change.

    `net_rate` is Cove's own: "in=1048576,out=524288", bytes a second (`cove.network.rates`).
    """

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: tuple[WeightDevice, ...] = ()
    blkio_device_read_bps: tuple[ThrottleDevice, ...] = ()
    blkio_device_write_bps: tuple[ThrottleDevice, ...] = ()
    blkio_device_read_iops: tuple[ThrottleDevice, ...] = msgspec.field(name="BlkioDeviceReadIOps", default=())
    blkio_device_write_iops: tuple[ThrottleDevice, ...] = msgspec.field(name="BlkioDeviceWriteIOps", default=())
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[DeviceMapping, ...] = ()
    device_cgroup_rules: tuple[str, ...] | None = None
    device_requests: tuple[DeviceRequest, ...] | None = None
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = msgspec.field(name="IOMaximumBandwidth", default=0)
    net_rate: str = ""


class RestartPolicy(Value, frozen=True, kw_only=True):
    """`name`: "", "no", "always", "unless-stopped" or "on-failure"."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Value, frozen=True, kw_only=True):
    type: str = ""
    config: dict[str, str] = {}


class HostConfig(Resources, frozen=True, kw_only=True):
    """What a container asks of the host it runs on."""

    binds: tuple[str, ...] | None = None
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    expose_to: str = ""
    egress: tuple[str, ...] = ()
    port_bindings: PortMap = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] | None = None
    mounts: tuple[Mount, ...] = ()
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] = {}
    cap_add: tuple[str, ...] | None = None
    cap_drop: tuple[str, ...] | None = None
    cgroupns_mode: str = ""
    dns: tuple[str, ...] | None = None
    dns_options: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None
    extra_hosts: tuple[str, ...] | None = None
    group_add: tuple[str, ...] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] | None = None
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None


class NetworkingConfig(Value, frozen=True, kw_only=True):
    """Networks to join at creation, by name."""

    endpoints_config: dict[str, EndpointSettings | None] = {}


class CreateRequest(ContainerConfig, frozen=True, kw_only=True):
    """The body of POST /containers/create: a ContainerConfig with two more fields."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()

    def config(self) -> ContainerConfig:
        """Only the ContainerConfig of this request."""
        return msgspec.convert(self, ContainerConfig, from_attributes=True)


class CreateResponse(Value, frozen=True, kw_only=True):
    id: str
    warnings: tuple[str, ...] = ()


class UpdateRequest(Resources, frozen=True, kw_only=True):
    """`publish_add` and `publish_rm` are Cove's own: ports to publish, and no longer to publish, from now on."""

    restart_policy: RestartPolicy | None = None
    publish_add: PortMap = {}
    publish_rm: PortMap = {}


class UpdateResponse(Value, frozen=True, kw_only=True):
    warnings: tuple[str, ...] = ()


class HealthResult(Value, frozen=True, kw_only=True):
    """One run of a health check: 0 healthy, 1 unhealthy, anything else a failure to check."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(Value, frozen=True, kw_only=True):
    """`status`: "none", "starting", "healthy" or "unhealthy"."""

    status: str
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


class ContainerState(Value, frozen=True, kw_only=True):
    """`status`: "created", "running", "paused", "restarting", "removing", "exited" or "dead".

    `memory_peak` (Cove's own): the most memory that a run which ended had used at once, in bytes.
    """

    status: str
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    memory_peak: int | UnsetType = UNSET
    started_at: str = "0001-01-01T00:00:00Z"
    finished_at: str = "0001-01-01T00:00:00Z"
    health: Health | UnsetType = UNSET


class GraphDriver(Value, frozen=True, kw_only=True):
    data: dict[str, str] | None = None
    name: str = "overlay2"


class NetworkSettings(Value, frozen=True, kw_only=True):
    sandbox_id: str = msgspec.field(name="SandboxID", default="")
    sandbox_key: str = ""
    ports: PortMap = {}
    networks: dict[str, EndpointSettings] = {}


class OlderNetworkSettings(NetworkSettings, frozen=True, kw_only=True):
    """With the container's place on the default bridge, which clients read there before API 1.52."""

    bridge: str = ""
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = ""
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    hairpin_mode: bool = False
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    link_local_ipv6_address: str = msgspec.field(name="LinkLocalIPv6Address", default="")
    link_local_ipv6_prefix_len: int = msgspec.field(name="LinkLocalIPv6PrefixLen", default=0)
    mac_address: str = ""
    secondary_ip_addresses: tuple[str, ...] | None = msgspec.field(name="SecondaryIPAddresses", default=None)
    secondary_ipv6_addresses: tuple[str, ...] | None = msgspec.field(name="SecondaryIPv6Addresses", default=None)


class ContainerInspect(Value, frozen=True, kw_only=True):
    """`name` begins with a slash; sizes are there only when they were asked for."""

    id: str
    created: str
    path: str
    args: tuple[str, ...] = ()
    state: ContainerState
    image: str
    resolv_conf_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    log_path: str = ""
    name: str
    restart_count: int = 0
    driver: str = "overlay2"
    platform: str = "linux"
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: tuple[str, ...] | None = msgspec.field(name="ExecIDs", default=None)
    image_manifest_descriptor: Descriptor | UnsetType = UNSET
    host_config: HostConfig
    graph_driver: GraphDriver = GraphDriver()
    size_rw: int | UnsetType = UNSET
    size_root_fs: int | UnsetType = UNSET
    mounts: tuple[MountPoint, ...] = ()
    config: ContainerConfig
    network_settings: NetworkSettings = NetworkSettings()


class SummaryHostConfig(Value, frozen=True, kw_only=True):
    network_mode: str = ""
    annotations: dict[str, str] | UnsetType = UNSET


class SummaryNetworks(Value, frozen=True, kw_only=True):
    networks: dict[str, EndpointSettings] = {}


class SummaryHealth(Value, frozen=True, kw_only=True):
    """`status` is "none" of a container without a health check."""

    status: str = "none"
    failing_streak: int = 0


class ContainerSummary(Value, frozen=True, kw_only=True):
    """One line of `docker ps`. `created` is in Unix seconds, `status` text for people."""

    id: str
    names: tuple[str, ...]
    image: str
    image_id: str = msgspec.field(name="ImageID")
    command: str
    created: int
    ports: tuple[PortSummary, ...] = ()
    size_rw: int | UnsetType = UNSET
    size_root_fs: int | UnsetType = UNSET
    labels: dict[str, str] = {}
    state: str
    status: str
    host_config: SummaryHostConfig = SummaryHostConfig()
    network_settings: SummaryNetworks = SummaryNetworks()
    mounts: tuple[MountPoint, ...] = ()
    health: SummaryHealth | UnsetType = SummaryHealth()
    image_manifest_descriptor: Descriptor | UnsetType = UNSET


class TopResponse(Value, frozen=True, kw_only=True):
    titles: tuple[str, ...]
    processes: tuple[tuple[str, ...], ...]


class Change(Value, frozen=True, kw_only=True):
    """`kind`: 0 modified, 1 added, 2 deleted."""

    path: str
    kind: int


class WaitError(Value, frozen=True, kw_only=True):
    message: str


class WaitResponse(Value, frozen=True, kw_only=True):
    status_code: int
    error: WaitError | UnsetType = UNSET


class PruneResponse(Value, frozen=True, kw_only=True):
    containers_deleted: tuple[str, ...] | None = None
    space_reclaimed: int = 0


class PathStat(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a path in a container; goes base64-encoded into X-Docker-Container-Path-Stat.

    `mode` is Go's os.FileMode, not the kernel's: see `go_mode`.
    """

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str = ""


_GO_TYPES = {0o040000: 1 << 31, 0o120000: 1 << 27, 0o010000: 1 << 25, 0o140000: 1 << 24, 0o060000: 1 << 26}
_GO_CHARACTER_DEVICE = 1 << 26 | 1 << 21


def go_mode(mode: int) -> int:
    """A kernel's st_mode as Go's os.FileMode (pkg.go.dev/io/fs, "FileMode")."""
    kind = mode & 0o170000
    special = _GO_CHARACTER_DEVICE if kind == 0o020000 else _GO_TYPES.get(kind, 0)
    setuid = 1 << 23 if mode & 0o4000 else 0
    setgid = 1 << 22 if mode & 0o2000 else 0
    sticky = 1 << 20 if mode & 0o1000 else 0
    return mode & 0o777 | special | setuid | setgid | sticky
