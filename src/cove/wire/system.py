"""The engine about itself: version, info, disk usage, authentication."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.wire.base import Value
from cove.wire.containers import ContainerSummary
from cove.wire.images import ImageSummary
from cove.wire.volumes import Volume


class Component(Value, frozen=True, kw_only=True):
    name: str
    version: str
    details: dict[str, str] = {}


class VersionPlatform(Value, frozen=True, kw_only=True):
    name: str


class Version(Value, frozen=True, kw_only=True):
    platform: VersionPlatform
    components: tuple[Component, ...] = ()
    version: str
    api_version: str
    min_api_version: str = msgspec.field(name="MinAPIVersion")
    git_commit: str = ""
    go_version: str = ""
    os: str = "linux"
    arch: str
    kernel_version: str
    experimental: bool = False
    build_time: str = ""


class Plugins(Value, frozen=True, kw_only=True):
    """Names of the drivers there are."""

    volume: tuple[str, ...] = ("local",)
    network: tuple[str, ...] = ("bridge", "host", "null")
    authorization: tuple[str, ...] | None = None
    log: tuple[str, ...] = ()


class Commit(Value, frozen=True, kw_only=True):
    id: str = msgspec.field(name="ID", default="")
    expected: str | UnsetType = UNSET


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    path: str


class Swarm(Value, frozen=True, kw_only=True):
    node_id: str = msgspec.field(name="NodeID", default="")
    node_addr: str = ""
    local_node_state: str = "inactive"
    control_available: bool = False
    error: str = ""
    remote_managers: tuple[str, ...] | None = None


class IndexInfo(Value, frozen=True, kw_only=True):
    name: str
    mirrors: tuple[str, ...] = ()
    secure: bool = True
    official: bool = False


class RegistryConfig(Value, frozen=True, kw_only=True):
    insecure_registry_cidrs: tuple[str, ...] = msgspec.field(
        name="InsecureRegistryCIDRs", default=("::1/128", "127.0.0.0/8")
    )
    index_configs: dict[str, IndexInfo] = {}
    mirrors: tuple[str, ...] | None = None


class AddressPool(Value, frozen=True, kw_only=True):
    base: str
    size: int


class Firewall(Value, frozen=True, kw_only=True):
    driver: str = "nftables"


class Info(Value, frozen=True, kw_only=True):
    """What `docker info` prints."""

    id: str = msgspec.field(name="ID")
    containers: int = 0
    containers_running: int = 0
    containers_paused: int = 0
    containers_stopped: int = 0
    images: int = 0
    driver: str = "overlay2"
    driver_status: tuple[tuple[str, str], ...] = ()
    docker_root_dir: str
    plugins: Plugins = Plugins()
    memory_limit: bool = True
    swap_limit: bool = True
    cpu_cfs_period: bool = True
    cpu_cfs_quota: bool = True
    cpu_shares: bool = msgspec.field(name="CPUShares", default=True)
    cpu_set: bool = msgspec.field(name="CPUSet", default=True)
    pids_limit: bool = True
    oom_kill_disable: bool = False
    bridge_nf_iptables: bool | UnsetType = msgspec.field(name="BridgeNfIptables", default=UNSET)
    bridge_nf_ip6tables: bool | UnsetType = msgspec.field(name="BridgeNfIp6tables", default=UNSET)
    ipv4_forwarding: bool = msgspec.field(name="IPv4Forwarding", default=True)
    debug: bool = False
    n_fd: int = msgspec.field(name="NFd", default=0)
    n_goroutines: int = msgspec.field(name="NGoroutines", default=0)
    system_time: str
    logging_driver: str = "local"
    cgroup_driver: str = "cgroupfs"
    cgroup_version: str
    n_events_listener: int = msgspec.field(name="NEventsListener", default=0)
    kernel_version: str
    operating_system: str
    os_version: str = msgspec.field(name="OSVersion", default="")
    os_type: str = msgspec.field(name="OSType", default="linux")
    architecture: str
    ncpu: int = msgspec.field(name="NCPU")
    mem_total: int
    index_server_address: str = "https://index.docker.io/v1/"
    registry_config: RegistryConfig = RegistryConfig()
    generic_resources: tuple[str, ...] | None = None
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    name: str
    labels: tuple[str, ...] = ()
    experimental_build: bool = False
    server_version: str
    runtimes: dict[str, Runtime] = {}
    default_runtime: str = "cove"
    swarm: Swarm = Swarm()
    live_restore_enabled: bool = True
    isolation: str = ""
    init_binary: str = ""
    containerd_commit: Commit = Commit()
    runc_commit: Commit = Commit()
    init_commit: Commit = Commit()
    security_options: tuple[str, ...] = ("name=seccomp,profile=builtin",)
    default_address_pools: tuple[AddressPool, ...] | UnsetType = UNSET
    firewall_backend: Firewall | UnsetType = Firewall()
    cdi_spec_dirs: tuple[str, ...] = msgspec.field(name="CDISpecDirs", default=())
    warnings: tuple[str, ...] | None = None


class BuildCacheItem(Value, frozen=True, kw_only=True):
    """A finished step, or a cache mount; `shared` when an image has its layer too. `size` is in bytes on disk."""

    id: str = msgspec.field(name="ID")
    parents: tuple[str, ...] | None = None
    type: str = "regular"
    description: str = ""
    in_use: bool = False
    shared: bool = False
    size: int = 0
    created_at: str = ""
    last_used_at: str = ""
    usage_count: int = 0


class ObjectUsage(Value, frozen=True, kw_only=True):
    """All objects of one kind: bytes on disk, and how many of them removing the unused ones would free."""

    active_count: int = 0
    total_count: int = 0
    total_size: int = 0
    reclaimable: int = 0
    items: tuple[ImageSummary | ContainerSummary | Volume | BuildCacheItem, ...] | UnsetType = UNSET


class DiskUsage(Value, frozen=True, kw_only=True):
    """What takes room on disk, in bytes as du(1) counts them; `layers_size` is that of all images.

    Clients before API 1.52 read the lists, newer ones the usages. A kind that was not asked for is left out.
    """

    layers_size: int | UnsetType = UNSET
    images: tuple[ImageSummary, ...] | UnsetType = UNSET
    containers: tuple[ContainerSummary, ...] | UnsetType = UNSET
    volumes: tuple[Volume, ...] | UnsetType = UNSET
    build_cache: tuple[BuildCacheItem, ...] | UnsetType = UNSET
    image_usage: ObjectUsage | UnsetType = UNSET
    container_usage: ObjectUsage | UnsetType = UNSET
    volume_usage: ObjectUsage | UnsetType = UNSET
    build_cache_usage: ObjectUsage | UnsetType = UNSET


class AuthResponse(Value, frozen=True, kw_only=True):
    status: str
    identity_token: str = ""
