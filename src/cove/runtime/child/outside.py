"""What a container cannot do for itself from inside its namespaces, done by a helper outside of them.

    maker                         helper                                  init
      │── clone3(…|NEWUSER) ───────────────────────────────────────────────▶│ waits on link
      │── fork ──────────────────▶│ writes init's id maps, its OOM score    │
      │                           │ root, bind sources: mounted and mapped  │
      │                           │── one packet each, with its mount ─────▶│
      │                           │ resctrl group; devices of the network   │ becomes root of its namespace,
      │                           │── "done" ──────────────────────────────▶│ attaches them
      │◀─ exit                    └ ends

Init has every right in its own namespaces and none outside: it may neither mount an image's layers nor open what
only the host's root may. A failure of the helper goes to whoever started the container, on sync, as init's own
would; init then sees end of file on the link and ends. The helper is apart from the maker because a source may
hang (a dead network share), and must then hang nobody else.

A stub needs no helper: who works for it is outside, and does that part first (`provide`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import NoReturn

import msgspec

from cove.ipc import channel
from cove.kernel import mounts, namespaces
from cove.kernel.mounts import parse_options
from cove.oci.spec import Linux, Mount, NamespaceType, Spec
from cove.runtime import limits, rootless
from cove.runtime.child import cgroupfs, credentials, devices, idmaps, net_devices, ranges, resctrl, sources
from cove.runtime.child.common import Child
from cove.runtime.child.joined import opened
from cove.runtime.child.stub import Stub
from cove.runtime.messages import Launch

_DONE, _ROOT, _PROC, _NODES, _FIRST = 0, 1, 2, 3, 4
# What init may mount by itself; and those that show a namespace, which only that one's owner may mount.
_ITS_OWN = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs", "binfmt_misc"}
_SHOWN: dict[str, tuple[NamespaceType, str]] = {"sysfs": ("network", "net"), "mqueue": ("ipc", "ipc")}


class Given(msgspec.Struct, frozen=True):
    """What init gets: its root, a procfs unless it may make its own, device nodes that it may not make (see
    `devices.nodes`), and the mounts of the spec by their index.
    """

    root: int = -1
    proc: int | None = None
    nodes: int | None = None
    mounts: Mapping[int, int] = msgspec.field(default_factory=dict)


def needed(spec: Spec) -> bool:
    """Whether a container needs the helper."""
    linux = spec.linux
    if mounts_for(spec) or any(map(_is_hosts, spec.mounts)):
        return True
    return linux is not None and bool(linux.net_devices or linux.intel_rdt)


def _is_hosts(mount: Mount) -> bool:
    return sources.is_hosts(mount, parse_options(mount.options))


def mounts_for(spec: Spec) -> bool:
    """Whether the helper makes its mounts: it has a user namespace, a new one or one that it joins."""
    return spec.linux is not None and any(each.type == "user" for each in spec.linux.namespaces)


def joined(spec: Spec) -> str:
    """The path of the user namespace that it joins, "" when there is none."""
    listed = spec.linux.namespaces if spec.linux else ()
    return next((each.path for each in listed if each.type == "user"), "")


def receive(link: int) -> Given:
    """In init: wait until the helper has done its part; end silently if it failed, as it has said why."""
    root, proc, nodes = -1, None, None
    found: dict[int, int] = {}
    with socket.socket(fileno=link) as sock:
        while True:
            packet = channel.receive(sock)
            if packet is None:
                os._exit(125)
            if packet.number == _DONE:
                return Given(root, proc, nodes, found)
            (fd,) = packet.fds
            if packet.number == _ROOT:
                root = fd
            elif packet.number == _PROC:
                proc = fd
            elif packet.number == _NODES:
                nodes = fd
            else:
                found[packet.number - _FIRST] = fd


def provide(stub: Stub, launch: Launch, stdio: Iterable[int]) -> Given:
    """For a `stub` in a new user namespace of its own: its maps, and all mounts that are the host's. Raises Failure.

    The rest is made from outside too, as files of its root; it needs no nodes that others have made.
    """
    spec = launch.spec
    assert spec.linux is not None
    with stub.stage("user namespace"):
        maps = _map(spec.linux, stub.pid, "")
        stub.ids = idmaps.Ids(maps.uids, maps.gids)
        idmaps.lend(stdio, stub.pid)
    with stub.stage("rootfs"):
        made = dict(_made(launch, spec.linux, maps, stub.pid))
        os.close(maps.namespace)
        return Given(made.pop(_ROOT), mounts={number - _FIRST: fd for number, fd in made.items()})


def fork(launch: Launch, pid: int, *, sync_fd: int, link: int) -> int:
    """The helper's pid, for a maker that forks by itself and waits for it; `link` is the far end of init's."""
    with ExitStack() as around:
        if joined(launch.spec):  # whose own pid namespace is not init's; the helper's procfs must show that one
            pidfd = os.pidfd_open(pid)
            around.callback(os.close, pidfd)
            around.enter_context(namespaces.children_in(pidfd))
        helper = os.fork()
        if helper == 0:
            serve(launch, pid, sync_fd=sync_fd, link=link, stdio=(0, 1, 2))
    return helper


def serve(launch: Launch, pid: int, *, sync_fd: int, link: int, stdio: Iterable[int] = ()) -> NoReturn:
    """Be the helper of the init `pid`. Never returns. `stdio`: those of init's descriptors that are also ours."""
    child = Child(sync_fd, link)
    child.run(lambda: _serve(child, launch, pid, link, stdio))


def _serve(child: Child, launch: Launch, pid: int, link: int, stdio: Iterable[int]) -> NoReturn:
    spec = launch.spec
    linux = spec.linux
    assert linux is not None
    child.isolate([])
    # A second descriptor, for the first one closes with this process: init, which ends at that, must not end before a
    # failure is told, or whoever cleans up after it would end the teller.
    with socket.socket(fileno=os.dup(link)) as sock:
        maps = None
        if mounts_for(spec):
            with child.stage("user namespace"):
                ranges.check_user_namespace(linux)
                maps = _map(linux, pid, joined(spec))
                idmaps.lend(stdio, pid)
                if spec.process is not None:
                    limits.raise_ceilings(spec.process, _inside(pid) if joined(spec) else pid)
                if spec.process is not None and spec.process.oom_score_adj is not None:
                    credentials.write_oom_score(f"/proc/{pid}/oom_score_adj", spec.process.oom_score_adj)
        if linux.intel_rdt is not None:
            with child.stage("intelRdt"):
                resctrl.apply(launch.id, linux.intel_rdt, pid)
        if linux.net_devices:
            with child.stage("network devices"):
                net_devices.move(linux.net_devices, pid)
        if maps is not None and rootless.may_mount():
            with child.stage("rootfs"):
                _send(sock, launch, linux, maps, pid)
        else:
            with child.stage("mounts"):
                _hosts(sock, spec)
        channel.send(sock, _DONE, b"")
    os._exit(0)


def _send(sock: socket.socket, launch: Launch, linux: Linux, maps: sources.Maps, pid: int) -> None:
    """All that init may not make itself, the root at last."""
    if (nodes := devices.nodes(linux.devices, maps.uids, maps.gids)) is not None:
        channel.send(sock, _NODES, b"", [nodes])
        os.close(nodes)
    for number, fd in _made(launch, linux, maps, pid):
        channel.send(sock, number, b"", [fd])
        os.close(fd)


def _made(launch: Launch, linux: Linux, maps: sources.Maps, pid: int) -> Iterator[tuple[int, int]]:
    """Detached mounts, each with what it is for, the root at last."""
    spec = launch.spec
    own = {each.type for each in linux.namespaces if not each.path}
    if joined(spec):
        own.discard("pid")  # it was made before init joined the user namespace, which therefore does not own it
    if all(each.type != "cgroup" for each in linux.namespaces) and cgroupfs.version_1_hierarchies():
        own.add("cgroup")  # then it sees its own groups bound, which it can do by itself
    for index, mount in enumerate(spec.mounts):
        made = None if sources.is_inside(spec, mount) else _make(mount, maps, own, pid)
        if made is not None:
            yield _FIRST + index, made
    if "pid" not in own:
        yield _PROC, mounts.new_filesystem("proc", "proc", ())
    yield _ROOT, sources.root(spec, launch.rootfs, maps)


def _hosts(sock: socket.socket, spec: Spec) -> None:
    """The mounts of what is the host's alone; the rest is init's."""
    for index, mount in enumerate(spec.mounts):
        if _is_hosts(mount):
            made = sources.filesystem(mount, parse_options(mount.options))
            channel.send(sock, _FIRST + index, b"", [made])
            os.close(made)


def _inside(pid: int) -> int:
    """What the process `pid` of the host's is in its own pid namespace, where this helper then is too."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))


def _map(linux: Linux, pid: int, path: str) -> sources.Maps:
    """The user namespace of `pid`, given its maps; or the one at `path`, which has them."""
    if path:
        return sources.Maps(opened("user", path), linux.uid_mappings, linux.gid_mappings)
    uids, gids = (
        [(entry.container_id, entry.host_id, entry.size) for entry in entries]
        for entries in (linux.uid_mappings, linux.gid_mappings)
    )
    if rootless.may_mount():
        namespaces.write_id_maps(pid, uids, gids)
    else:
        rootless.write_id_maps(pid, linux.uid_mappings, linux.gid_mappings)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    return sources.Maps(namespace, linux.uid_mappings, linux.gid_mappings)


def _make(mount: Mount, maps: sources.Maps, own: set[NamespaceType], pid: int) -> int | None:
    """A mount that init may not make itself; None when it may."""
    options = parse_options(mount.options)
    if sources.is_bind(mount, options):
        source = sources.bind(mount, options, maps)
        # What the container mounts must never come out here, whatever propagation it was given.
        mounts.set_propagation(source, mounts.MS_SLAVE, recursive=True)
        return source
    if mount.type == "proc" and "pid" not in own:
        return mounts.new_filesystem("proc", "proc", options.data)
    if mount.type == "cgroup" and "cgroup" not in own:
        tree = sources.bind(Mount(destination=mount.destination, source="/sys/fs/cgroup", options=("rbind",)), _TREE)
        mounts.set_attributes(tree, options.attributes, recursive=True)
        return tree
    kind, name = _SHOWN.get(mount.type, (None, ""))
    if kind is not None and kind not in own:
        namespaces.join(f"/proc/{pid}/ns/{name}", kind)
    elif mount.type in _ITS_OWN:
        return None
    return sources.filesystem(mount, options, maps)


_TREE = parse_options(("rbind",))
