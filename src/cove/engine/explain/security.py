"""What the first process of a container may do, in words: user, capabilities, system calls, paths, devices.

Of a running container the kernel is asked (/proc/PID/status), so that what its process gave up is told too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cove.engine.explain.words import CALLS, CAPABILITIES, GRAVE
from cove.engine.isolation.security import CAPABILITIES as BY_NUMBER
from cove.kernel import seccomp as kernel_seccomp
from cove.oci.spec import DeviceRule, Spec
from cove.oci.spec import Seccomp as Filter
from cove.wire.containers import HostConfig
from cove.wire.explain import Capability, Hook, Seccomp, Security

_LETS_THROUGH = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_STANDARD = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None)}
_NAMES = "null zero full random urandom tty console ptmx pts"


def explain(spec: Spec, asked: HostConfig, user: str, machine: str, pid: int) -> Security:
    """`pid` 0 for a container that does not run; `user` as it was asked for."""
    status = read_status(pid) if pid else {}
    held = _held(spec, status)
    linux, process = spec.linux, spec.process
    assert linux is not None and process is not None
    return Security(
        user=_user(user, status),
        capabilities=tuple(Capability(name=name, text=CAPABILITIES.get(name, "")) for name in held),
        without=tuple(Capability(name=name, text=CAPABILITIES[name]) for name in GRAVE if name not in held),
        seccomp=_seccomp(linux.seccomp, asked, machine, status),
        no_new_privileges=status["NoNewPrivs"] == "1" if "NoNewPrivs" in status else process.no_new_privileges,
        privileged=asked.privileged,
        apparmor=process.apparmor_profile,
        masked=linux.masked_paths,
        readonly=linux.readonly_paths,
        sysctls=linux.sysctl,
        devices=_devices(spec),
        hooks=_hooks(spec),
    )


def read_status(pid: int) -> dict[str, str]:
    """/proc/PID/status (proc_pid_status(5)); empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _held(spec: Spec, status: Mapping[str, str]) -> tuple[str, ...]:
    """The capabilities that it can have at most, without CAP_."""
    if "CapBnd" in status:
        mask = int(status["CapBnd"], 16)
        names = [name for number, name in enumerate(BY_NUMBER) if mask >> number & 1]
    else:
        sets = spec.process.capabilities if spec.process else None
        names = list(sets.bounding) if sets else []
    return tuple(name.removeprefix("CAP_") for name in names)


def _user(asked: str, status: Mapping[str, str]) -> str:
    """Whom it runs as, and with what in effect."""
    name = asked or "root"
    if "Uid" not in status:
        return name
    uid = status["Uid"].split()[1]
    effective = int(status.get("CapEff", "0"), 16).bit_count()
    power = f"{effective} capabilities in effect" if effective else "no capability in effect"
    return f"{name}, uid {uid} on the host, {power}"


# ── system calls ──────────────────────────────────────────────────────────────────────────────────


def _seccomp(filter_: Filter | None, asked: HostConfig, machine: str, status: Mapping[str, str]) -> Seccomp:
    if filter_ is None or status.get("Seccomp") == "0":
        return Seccomp(profile="unconfined", text="no filter: every system call of the kernel is open to it")
    known = kernel_seccomp.numbers().get(machine, {})
    allowed = _allowed(filter_, frozenset(known))
    refused = [name for name in CALLS if name in known and name not in allowed]
    options = [option for option in asked.security_opt or () if option.startswith(("seccomp=", "seccomp:"))]
    own = any(not option.endswith(("=default", "=builtin", ":default")) for option in options)
    return Seccomp(
        profile="custom" if own else "default",
        allowed=len(allowed),
        known=len(known),
        text=f"{len(allowed)} of the {len(known)} system calls of {machine} pass, some with certain arguments only; "
        f"{_otherwise(filter_)}",
        refused=tuple(Capability(name=name, text=CALLS[name]) for name in refused),
    )


def _allowed(filter_: Filter, known: frozenset[str]) -> set[str]:
    """The calls that pass, at least with some arguments."""
    let = {name for rule in filter_.syscalls if rule.action in _LETS_THROUGH for name in rule.names}
    if filter_.default_action not in _LETS_THROUGH:
        return let & known
    refused = {
        name for rule in filter_.syscalls if rule.action not in _LETS_THROUGH and not rule.args for name in rule.names
    }
    return set(known) - (refused - let)


def _otherwise(filter_: Filter) -> str:
    action = filter_.default_action
    if action in _LETS_THROUGH:
        return "what the profile does not name passes too"
    if action == "SCMP_ACT_ERRNO":
        return "the others fail as not permitted" if filter_.default_errno_ret in (None, 1) else "the others fail"
    return "the others end the process"


# ── devices ───────────────────────────────────────────────────────────────────────────────────────


def _devices(spec: Spec) -> tuple[str, ...]:
    """Which devices it may open, the standard ones in one line."""
    assert spec.linux is not None
    rules = spec.linux.resources.devices if spec.linux.resources else ()
    if any(rule.allow and rule.type == "a" and rule.major is None for rule in rules):
        return ("every device of the host",)
    paths = {(device.type, device.major, device.minor): device.path for device in spec.linux.devices}
    found = []
    for rule in rules:
        if not rule.allow or rule.access == "m" or (rule.type == "c" and (rule.major, rule.minor) in _STANDARD):
            continue
        path = paths.get((rule.type, rule.major or 0, rule.minor or 0), "")
        found.append(f"{path or _numbers(rule)} ({rule.access})")
    return (_NAMES, *found)


def _hooks(spec: Spec) -> tuple[Hook, ...]:
    """The host's programs that prepare its devices; the daemon's containers have those of createContainer alone."""
    listed = spec.hooks.create_container if spec.hooks is not None else ()
    return tuple(Hook(stage="createContainer", path=each.path, args=each.args) for each in listed)


def _numbers(rule: DeviceRule) -> str:
    parts = ("*" if part is None else str(part) for part in (rule.major, rule.minor))
    return f"{rule.type} {':'.join(parts)}"


# ── what weakens it ───────────────────────────────────────────────────────────────────────────────

_HOST_MODES = (
    ("pid_mode", "it sees and may signal every process of the host (--pid host)"),
    ("network_mode", "it has the host's network: its ports, its loopback, its abstract sockets (--network host)"),
    ("ipc_mode", "it shares the host's memory segments (--ipc host)"),
    ("uts_mode", "it has the host's host name (--uts host)"),
    ("cgroupns_mode", "it sees the host's control groups (--cgroupns host)"),
)
_TELLING = {
    "/": "the host's whole file system",
    "/dev": "the host's devices",
    "/proc": "the host's processes",
    "/sys": "the host's kernel settings",
    "/etc": "the host's configuration",
    "/boot": "the host's kernel",
    "/var/run/docker.sock": "a container engine's socket: whoever reaches it is root on the host",
    "/run/docker.sock": "a container engine's socket: whoever reaches it is root on the host",
    "/run/cove": "Cove's own socket: whoever reaches it is root on the host",
    "/run/cove/cove.sock": "Cove's own socket: whoever reaches it is root on the host",
    "/var/lib/cove": "Cove's own data",
}


def weak_spots(shown: Security, asked: HostConfig, binds: Mapping[str, str]) -> tuple[str, ...]:
    """What this container has beyond the defaults that matters; `binds`: where each source of the host is mounted."""
    found = ["it is privileged: nearly all that is told here holds no longer"] if asked.privileged else []
    found += [text for field, text in _HOST_MODES if getattr(asked, field) == "host"]
    if not asked.privileged:
        found += [
            f"it has the capability {each.name}: it may {each.text}"
            for each in shown.capabilities
            if each.name in GRAVE
        ]
        if shown.seccomp.profile == "unconfined":
            found.append("no filter bounds its system calls (seccomp=unconfined)")
        if not shown.masked:
            found.append("nothing of /proc and /sys is hidden (systempaths=unconfined)")
    for source, destination in binds.items():
        if source in _TELLING:
            found.append(f"{destination} is {_TELLING[source]} (a bind of {source})")
    return tuple(found)
