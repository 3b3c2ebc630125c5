"""`spec`: an example config.json that runs a shell, for people to edit."""

from __future__ import annotations

import os

import msgspec

from cove.errors import Conflict
from cove.oci.spec import (
    OCI_VERSION,
    Capabilities,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    NamespaceType,
    Process,
    Root,
    Spec,
)
from cove.runtime.oci.main import Call

_ROOTLESS: tuple[NamespaceType, ...] = ("pid", "ipc", "uts", "mount", "cgroup", "user")
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")


def example() -> Spec:
    """A config.json that runs a shell, for people to edit."""
    sets = Capabilities(bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES)
    return Spec(
        root=Root(path="rootfs", readonly=True),
        hostname="cove",
        process=Process(
            cwd="/",
            args=("sh",),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"),
            capabilities=sets,
            no_new_privileges=True,
        ),
        mounts=(
            Mount(destination="/proc", type="proc", source="proc"),
            Mount(destination="/dev", type="tmpfs", source="tmpfs", options=("nosuid", "strictatime", "mode=755")),
            Mount(
                destination="/dev/pts",
                type="devpts",
                source="devpts",
                options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            ),
            Mount(
                destination="/dev/shm", type="tmpfs", source="shm", options=("nosuid", "noexec", "nodev", "mode=1777")
            ),
            Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")),
        ),
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")),
            masked_paths=("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"),
            readonly_paths=("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
        ),
    )


def rootless(spec: Spec) -> Spec:
    """`spec` for somebody who is not root: a user namespace with the caller as its root, the host's network."""
    assert spec.linux is not None
    linux = msgspec.structs.replace(
        spec.linux,
        namespaces=tuple(Namespace(type=kind) for kind in _ROOTLESS),
        uid_mappings=(IDMapping(container_id=0, host_id=os.geteuid(), size=1),),
        gid_mappings=(IDMapping(container_id=0, host_id=os.getegid(), size=1),),
    )
    mounts = tuple(
        Mount(destination="/sys", type="none", source="/sys", options=("rbind", "nosuid", "noexec", "nodev", "ro"))
        if each.destination == "/sys"
        else msgspec.structs.replace(each, options=tuple(o for o in each.options if not o.startswith("gid=")))
        for each in spec.mounts
    )
    return msgspec.structs.replace(spec, linux=linux, mounts=mounts)


def spec(call: Call, words: list[str]) -> int:
    """Write it into the bundle; a file that is there is left alone."""
    call.parse(words, ("bundle|b=", "rootless", "file|f="), 0, 0)
    path = os.path.join(call.options.text("bundle") or ".", call.options.text("file") or "config.json")
    found = rootless(example()) if call.options.switch("rootless") else example()
    members = {"ociVersion": OCI_VERSION, **msgspec.to_builtins(found)}
    content = msgspec.json.format(msgspec.json.encode(members), indent=4) + b"\n"
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        raise Conflict(f"{path} exists already; remove it to have an example written") from None
    return 0
