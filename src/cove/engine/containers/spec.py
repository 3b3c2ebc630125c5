"""From what was asked to what the runtime shall do: one frozen Spec.

Pure: a record, the mounts that snapshots and volumes gave, and facts of the host go in; a Spec comes out,
or one sentence about the option that cannot be honoured. `check` refuses at creation what `build` would
refuse at start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from cove.engine.containers import merge
from cove.engine.containers.records import Record
from cove.engine.host import HostFacts
from cove.engine.isolation import resources, seccomp, security, userns
from cove.engine.isolation.cdi import NO_EDITS, Edits
from cove.errors import InvalidArgument, Unsupported
from cove.kernel.cgroups_v2 import divides_disks
from cove.network import egress
from cove.oci.spec import (
    ConsoleSize,
    Linux,
    Mount,
    Namespace,
    NamespaceType,
    Process,
    Resources,
    Root,
    Seccomp,
    Spec,
)
from cove.runtime.messages import LENT
from cove.volume import sized
from cove.wire.containers import ContainerConfig, HostConfig

DEFAULT_SHM = 64 << 20

RUNTIMES = ("", "cove", "runc")
"""There is one; "runc" is what other engines call theirs, and what clients send for it."""


class Surroundings(msgspec.Struct, frozen=True):
    """What a start adds to the record.

    `mounts`: volumes, binds and the managed files, in order of depth. `joined`: for each namespace that
    another container's process lends, the path under /proc. `hostname`: the container's own, or the host's.
    `edits`: what devices described by their vendors add. `memory`: the mount namespace whose /dev/shm is shared.
    `within_project`: files of it have a size by a quota.
    """

    cgroup: str
    hostname: str
    mounts: tuple[Mount, ...] = ()
    edits: Edits = NO_EDITS
    within_project: bool = False
    joined: Mapping[str, str] = msgspec.field(default_factory=dict)
    memory: str = ""


def build(record: Record, around: Surroundings, host: HostFacts) -> Spec:
    """The whole runtime configuration of a container."""
    config, asked = record.config, record.host
    options = security.security_options(asked, host)
    nodes, rules = resources.devices(asked)
    nodes, rules = (*nodes, *around.edits.devices), (*rules, *around.edits.rules)
    limits = resources.limits(asked, host)
    namespaces = _namespaces(record, around.joined)
    own = {namespace.type for namespace in namespaces if not namespace.path}
    paths = options.system_paths
    process = _process(record, around, options, host)
    return Spec(
        process=process,
        root=Root(path="rootfs", readonly=asked.readonly_rootfs),
        hostname=around.hostname if "uts" in own else "",
        domainname=config.domainname if "uts" in own else "",
        mounts=(*_system_mounts(asked, own, options, around.memory), *around.edits.mounts, *around.mounts),
        annotations=dict(asked.annotations),
        linux=Linux(
            namespaces=namespaces,
            uid_mappings=record.uid_map,
            gid_mappings=record.gid_map,
            devices=nodes,
            cgroups_path=around.cgroup,
            resources=Resources(
                devices=rules, memory=limits.memory, cpu=limits.cpu, pids=limits.pids, block_io=limits.block_io
            ),
            seccomp=_seccomp(options, process, host, within_project=around.within_project),
            sysctl=security.sysctls(
                asked.sysctls,
                own_network="network" in own,
                own_ipc="ipc" in own,
                own_uts="uts" in own,
                groups=sum(each.size for each in record.gid_map) or 1 << 31,
            ),
            masked_paths=_paths(asked.masked_paths, security.masked_paths(host.cpus) if paths else ()),
            readonly_paths=_paths(asked.readonly_paths, security.READONLY_PATHS if paths else ()),
            rootfs_propagation="rprivate",
        ),
    )


def with_paths(asked: HostConfig, host: HostFacts) -> HostConfig:
    """The same wishes with the masked and read-only paths spelt out that the container has."""
    if not security.security_options(asked, host).system_paths:
        return asked
    return msgspec.structs.replace(
        asked,
        masked_paths=_paths(asked.masked_paths, security.masked_paths(host.cpus)),
        readonly_paths=_paths(asked.readonly_paths, security.READONLY_PATHS),
    )


def _paths(asked: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """An empty list asks for none at all."""
    return default if asked is None else asked


def _seccomp(
    options: security.SecurityOptions, process: Process, host: HostFacts, *, within_project: bool
) -> Seccomp | None:
    """The user's filter, or the default one for what the container may do."""
    if options.unconfined:
        return None
    capabilities = process.capabilities.bounding if process.capabilities else ()
    found = seccomp.resolved(options.seccomp, host.architecture, capabilities)
    return seccomp.within_project(found) if within_project else found


def _process(record: Record, around: Surroundings, options: security.SecurityOptions, host: HostFacts) -> Process:
    config, asked = record.config, record.host
    height, width = asked.console_size
    values, _ = security.rlimits(asked.ulimits, host)
    return Process(
        args=merge.command(config),
        env=(*merge.environment(config, around.hostname, tty=config.tty), *around.edits.env),
        cwd=config.working_dir or "/",
        terminal=config.tty,
        console_size=ConsoleSize(height=height, width=width) if config.tty and height and width else None,
        capabilities=security.capabilities(asked, host),
        rlimits=values,
        no_new_privileges=options.no_new_privileges,
        apparmor_profile=options.apparmor,
        oom_score_adj=asked.oom_score_adj or None,
    )


# ── namespaces ────────────────────────────────────────────────────────────────────────────────────


def lender(mode: str) -> str:
    """The container whose namespace a mode like "container:NAME" joins, else ""."""
    kind, _, name = mode.partition(":")
    return name if kind == "container" else ""


def lenders(asked: HostConfig) -> dict[str, str]:
    """Which container lends which namespace."""
    modes = {"pid": asked.pid_mode, "ipc": asked.ipc_mode, "network": asked.network_mode}
    return {kind: name for kind, mode in modes.items() if (name := lender(mode))}


def _namespaces(record: Record, joined: Mapping[str, str]) -> tuple[Namespace, ...]:
    """The mount namespace is always new; the host's is shared by leaving one out."""
    asked = record.host
    modes: dict[NamespaceType, str] = {
        "pid": asked.pid_mode,
        "ipc": asked.ipc_mode,
        "uts": asked.uts_mode,
        "network": asked.network_mode,
        "cgroup": asked.cgroupns_mode,
    }
    found = [Namespace(type="mount"), *([Namespace(type="user")] if record.uid_map else [])]
    for kind, mode in modes.items():
        if mode != "host":
            found.append(Namespace(type=kind, path=joined.get(kind, "")))
    if security.is_hardened(asked):
        found.append(Namespace(type="time"))
    return tuple(found)


_UNDIVIDED = (
    "The block I/O weight has no effect until a disk of this host is divided by weight: by the scheduler bfq, or by "
    "io.cost."
)

_UNENDING = (
    "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out "
    "of resources."
)


def check(config: ContainerConfig, asked: HostConfig, host: HostFacts) -> tuple[str, ...]:
    """Refuse what can't be honoured; return warnings about what is honoured only in part."""
    _check_modes(config, asked)
    _check_unsupported(asked, host)
    security.security_options(asked, host)
    security.capabilities(asked, host)
    resources.limits(asked, host)
    resources.devices(asked)
    own_network = asked.network_mode != "host" and not lender(asked.network_mode)
    security.sysctls(
        asked.sysctls,
        own_network=own_network,
        own_ipc=asked.ipc_mode in ("", "private", "shareable", "none"),
        own_uts=asked.uts_mode != "host",
    )
    if not -1000 <= asked.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {asked.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if asked.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    _, warnings = security.rlimits(asked.ulimits, host)
    if asked.memory and not host.swap_limit:
        warnings += ("Your kernel does not support swap limit capabilities. Memory is limited without swap.",)
    if asked.oom_kill_disable and not asked.memory:
        warnings += (_UNENDING,)
    if asked.blkio_weight and host.cgroup_version == 2 and not divides_disks():
        warnings += (_UNDIVIDED,)
    return warnings


def _check_modes(config: ContainerConfig, asked: HostConfig) -> None:
    for kind, attribute, words in (
        ("PID", "pid_mode", ("", "host", "private")),
        ("IPC", "ipc_mode", ("", "host", "private", "shareable", "none")),
        ("UTS", "uts_mode", ("", "host")),
        ("cgroup namespace", "cgroupns_mode", ("", "host", "private")),
    ):
        mode = getattr(asked, attribute)
        if mode not in words and not (kind in ("PID", "IPC") and lender(mode)):
            raise InvalidArgument(f"invalid {kind} mode: {mode}")
    userns.check(asked.userns_mode)
    if egress.parse(asked.egress) and (asked.network_mode in ("host", "none") or lender(asked.network_mode)):
        raise Unsupported(f"--egress needs an interface of the container's own, which {asked.network_mode} is not")
    if asked.expose_to not in ("", "public", "lan", "local"):
        raise InvalidArgument(f"nobody is meant by --expose-to {asked.expose_to}: there are public, lan and local")
    if asked.uts_mode == "host" and (config.hostname or config.domainname):
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if len(config.hostname) > 63 or "\0" in config.hostname:
        raise InvalidArgument(f"invalid hostname format: {config.hostname}: it is longer than 63 bytes")
    shared = asked.network_mode == "host" or lender(asked.network_mode)
    if asked.net_rate and (shared or asked.network_mode == "none"):
        whose = "another container's network" if lender(asked.network_mode) else f"the network {asked.network_mode}"
        raise Unsupported(f"--net-rate needs an interface of the container's own, which {whose} does not give it")


def check_shared_network(config: ContainerConfig, asked: HostConfig) -> None:
    """Refuse what a container on another's network, or the host's, cannot have of its own.

    `config` as the user gave it: what the image says beside it is not wished for.
    """
    if asked.network_mode in ("container", "container:"):
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    joined = bool(lender(asked.network_mode))
    if asked.links and (joined or asked.network_mode == "host"):
        kind = "container type network" if joined else "host type networking"
        raise InvalidArgument(
            f"conflicting options: {kind} can't be used with links. This would result in undefined behavior"
        )
    if not joined:
        return
    for given, what in (
        (config.hostname, "hostname and the network mode"),
        (asked.dns, "dns and the network mode"),
        (asked.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (
            asked.port_bindings or asked.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (config.exposed_ports, "port exposing and the container type network mode"),
    ):
        if given:
            raise InvalidArgument(f"conflicting options: {what}")


def _check_unsupported(asked: HostConfig, host: HostFacts) -> None:
    """Everything that this version cannot do is said, never ignored."""
    if asked.runtime not in RUNTIMES:
        raise InvalidArgument(f"unknown or invalid runtime name: {asked.runtime}")
    if asked.isolation not in ("", "default"):
        raise InvalidArgument(f'invalid isolation: "{asked.isolation}"; only "default" is possible on Linux')
    if asked.storage_opt.keys() - {"size"}:
        raise InvalidArgument(f"unknown --storage-opt {', '.join(asked.storage_opt)}: it is size=10g")
    if asked.storage_opt:
        sized.parse(asked.storage_opt["size"])
    if asked.cgroup_parent and (".." in asked.cgroup_parent.split("/") or "\0" in asked.cgroup_parent):
        raise InvalidArgument(f"invalid cgroup parent: {asked.cgroup_parent}")
    if host.cgroup_driver == "systemd" and asked.cgroup_parent and not _SLICE.fullmatch(asked.cgroup_parent):
        raise InvalidArgument('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
    if asked.auto_remove and asked.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    policy = asked.restart_policy
    if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', "
            "or 'unless-stopped'"
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")


# ── mounts of the system ──────────────────────────────────────────────────────────────────────────

_SLICE = re.compile(r"(-|[\w@.:\\]+(-[\w@.:\\]+)*)\.slice")
_SAFE = ("nosuid", "noexec", "nodev")


def _system_mounts(
    asked: HostConfig, own: set[NamespaceType], options: security.SecurityOptions, memory: str
) -> tuple[Mount, ...]:
    """/proc, /dev and their kin, in the order they are made."""
    access = "rw" if asked.privileged else "ro"
    cgroups = "rw" if options.writable_cgroups and "cgroup" in own else access
    shm = asked.shm_size or DEFAULT_SHM
    mounts = [
        Mount(destination="/proc", source="proc", type="proc", options=_SAFE),
        Mount(
            destination="/dev",
            source="tmpfs",
            type="tmpfs",
            options=("nosuid", "strictatime", "mode=755", "size=65536k"),
        ),
        Mount(
            destination="/dev/pts",
            source="devpts",
            type="devpts",
            options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        Mount(destination="/sys", source="sysfs", type="sysfs", options=(*_SAFE, access)),
        Mount(destination="/sys/fs/cgroup", source="cgroup", type="cgroup", options=(*_SAFE, "relatime", cgroups)),
        Mount(destination="/dev/mqueue", source="mqueue", type="mqueue", options=_SAFE),
    ]
    if asked.ipc_mode == "host":
        mounts.append(Mount(destination="/dev/shm", source="/dev/shm", type="bind", options=("rbind", "rprivate")))
    elif memory:
        mounts.append(Mount(destination="/dev/shm", source=memory, type=LENT, options=_SAFE))
    elif asked.ipc_mode != "none":
        mounts.append(
            Mount(destination="/dev/shm", source="shm", type="tmpfs", options=(*_SAFE, "mode=1777", f"size={shm}"))
        )
    return tuple(mounts)


def tmpfs(destination: str, options: str) -> Mount:
    """A `--tmpfs`: "size=64m,mode=1777,exec"; raises InvalidArgument for an unknown option."""
    words = [word for word in options.split(",") if word]
    flags = {"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "noatime", "relatime"}
    flags |= {deep + kind for deep in ("", "r") for kind in ("private", "shared", "slave", "unbindable")}
    for word in words:
        name = word.partition("=")[0]
        if word not in flags and name not in ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge"):
            raise InvalidArgument(f'invalid tmpfs option "{word}"')
    defaults = [word for word in _SAFE if word not in words and word[2:] not in words]
    return Mount(destination=destination, source="tmpfs", type="tmpfs", options=(*defaults, *words))
