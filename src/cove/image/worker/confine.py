"""How the worker gives up everything that its job does not need, before it reads a stranger's first byte.

    network, IPC and UTS namespaces of the workshop ─▶ a new mount namespace ─▶ mounts of a stopped container,
    private to this process
    ─▶ the job's directory becomes the root ─▶ resource limits ─▶ capabilities ─▶ no new privileges

What is left is a process that sees one directory, no network, and may only write files with owners and
modes. Runs single-threaded, once. A worker that stays (`leave_files`) sees an empty directory instead, and reaches
by descriptor what each job gives it.
"""

from __future__ import annotations

import os
import resource
import stat
from typing import Any

from cove.kernel import loop, mounts, privileges, process, rootpath, syscalls

_KEPT = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
_READ_TRUSTED = ("CAP_SYS_ADMIN",)  # trusted.* attributes are hidden from everybody else (xattr(7))
_NAMESPACES = process.CLONE_NEWNET | process.CLONE_NEWIPC | process.CLONE_NEWUTS
_MEMORY = 2 << 30
_PROCESSOR_SECONDS = 3600
_DESCRIPTORS = 1024


def leave_host() -> None:
    """Give up the host's network, IPC and UTS, for this process and the workers it forks. Raises OSError."""
    syscalls.unshare(_NAMESPACES)


def enter(
    root: int, layers: list[dict[str, Any]], place: str, *, userns: int = -1, reads_trusted: bool = False
) -> int:
    """Make the directory `root` (a descriptor) this process' root, and return a descriptor of it.

    Or, with `layers`, mounts in the runtime's form: the first becomes the root, mounted on the host's
    directory `place` where only this process sees it, and the others lie below it. `userns`: a user namespace in
    which to be root, instead of this one's. Raises OSError.
    """
    syscalls.unshare(process.CLONE_NEWNS)
    os.umask(0)
    syscalls.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    if layers:
        sources = [(layer, _source(layer)) for layer in layers[1:]]  # before the root hides what lies at `place`
        root = _first(place, layers[0])
        for layer, source in sources:
            if source >= 0:
                _attach(root, layer, source)
        if layers[0].get("type") == "overlay" and "ro" in layers[0]["options"]:
            mounts.set_attributes(root, (mounts.ATTR_RDONLY, 0))  # only now: mounts may have needed places
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    os.close(root)
    if userns >= 0:
        syscalls.setns(userns, process.CLONE_NEWUSER)
        os.close(userns)
        privileges.become(0, 0, ())
    _limit(reads_trusted)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = _PROCESSOR_SECONDS if hard == resource.RLIM_INFINITY else min(_PROCESSOR_SECONDS, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def leave_files(*, reads_trusted: bool) -> None:
    """See nothing from here on but what descriptors lead to: the root is an empty directory. Raises OSError."""
    syscalls.unshare(process.CLONE_NEWNS)
    os.umask(0)
    syscalls.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    empty = mounts.new_filesystem("tmpfs", "tmpfs", ("size=4096", "nr_inodes=2", "mode=555"))
    place = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(empty, place)
    os.fchdir(empty)
    try:
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", mounts.MNT_DETACH)
    except OSError:  # "/" is the kernel's first root, a ramdisk
        os.chroot(".")
    os.chdir("/")
    os.close(empty)
    os.close(place)
    _limit(reads_trusted)


def processes() -> int:
    """A procfs of processes alone, mounted nowhere, in which this process is "self". Raises OSError."""
    attributes = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
    return mounts.new_filesystem("proc", "proc", ("subset=pid",), attributes)


def limit_time() -> None:
    """The time of a processor that a job may take, beside what was used for others."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + _PROCESSOR_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def readonly(layers: list[str]) -> int:
    """A descriptor of what these layers (the uppermost first) show together; nothing is attached anywhere."""
    if len(layers) == 1:
        return os.open(layers[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return mounts.overlay(layers, "", "", ())


def _first(place: str, layer: dict[str, Any]) -> int:
    """Mount a snapshot, or one directory, on `place` where nobody else sees it, and return its root."""
    options = mounts.parse_options(layer["options"])
    if "loop" in options.data:
        made = _attached(_file_system(layer), place)
    elif layer.get("type") == "overlay":
        made = _attached(_overlay(layer), place)
    else:
        made = os.open(layer["source"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not options.subdirectory:
        return made
    try:
        return rootpath.beneath(made, options.subdirectory)
    finally:
        os.close(made)


def _overlay(layer: dict[str, Any]) -> int:
    """A snapshot, or an image's layers."""
    lower, upper, work, data = mounts.overlay_parts(mounts.parse_options(layer["options"]).data)
    return mounts.overlay(lower, upper, work, data)


def _attached(made: int, place: str) -> int:
    """Opened only now: an older descriptor of `place` would lie in the host's mount namespace."""
    target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(made, target)
    os.close(target)
    return made


def _file_system(layer: dict[str, Any]) -> int:
    """A volume that is a file with a file system in it."""
    options = mounts.parse_options(layer["options"])
    data = [option for option in options.data if option != "loop"]
    return loop.mount(layer["type"], layer["source"], data, options.attributes[0])


def _source(layer: dict[str, Any]) -> int:
    """What a container shows somewhere, detached; -1 for kinds that live only while it runs."""
    options = mounts.parse_options(layer.get("options", ()))
    if "loop" in options.data:
        source = _file_system(layer)
    elif layer.get("type") == "overlay":
        source = _overlay(layer)
    elif not (options.bind or layer.get("type") == "bind"):
        return -1
    elif options.subdirectory:
        source = os.open(layer["source"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        return mounts.clone(syscalls.AT_FDCWD, layer["source"], recursive=options.recursive)
    if not options.subdirectory:
        return source
    try:
        return mounts.part(source, options.subdirectory, recursive=options.recursive)
    finally:
        os.close(source)


def _attach(root: int, layer: dict[str, Any], source: int) -> None:
    """Put something where the container has it."""
    options = mounts.parse_options(layer.get("options", ()))
    directory = stat.S_ISDIR(os.fstat(source).st_mode)
    try:
        target = rootpath.mount_target(root, layer["destination"], directory=directory)
        try:
            mounts.attach(source, target)
            mounts.set_attributes(source, options.attributes)
            mounts.set_attributes(source, options.recursive_attributes, recursive=True)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _limit(reads_trusted: bool) -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    keep = privileges.capability_mask(_KEPT + (_READ_TRUSTED if reads_trusted else ()))
    privileges.limit_bounding(keep)
    privileges.set_capabilities(keep, keep, 0, 0)
    privileges.set_no_new_privs()
    privileges.set_dumpable(False)
