"""Mounts by descriptor: what a mount's options mean, making detached mounts, attaching them, changing them.

Policy-free. A mount is made detached (fsopen(2) … fsmount(2), or open_tree(2) with a clone) and then attached
to a descriptor (move_mount(2)), so that no path is looked up twice and no name can be swapped in between.

    new_filesystem / clone ──▶ detached mount ──attach(target fd)──▶ in the tree ──▶ set_attributes, set_propagation

Sources: mount(2), mount(8), mount_setattr(2), the runtime specification's "Linux mount options".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from cove.kernel import rootpath, syscalls

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW = 0x10, 0x20, 0x40, 0x80, 0x100
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC, MS_SILENT = 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 0x20000, 0x40000, 0x80000, 0x100000
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 0x200000, 0x1000000, 0x2000000
MNT_DETACH = 2

ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
ATTR_ATIME, ATTR_RELATIME, ATTR_NOATIME, ATTR_STRICTATIME = 0x70, 0x00, 0x10, 0x20
ATTR_NODIRATIME, ATTR_IDMAP, ATTR_NOSYMFOLLOW = 0x80, 0x100000, 0x200000
_PERMISSIONS = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | ATTR_NOSYMFOLLOW

_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_SET_FLAG, _SET_STRING, _SET_FD, _CMD_CREATE = 0, 1, 5, 6
_MOVE_F_EMPTY, _MOVE_T_EMPTY = 0x04, 0x40

# option → (attributes to set, attributes to clear); "r" + option applies it to the whole tree below.
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (ATTR_RDONLY, 0),
    "rw": (0, ATTR_RDONLY),
    "nosuid": (ATTR_NOSUID, 0),
    "suid": (0, ATTR_NOSUID),
    "nodev": (ATTR_NODEV, 0),
    "dev": (0, ATTR_NODEV),
    "noexec": (ATTR_NOEXEC, 0),
    "exec": (0, ATTR_NOEXEC),
    "nodiratime": (ATTR_NODIRATIME, 0),
    "diratime": (0, ATTR_NODIRATIME),
    "nosymfollow": (ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, ATTR_NOSYMFOLLOW),
    "noatime": (ATTR_NOATIME, ATTR_ATIME),
    "atime": (ATTR_RELATIME, ATTR_ATIME),
    "relatime": (ATTR_RELATIME, ATTR_ATIME),
    "norelatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "strictatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "nostrictatime": (ATTR_RELATIME, ATTR_ATIME),
}
_PROPAGATION = {
    "private": MS_PRIVATE,
    "slave": MS_SLAVE,
    "shared": MS_SHARED,
    "unbindable": MS_UNBINDABLE,
}
# Whoever leaves one of these flags of mount(2) out asks for no other: the kernel keeps its own choice.
_LEFT_OUT = ("atime", "norelatime", "nostrictatime")
_PLACES = ("bind", "rbind", "idmap", "ridmap")
_SUBDIRECTORY = "X-mount.subdir="
_NO_OPERATION = {"defaults", "async", "nolazytime", "nomand", "noiversion", "remount"}
_UNKNOWN_CALL = (errno.ENOSYS, errno.EINVAL)


KNOWN_OPTIONS = tuple(
    sorted({*_PLACES, *_NO_OPERATION, *(f"{r}{name}" for r in ("", "r") for name in (*_ATTRIBUTES, *_PROPAGATION))})
)
"""The mount options that are not data for the file system."""


class Options(NamedTuple):
    """What a mount's options say. Pairs of attributes are (set, clear); propagation is an MS_* flag or 0.

    `named`: they say something of the attributes, be it what holds anyway.
    `subdirectory`: only this directory or file of the mount is meant (mount(8), X-mount.subdir).
    """

    bind: bool = False
    recursive: bool = False
    named: bool = False
    attributes: tuple[int, int] = (0, 0)
    recursive_attributes: tuple[int, int] = (0, 0)
    propagation: int = 0
    propagation_recursive: bool = False
    idmap: bool = False
    subdirectory: str = ""
    data: tuple[str, ...] = ()


def _merge(pair: tuple[int, int], more: tuple[int, int]) -> tuple[int, int]:
    """Later options win over earlier ones."""
    return (
        pair[0] & ~more[1] | more[0],
        (pair[1] & ~more[0] | more[1]) | (ATTR_ATIME if more[0] & ATTR_ATIME else 0),
    )


def parse_options(options: Iterable[str]) -> Options:
    """Sort mount options into what they act on; what is none of ours is data for the file system."""
    bind = recursive = propagation_recursive = idmap = named = False
    plain = deep = (0, 0)
    propagation = 0
    subdirectory = ""
    data: list[str] = []
    for option in options:
        if option in ("bind", "rbind"):
            bind, recursive = True, recursive or option == "rbind"
        elif option in ("idmap", "ridmap"):
            idmap = True
        elif option in _ATTRIBUTES:
            named = True
            plain = plain if option in _LEFT_OUT else _merge(plain, _ATTRIBUTES[option])
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            deep = _merge(deep, _ATTRIBUTES[option[1:]])
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option[:1] == "r" and option[1:] in _PROPAGATION:
            propagation, propagation_recursive = _PROPAGATION[option[1:]], True
        elif option.startswith(_SUBDIRECTORY):
            subdirectory = option.removeprefix(_SUBDIRECTORY)
        elif option and option not in _NO_OPERATION:  # podman's may be empty words
            data.append(option)
    return Options(
        bind, recursive, named, plain, deep, propagation, propagation_recursive, idmap, subdirectory, tuple(data)
    )


def as_remounted(options: Options) -> tuple[int, int]:
    """What mount(2) makes of a bind's attributes when it is remounted with these options, as runc does it.

    One that is named switches off all that are not; atimes stay unless one of them is asked for.
    """
    if not options.named:
        return (0, 0)
    wanted, cleared = options.attributes
    times = ATTR_ATIME | ATTR_NODIRATIME
    timed = times if wanted & times or cleared & ATTR_ATIME else 0
    return wanted, (_PERMISSIONS | timed) & ~(wanted & ~ATTR_ATIME)


def subdirectory(path: str) -> str:
    """The option that shows only `path` of a mount."""
    return f"{_SUBDIRECTORY}{path}"


def new_filesystem(
    fstype: str,
    source: str,
    data: Iterable[str],
    attributes: int = 0,
    *,
    descriptors: Iterable[tuple[str, int]] = (),
    context: int | None = None,
) -> int:
    """A detached mount of a new file system (or of the kernel's own one). OSError explains as the kernel does.

    `descriptors`: parameters whose value is a descriptor. `context`: what another process' fsopen(2) returned.
    """
    if context is None:
        context = syscalls.fsopen(fstype, FSOPEN_CLOEXEC)
    try:
        if source:
            syscalls.fsconfig(context, _SET_STRING, "source", source)
        for key, fd in descriptors:
            syscalls.fsconfig(context, _SET_FD, key, aux=fd)
        for option in data:
            _configure(context, option)
        syscalls.fsconfig(context, _CMD_CREATE)
        return syscalls.fsmount(context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise OSError(error.errno, _explanation(context) or error.strerror, fstype) from None
    finally:
        os.close(context)


def _configure(context: int, option: str) -> None:
    key, equals, value = option.partition("=")
    if equals:
        syscalls.fsconfig(context, _SET_STRING, key, value)
    else:
        syscalls.fsconfig(context, _SET_FLAG, key)


def _explanation(context: int) -> str:
    """The kernel's own messages about a context ("e overlay: …"), joined."""
    lines: list[str] = []
    while len(lines) < 8:
        try:
            lines.append(os.read(context, 4096).decode("utf-8", "replace").strip()[2:])
        except OSError:
            break
    return "; ".join(lines)


def clone(dir_fd: int, path: str, *, recursive: bool = False) -> int:
    """A detached copy of the mount (tree) at `path`, or with "" of the file or directory `dir_fd` itself."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    flags |= syscalls.AT_RECURSIVE if recursive else 0
    flags |= 0 if path else syscalls.AT_EMPTY_PATH
    return syscalls.open_tree(dir_fd, path, flags)


def part(tree: int, path: str, *, recursive: bool = False) -> int:
    """A detached copy of what lies at the relative `path` in the directory `tree`; links may not lead out of it.

    OSError: EXDEV for a path that leads out; EINVAL where `tree` is itself detached, before kernel 6.15.
    """
    found = rootpath.beneath(tree, path)
    try:
        return clone(found, "", recursive=recursive)
    finally:
        os.close(found)


def attach(mount_fd: int, target_fd: int) -> None:
    """Put a detached mount on the very file or directory that `target_fd` is."""
    syscalls.move_mount(mount_fd, "", target_fd, "", _MOVE_F_EMPTY | _MOVE_T_EMPTY)


def set_attributes(mount_fd: int, pair: tuple[int, int], *, recursive: bool = False) -> None:
    """Set and clear attributes of an attached mount; without mount_setattr(2) (before 5.12) by remounting it.

    Only the newer call can change a whole tree: there, recursive raises OSError(ENOSYS).
    """
    if pair == (0, 0):
        return
    flags = syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
    # The kernel demands the whole atime field in what is cleared when any of it is set.
    try:
        syscalls.mount_setattr(mount_fd, "", flags, attr_set=pair[0], attr_clear=pair[1])
    except OSError as error:
        if error.errno != errno.ENOSYS or recursive:
            raise
        current = os.fstatvfs(mount_fd).f_flag & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        wanted = current & ~pair[1] | pair[0] & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        syscalls.mount(None, f"/proc/self/fd/{mount_fd}", None, MS_REMOUNT | MS_BIND | wanted)


def set_propagation(mount_fd: int, propagation: int, *, recursive: bool = False) -> None:
    """Make an attached mount private, slave, shared or unbindable (MS_*)."""
    flags = syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
    try:
        syscalls.mount_setattr(mount_fd, "", flags, propagation=propagation)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        syscalls.mount(None, f"/proc/self/fd/{mount_fd}", None, propagation | (MS_REC if recursive else 0))


def readonly_file(path: str) -> int:
    """A descriptor of the file `path` on a read-only mount of its own, which lives as long as somebody uses it.

    A program executed through it cannot be written to through its /proc/PID/exe, by whomever.
    Kernels before 5.12 have no such mounts: there it is an ordinary descriptor.
    """
    fd = clone(syscalls.AT_FDCWD, os.path.realpath(path))
    try:
        syscalls.mount_setattr(fd, "", syscalls.AT_EMPTY_PATH, attr_set=ATTR_RDONLY)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            os.close(fd)
            raise
    return fd


def overlay_parts(options: Iterable[str]) -> tuple[list[str], str, str, list[str]]:
    """Options as mount(8) writes them ("lowerdir=TOP:…:BOTTOM", "upperdir=", "workdir=") as `overlay` takes them."""
    lower: list[str] = []
    upper = work = ""
    others: list[str] = []
    for option in options:
        key, _, value = option.partition("=")
        if key == "lowerdir":
            lower = value.split(":")
        elif key == "upperdir":
            upper = value
        elif key == "workdir":
            work = value
        else:
            others.append(option)
    return lower, upper, work, others


def overlay(lower: list[str], upper: str, work: str, data: Iterable[str]) -> int:
    """A mount of an overlay, `lower` from top to bottom; without `upper` it is read-only.

    Each lower directory goes to the kernel by itself (`lowerdir+`, kernel 6.7), so that their number is
    bounded only by the kernel's 500. Older kernels, and names beyond fsconfig's 255 bytes, take mount(2)'s page.
    """
    if all(len(os.fsencode(path)) < 256 for path in (*lower, upper, work)):
        try:
            return detached_overlay(lower, upper, work, data)
        except OSError as error:
            if error.errno not in _UNKNOWN_CALL:
                raise
    return _overlay_by_page(lower, _above(upper, work, data))


def detached_overlay(lower: list[str], upper: str, work: str, data: Iterable[str]) -> int:
    """The same where several threads run, which a mount by a page may not: OSError(EINVAL) before kernel 6.7."""
    return new_filesystem(
        "overlay", "overlay", [*(f"lowerdir+={path}" for path in lower), *_above(upper, work, data)]
    )


def _above(upper: str, work: str, data: Iterable[str]) -> list[str]:
    return [*data, f"upperdir={upper}", f"workdir={work}"] if upper else list(data)


def _overlay_by_page(lower: list[str], options: list[str]) -> int:
    """mount(2) of an overlay, on top of its own bottom layer; lower names are shortened by a common directory."""
    common = os.path.commonpath([os.path.dirname(path) for path in lower])
    os.chdir(common)
    try:
        names = ":".join(os.path.relpath(path, common).replace("\\", "\\\\").replace(":", "\\:") for path in lower)
        data = ",".join([f"lowerdir={names}", *options])
        if len(os.fsencode(data)) >= os.sysconf("SC_PAGE_SIZE"):
            raise OSError(errno.E2BIG, f"{len(lower)} layers are more than this kernel can stack (needs 6.7)")
        target = os.path.abspath(lower[-1])
        syscalls.mount("overlay", target, "overlay", 0, data)
    finally:
        os.chdir("/")
    mounted = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return clone(mounted, "")
    finally:
        os.close(mounted)
        syscalls.umount2(target, MNT_DETACH)
