"""`spec`: an example config.json that runs a shell, for people to edit."""

from __future__ import annotations

import os

import msgspec

from cove.errors import Conflict
from cove.oci.spec import (
    OCI_VERSION,
    Capabilities,
    DeviceRule,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    NamespaceType,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
)
from cove.runtime.oci.main import Call

_MASKED = (
    *(f"/proc/{name}" for name in "acpi asound interrupts kcore keys latency_stats sched_debug scsi".split()),
    *("/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
_ROOTLESS: tuple[NamespaceType, ...] = ("pid", "ipc", "uts", "mount", "user")
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")


def example() -> Spec:
    """A config.json that runs a shell in a terminal, for people to edit; it has the members that runc's has."""
    sets = Capabilities(**dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES))
    return Spec(
        root=Root(path="rootfs", readonly=True),
        hostname="cove",
        process=Process(
            terminal=True,
            cwd="/",
            args=("sh",),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"),
            capabilities=sets,
            rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=1024),),
            no_new_privileges=True,
        ),
        mounts=(
            Mount(destination="/proc", type="proc", source="proc"),
            _mount("/dev", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
            Mount(
                destination="/dev/shm",
                type="tmpfs",
                source="shm",
                options=("nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            ),
            _mount("/dev/mqueue", "mqueue", "nosuid noexec nodev"),
            _mount("/sys", "sysfs", "nosuid noexec nodev ro"),
            _mount("/sys/fs/cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
        ),
        linux=Linux(
            resources=Resources(devices=(DeviceRule(allow=False, access="rwm"),)),
            namespaces=tuple(Namespace(type=kind) for kind in _namespaces()),
            masked_paths=_MASKED,
            readonly_paths=("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
        ),
    )


def _mount(destination: str, kind: str, options: str) -> Mount:
    return Mount(destination=destination, type=kind, source=kind, options=tuple(options.split()))


def _namespaces() -> tuple[NamespaceType, ...]:
    """Those of a machine of its own; of control groups only where there is one tree of them."""
    kinds: tuple[NamespaceType, ...] = ("pid", "network", "ipc", "uts", "mount")
    return (*kinds, "cgroup") if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else kinds


def rootless(spec: Spec) -> Spec:
    """`spec` for somebody who is not root: a user namespace with the caller as its root, the host's network."""
    assert spec.linux is not None
    linux = msgspec.structs.replace(
        spec.linux,
        namespaces=tuple(Namespace(type=kind) for kind in _ROOTLESS),
        uid_mappings=(IDMapping(container_id=0, host_id=os.geteuid(), size=1),),
        gid_mappings=(IDMapping(container_id=0, host_id=os.getegid(), size=1),),
        resources=None,
    )
    mounts = tuple(
        Mount(destination="/sys", type="none", source="/sys", options=("rbind", "nosuid", "noexec", "nodev", "ro"))
        if each.destination == "/sys"
        else msgspec.structs.replace(each, options=tuple(o for o in each.options if not o.startswith("gid=")))
        for each in spec.mounts
        if each.type != "cgroup"
    )
    return msgspec.structs.replace(spec, linux=linux, mounts=mounts)


def spec(call: Call, words: list[str]) -> int:
    """Write it into the bundle; a file that is there is left alone."""
    call.parse(words, ("bundle|b=", "rootless", "file|f="), 0, 0)
    path = os.path.join(call.options.text("bundle") or ".", call.options.text("file") or "config.json")
    found = rootless(example()) if call.options.switch("rootless") else example()
    members = {"ociVersion": OCI_VERSION, **msgspec.to_builtins(found)}
    for rule in members["linux"].get("resources", {}).get("devices", ()):
        rule.setdefault("access", "rwm")  # which others than this runtime want said
    members["process"] = {"user": {"uid": 0, "gid": 0}} | members["process"]  # what people edit first
    content = msgspec.json.format(msgspec.json.encode(members), indent=4) + b"\n"
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        raise Conflict(f"{path} exists already; remove it to have an example written") from None
    return 0
