"""What a container may do: capabilities, security options, masked and read-only paths, limits, sysctls.

Pure. The defaults are a closed list, told in docs as "Defaults"; everything a user adds or drops is
checked here, and what this host cannot enforce is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from cove.engine.host import HostFacts
from cove.errors import InvalidArgument, Unsupported
from cove.oci import seccomp_profile
from cove.oci.spec import Capabilities, Rlimit
from cove.wire.containers import HostConfig, Ulimit

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
"""By number, from linux/capability.h."""

DEFAULT_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
        "SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
)

_NOT_HARDENED = frozenset({"CAP_MKNOD", "CAP_NET_RAW", "CAP_AUDIT_WRITE"})
HARDENED = "security=hardened"
"""The security option that chooses the stricter defaults."""

_HARDENED_PIDS = 2048

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROC = "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats"


def masked_paths(cpus: int) -> tuple[str, ...]:
    """The paths that show nothing: they tell of the host, or steer it."""
    return (
        *(f"/proc/{name}" for name in _PROC.split()),
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/fs/selinux",
        *(f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(cpus)),
    )


# ── capabilities ──────────────────────────────────────────────────────────────────────────────────


def capabilities(asked: HostConfig, host: HostFacts) -> Capabilities:
    """Bounding, effective and permitted alike; inheritable and ambient are always empty."""
    known = CAPABILITIES[: host.last_capability + 1]
    add = _names(asked.cap_add or (), "CapAdd")
    drop = _names(asked.cap_drop or (), "CapDrop")
    if asked.privileged:
        chosen = set(known)
    else:
        usual = DEFAULT_CAPABILITIES - (_NOT_HARDENED if is_hardened(asked) else frozenset())
        chosen = set(known) if "ALL" in add else set() if "ALL" in drop else set(usual)
        chosen = (chosen - drop) | (add - {"ALL"} - (drop if "ALL" in add else set()))
    kept = tuple(name for name in known if name in chosen)
    return Capabilities(bounding=kept, effective=kept, permitted=kept)


def _names(words: Iterable[str], field: str) -> set[str]:
    names: set[str] = set()
    for word in words:
        name = word.upper()
        if name != "ALL":
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in CAPABILITIES:
                raise InvalidArgument(f'invalid {field}: unknown capability: "{name}"')
        names.add(name)
    return names


# ── the stricter defaults ─────────────────────────────────────────────────────────────────────────


def is_hardened(asked: HostConfig) -> bool:
    """Whether `--security hardened` was asked for."""
    return HARDENED in (asked.security_opt or ())


def hardened(asked: HostConfig) -> HostConfig:
    """What was asked for with the stricter defaults spelt out; what a user says in words stays.

    Capabilities, the published ports' address and the time namespace follow where they are decided.
    """
    if not is_hardened(asked):
        return asked
    if asked.privileged:
        raise InvalidArgument("--security hardened and --privileged contradict each other; leave one of them out")
    options = asked.security_opt or ()
    if not any(option.startswith("no-new-privileges") for option in options):
        options = (*options, "no-new-privileges")
    return msgspec.structs.replace(
        asked,
        security_opt=options,
        readonly_rootfs=True,
        pids_limit=asked.pids_limit or _HARDENED_PIDS,
        userns_mode=asked.userns_mode or "auto",
    )


# ── security options ──────────────────────────────────────────────────────────────────────────────


class SecurityOptions(msgspec.Struct, frozen=True):
    """`seccomp`: None for the default profile, a profile of the user's, or `unconfined`.

    `apparmor`: the profile's name, "" for none. `label`: an SELinux label, "" for none.
    `writable_cgroups`: the container may divide its own control group.
    """

    no_new_privileges: bool = False
    seccomp: seccomp_profile.Profile | None = None
    unconfined: bool = False
    system_paths: bool = True
    apparmor: str = ""
    writable_cgroups: bool = False


def security_options(asked: HostConfig, host: HostFacts) -> SecurityOptions:
    """Read --security-opt; raises InvalidArgument or Unsupported."""
    options = SecurityOptions(unconfined=asked.privileged, system_paths=not asked.privileged)
    for text in asked.security_opt or ():
        key, value = _split(text)
        options = _apply(options, key, value, text, host)
    return options


def _split(text: str) -> tuple[str, str]:
    """ "key=value"; also the old "key:value"."""
    key, equals, value = text.partition("=")
    if not equals:
        key, _, value = text.partition(":")
    return key, value


def _apply(options: SecurityOptions, key: str, value: str, text: str, host: HostFacts) -> SecurityOptions:
    if key == "no-new-privileges":
        if value not in ("", "true", "false"):
            raise InvalidArgument(f'invalid --security-opt 2: "{text}"')
        return msgspec.structs.replace(options, no_new_privileges=value != "false")
    if key == "seccomp":
        if value == "unconfined":
            return msgspec.structs.replace(options, unconfined=True, seccomp=None)
        if value in ("", "builtin", "default"):
            return msgspec.structs.replace(options, unconfined=False, seccomp=None)
        return msgspec.structs.replace(options, unconfined=False, seccomp=seccomp_profile.parse(value))
    if key == "systempaths" and value == "unconfined":
        return msgspec.structs.replace(options, system_paths=False)
    if key == "writable-cgroups":
        return msgspec.structs.replace(options, writable_cgroups=_writable_cgroups(value, text, host))
    if key == "apparmor":
        return msgspec.structs.replace(options, apparmor=_apparmor(value, host))
    if key == "label":
        if value != "disable" and host.selinux:
            raise Unsupported(f"SELinux labels are not supported; leave out --security-opt {text}")
        return options
    if key == "security" and value in ("default", "hardened"):
        return options
    raise InvalidArgument(f'invalid --security-opt 2: "{text}"')


def _apparmor(value: str, host: HostFacts) -> str:
    """The profile to confine by; a host without AppArmor confines nothing and says so."""
    if value == "unconfined":
        return value if host.apparmor else ""
    if not host.apparmor:
        raise Unsupported(f"The AppArmor profile {value} cannot be applied: AppArmor is not enabled on this host")
    return value


def _writable_cgroups(value: str, text: str, host: HostFacts) -> bool:
    if value not in ("", "true", "false"):
        raise InvalidArgument(f'invalid --security-opt 2: "{text}"')
    if value != "false" and host.cgroup_version == 1:
        raise Unsupported(
            "writable-cgroups needs cgroup v2: with version 1, which this host has, who may write in a container's "
            "groups can lift its limits"
        )
    return value != "false"


# ── limits of the process ─────────────────────────────────────────────────────────────────────────

_RLIMITS = frozenset(
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack as".split()
)


def rlimits(ulimits: Iterable[Ulimit], host: HostFacts) -> tuple[tuple[Rlimit, ...], tuple[str, ...]]:
    """The limits, and a warning for each that this host forces down."""
    values, warnings = [], []
    for ulimit in ulimits:
        if ulimit.name not in _RLIMITS:
            raise InvalidArgument(f"invalid ulimit type: {ulimit.name}")
        soft, hard = ulimit.soft, ulimit.hard
        if hard != -1 and (soft == -1 or soft > hard):
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
        name = f"RLIMIT_{ulimit.name.upper()}"
        ceiling = host.ceilings.get(name)
        if ceiling is not None and (hard == -1 or hard > ceiling):
            warnings.append(
                f"The hard limit of {ulimit.name} is lowered to {ceiling}, the most that this host allows"
            )
            hard = ceiling
            soft = hard if soft == -1 else min(soft, hard)
        values.append(Rlimit(type=name, soft=soft, hard=hard))
    return tuple(values), tuple(warnings)


# ── sysctls ───────────────────────────────────────────────────────────────────────────────────────

_SYSCTL = re.compile(r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_IPC_SYSCTLS = frozenset(
    "kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni "
    "kernel.shm_rmid_forced".split()
)


def without_ipv6(asked: Mapping[str, str]) -> bool:
    """Whether a container's sysctls switch IPv6 off, so that it needs no such address and no name for one."""
    return any(asked.get(f"net{dot}ipv6{dot}conf{dot}all{dot}disable_ipv6", "0").strip() != "0" for dot in "./")


def sysctls(
    asked: Mapping[str, str], *, own_network: bool, own_ipc: bool, own_uts: bool, groups: int = 1 << 31
) -> dict[str, str]:
    """The defaults and the user's; those that would change the host are refused. `groups`: how many ids there are."""
    values: dict[str, str] = {}
    if own_network:
        values["net.ipv4.ping_group_range"] = f"0 {groups - 1}"
        values["net.ipv4.ip_unprivileged_port_start"] = "0"
    for written, value in asked.items():
        name = written.replace("/", ".")
        if _SYSCTL.fullmatch(name) is None or "\n" in value or "\0" in value:
            raise InvalidArgument(
                f"invalid sysctl {written!r}: a name like net.ipv4.ip_forward and one line of value"
            )
        if name.startswith("net."):
            allowed = own_network
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            allowed = own_ipc
        else:
            allowed = name == "kernel.domainname" and own_uts
        if not allowed:
            raise InvalidArgument(
                f"sysctl {name!r} is not allowed: it is not in a namespace of the container's own and would change "
                "the host"
            )
        values[name] = value
    return values
