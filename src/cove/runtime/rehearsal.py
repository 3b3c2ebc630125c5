"""A rehearsal: by it the forker learns which of its pages a start uses, so that spares have them while they wait.

    forker                                         a child that rehearses
      │── clone3, in namespaces of its own ──────────▶│
      │── orders for a made-up container, Go ────────▶│ a start like any other, up to its execve
      │◀─ it is done ─────────────────────────────────│ and waits to be looked at
      │── SIGKILL ───────────────────────────────────▶│

Most of what a child's part of a start costs is not system calls but pages: a fork copies each one that it writes. A
spare copies those of the rehearsal before it has orders, while nobody waits. A rehearsal that fails teaches nothing,
and does no harm: it has a container's isolation, and an empty root.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import NoReturn

import msgspec

from cove.ipc import channel
from cove.kernel import memory, namespaces, process
from cove.oci.spec import Capabilities, Linux, Mount, Namespace, NamespaceType, Process, Root, Spec
from cove.runtime.child import orders
from cove.runtime.child.common import ChildStdio
from cove.runtime.messages import Go, Launch

_PATIENCE = 5.0
_PACKET = 1 << 16
_DONE = b"done"
_KINDS: tuple[NamespaceType, ...] = ("mount", "pid", "network", "ipc", "uts")
_PROGRAM = "/program"
_GO = msgspec.json.encode(Go())
_ALLOW_ALL = b"\x06\x00\x00\x00\x00\x00\xff\x7f"  # BPF_RET, SECCOMP_RET_ALLOW


def learn() -> list[memory.Span]:
    """Rehearse in a child of this process, for some ten milliseconds: the pages it used; none when it failed."""
    flags = 0
    for kind in _KINDS:
        flags |= namespaces.FLAGS[kind]
    (gate, far_gate), (sync, far_sync) = channel.pair(), channel.pair()
    with gate, sync, far_sync:
        with far_gate:
            try:
                pid, pidfd = process.clone(flags, alone=True)
            except OSError:
                return []
            if pid == 0:
                try:
                    orders.obey(far_gate.fileno(), ending=_wait)
                finally:
                    os._exit(125)
        try:
            orders.send(gate, LAUNCH, sync_fd=far_sync.fileno(), stdio=ChildStdio(), seccomp=_ALLOW_ALL)
            gate.send(b"go")
            sync.send(_GO)
            far_sync.close()
            return memory.used_pages(pid) if _is_done(sync) else []
        except OSError:
            return []
        finally:
            process.send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(pid, 0)


def _is_done(sync: socket.socket) -> bool:
    sync.settimeout(_PATIENCE)
    while packet := sync.recv(_PACKET):
        if packet == _DONE:
            return True
    return False


def _wait(sync_fd: int) -> NoReturn:
    """The end of a rehearsal."""
    os.write(sync_fd, _DONE)
    os.read(sync_fd, 1)
    os._exit(0)


def _mount(destination: str, kind: str, *options: str, source: str = "") -> Mount:
    return Mount(destination=destination, type=kind, source=source or kind, options=options)


def _launch() -> Launch:
    """A container with what most of them have. Nothing of it is outside of its namespaces."""
    rights = ("CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Launch(
        id="rehearsal",
        rootfs=_mount("/", "tmpfs"),
        user="",
        spec=Spec(
            root=Root(path="/"),
            hostname="rehearsal",
            process=Process(
                args=(_PROGRAM,),
                cwd="/",
                env=(path,),
                capabilities=Capabilities(bounding=rights, effective=rights, permitted=rights),
            ),
            mounts=(
                _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
                _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
                _mount(
                    "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
                ),
                _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
                _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
                _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
                _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
                _mount(_PROGRAM, "bind", "rbind", "rprivate", "ro", source=sys.executable),
            ),
            linux=Linux(
                namespaces=tuple(Namespace(type=kind) for kind in (*_KINDS, "cgroup")),
                sysctl={"net.ipv4.ip_unprivileged_port_start": "0"},
                masked_paths=("/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"),
                readonly_paths=("/proc/bus", "/proc/sys"),
                rootfs_propagation="rprivate",
            ),
        ),
    )


LAUNCH = _launch()
"""What is rehearsed."""
