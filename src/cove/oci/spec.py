"""The OCI runtime configuration (config.json) as frozen values.

Source: the runtime-spec's config-schema.json and config-linux.json. Field names are the
spec's, in Python's case; JSON names follow by rule. Unknown fields are ignored, as the spec asks; those of other
platforms are known, so that they can be refused by name.
"""

from typing import Literal

import msgspec

OCI_VERSION = "1.2.1"


class _Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of every value here: immutable, compared by content, named as the spec names it."""


class IDMapping(_Value, frozen=True, kw_only=True):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Mount(_Value, frozen=True, kw_only=True):
    """One mount: what snapshots and volumes return and the runtime performs.

    `options` holds mount flags ("ro", "nosuid", "rbind", "rprivate", …) and file system data
    ("size=64m"). An overlay's layers come as "lowerdir=TOP:…:BOTTOM", "upperdir=", "workdir=".
    """

    destination: str
    source: str = ""
    type: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Root(_Value, frozen=True, kw_only=True):
    path: str
    readonly: bool = False


class User(_Value, frozen=True, kw_only=True):
    """`username` means something on Windows only; here the numbers say all."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str = ""


class Capabilities(_Value, frozen=True, kw_only=True):
    """Names with the CAP_ prefix, per set."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Value, frozen=True, kw_only=True):
    type: str
    soft: int
    hard: int


class ConsoleSize(_Value, frozen=True, kw_only=True):
    height: int
    width: int


class IOPriority(_Value, frozen=True, kw_only=True):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class Scheduler(_Value, frozen=True, kw_only=True):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class ExecCPUAffinity(_Value, frozen=True, kw_only=True):
    initial: str = ""
    final: str = ""


class Process(_Value, frozen=True, kw_only=True):
    cwd: str
    args: tuple[str, ...] = ()
    command_line: str = ""
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    selinux_label: str = ""
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(name="execCPUAffinity", default=None)


class Hook(_Value, frozen=True, kw_only=True):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(_Value, frozen=True, kw_only=True):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]


class Namespace(_Value, frozen=True, kw_only=True):
    """A new namespace, or the one at `path` joined."""

    type: NamespaceType
    path: str = ""


class Device(_Value, frozen=True, kw_only=True):
    """A device node to make in /dev: type "c", "b", "u" or "p"."""

    type: str
    path: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int = 0
    gid: int = 0


class DeviceRule(_Value, frozen=True, kw_only=True):
    """One rule of the device control group; None for a number means every number."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class MemoryLimits(_Value, frozen=True, kw_only=True):
    """Bytes; -1 is unlimited."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(name="disableOOMKiller", default=None)
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPULimits(_Value, frozen=True, kw_only=True):
    """Shares are relative (2 to 262144); quota, period and burst are microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class PidsLimit(_Value, frozen=True, kw_only=True):
    limit: int


class WeightDevice(_Value, frozen=True, kw_only=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Value, frozen=True, kw_only=True):
    major: int
    minor: int
    rate: int


class BlockIOLimits(_Value, frozen=True, kw_only=True):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(name="throttleReadIOPSDevice", default=())
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(name="throttleWriteIOPSDevice", default=())


class HugepageLimit(_Value, frozen=True, kw_only=True):
    page_size: str
    limit: int


class InterfacePriority(_Value, frozen=True, kw_only=True):
    name: str
    priority: int


class NetworkLimits(_Value, frozen=True, kw_only=True):
    class_id: int | None = msgspec.field(name="classID", default=None)
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(_Value, frozen=True, kw_only=True):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(_Value, frozen=True, kw_only=True):
    devices: tuple[DeviceRule, ...] = ()
    memory: MemoryLimits | None = None
    cpu: CPULimits | None = None
    pids: PidsLimit | None = None
    block_io: BlockIOLimits | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkLimits | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SeccompArg(_Value, frozen=True, kw_only=True):
    index: int
    value: int
    value_two: int = 0
    op: str


class SeccompRule(_Value, frozen=True, kw_only=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Value, frozen=True, kw_only=True):
    """A system call filter: first the rules, then the default action."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


class IntelRdt(_Value, frozen=True, kw_only=True):
    clos_id: str = msgspec.field(name="closID", default="")
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_monitoring: bool = False


class MemoryPolicy(_Value, frozen=True, kw_only=True):
    mode: str = ""
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Personality(_Value, frozen=True, kw_only=True):
    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(_Value, frozen=True, kw_only=True):
    secs: int = 0
    nanosecs: int = 0


class NetDevice(_Value, frozen=True, kw_only=True):
    name: str = ""


class Linux(_Value, frozen=True, kw_only=True):
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: dict[str, NetDevice] = {}
    cgroups_path: str = ""
    resources: Resources | None = None
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}


class Spec(_Value, frozen=True, kw_only=True):
    """A whole config.json; the sections after `linux` are other platforms'."""

    oci_version: str = OCI_VERSION
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None
    windows: dict[str, object] | None = None
    vm: dict[str, object] | None = None
    solaris: dict[str, object] | None = None
    zos: dict[str, object] | None = None
    freebsd: dict[str, object] | None = None
