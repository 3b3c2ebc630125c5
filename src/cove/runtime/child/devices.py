"""A container's /dev: device nodes, the usual links, and the console from its own devpts.

Works on a descriptor of the mounted /dev, so that an image's own /dev (which may be a link to anywhere) has
no say, and with an empty umask, so that modes are exact. In a user namespace, where nodes cannot be made, those
that the helper outside made (`nodes`) are bound; where even that may make none, the host's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from cove.kernel import mounts, operations, rootpath
from cove.kernel.operations import Operation
from cove.kernel.syscalls import AT_FDCWD, filesystem_magic, umount2
from cove.oci.spec import ConsoleSize, Device, IDMapping
from cove.runtime.child import idmaps
from cove.runtime.child.common import Child, Failure

DEFAULT_DEVICES = (
    Device(type="c", path="/dev/null", major=1, minor=3, file_mode=0o666),
    Device(type="c", path="/dev/zero", major=1, minor=5, file_mode=0o666),
    Device(type="c", path="/dev/full", major=1, minor=7, file_mode=0o666),
    Device(type="c", path="/dev/random", major=1, minor=8, file_mode=0o666),
    Device(type="c", path="/dev/urandom", major=1, minor=9, file_mode=0o666),
    Device(type="c", path="/dev/tty", major=5, minor=0, file_mode=0o666),
)
"""What the runtime specification demands in every container."""

_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_DEVPTS_MAGIC = 0x1CD1
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441


def populate(child: Child, root: int, dev: int, devices: Iterable[Device], given: int | None = None) -> None:
    """Make the nodes and links in `dev`, the descriptor of the container's /dev; `given`: what `nodes` made."""
    with _lent(given, dev) as lent:
        for number, device in enumerate(_all(devices)):
            _make(child, root, dev, device, None if lent is None else (lent, str(number)))
    for name, target in _LINKS:
        _link(dev, name, target)
    if os.path.exists("/proc/kcore"):
        _link(dev, "core", "/proc/kcore")
    _link(dev, "ptmx", "pts/ptmx")


def _all(devices: Iterable[Device]) -> Iterable[Device]:
    """What every container has and what was asked for; later ones of a path win."""
    return {device.path: device for device in (*DEFAULT_DEVICES, *devices)}.values()


def nodes(devices: Iterable[Device], uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> int | None:
    """Outside of a user namespace with these maps: a detached tmpfs with its nodes, called 0, 1, 2…

    None when this process may make none either.
    """
    attributes = mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC
    try:
        made = mounts.new_filesystem("tmpfs", "tmpfs", ("mode=711",), attributes)
    except PermissionError:
        return None
    try:
        for number, device in enumerate(_all(devices)):
            name, owner = str(number), (_outside(uids, device.uid), _outside(gids, device.gid))
            os.mknod(name, _kind(device) | _mode(device), os.makedev(device.major, device.minor), dir_fd=made)
            os.chown(name, *owner, dir_fd=made, follow_symlinks=False)
    except PermissionError:
        os.close(made)
        return None
    return made


def _outside(mappings: Sequence[IDMapping], owner: int) -> int:
    """An owner that the container does not have stays the host's, which it sees as nobody."""
    try:
        return idmaps.host_id(mappings, owner)
    except Failure:
        return owner


@contextmanager
def _lent(given: int | None, dev: int) -> Iterator[int | None]:
    """Within, the nodes `given` stand on top of `dev`: what is mounted nowhere cannot be bound before Linux 6.15."""
    if given is None:
        yield None
        return
    mounts.attach(given, dev)
    try:
        yield given
    finally:
        umount2(f"/proc/self/fd/{given}", mounts.MNT_DETACH)
        os.close(given)


def verify_null(fd: int) -> None:
    """Failure unless `fd` is the null device itself."""
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        raise Failure("/dev/null of the container is not the null device, character device 1:3")


def find_null(dev: int) -> int:
    """An O_PATH descriptor of the null device in `dev`, a descriptor of the container's /dev; verified."""
    fd = rootpath.open_in(dev, "/null", resolve=rootpath.RESOLVE_NO_SYMLINKS)
    verify_null(fd)
    return fd


def open_null(root: int, proc: int | None) -> int:
    """The container's /dev/null for reading and writing; nothing else that stands there is opened.

    `proc` as for `rootpath.open_expected`.
    """
    fd = rootpath.open_expected(
        root, "/dev/null", os.O_RDWR, verify_null, proc=proc, resolve=rootpath.RESOLVE_NO_SYMLINKS
    )
    os.set_blocking(fd, True)
    return fd


def _link(dev: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=dev)
    except FileExistsError:
        if name != "ptmx":
            return
        os.unlink(name, dir_fd=dev)
        os.symlink(target, name, dir_fd=dev)


def _kind(device: Device) -> int:
    kind = _KINDS.get(device.type)
    if kind is None:
        raise Failure(f"device {device.path} has the unknown type {device.type!r}, it is one of c, u, b, p")
    return kind


def _mode(device: Device) -> int:
    return 0o666 if device.file_mode is None else device.file_mode & 0o7777


def _make(child: Child, root: int, dev: int, device: Device, lent: tuple[int, str] | None) -> None:
    """One node; where it cannot be made, `lent` (a directory and a name in it) or else the host's is bound."""
    kind = _kind(device)
    parent, name = _parent(root, dev, device.path)
    try:
        os.mknod(name, kind | _mode(device), os.makedev(device.major, device.minor), dir_fd=parent)
        _own(child, parent, name, device)
    except FileExistsError:
        _check_same(parent, name, kind, device)
    except PermissionError:
        _bind(parent, name, mounts.clone(*lent) if lent is not None else _host_node(device))
    finally:
        if parent != dev:
            os.close(parent)


def _parent(root: int, dev: int, path: str) -> tuple[int, str]:
    """A descriptor of the directory that `path` lies in, made where absent (or `dev` itself), and its last name."""
    above, _, name = rootpath.clean(path).rpartition("/")
    if not name:
        raise Failure(f"{path!r} is no path for a device")
    if above == "/dev":
        return dev, name
    if above.startswith("/dev/"):
        return rootpath.make_directories(dev, above.removeprefix("/dev")), name
    return rootpath.make_directories(root, above), name


def _own(child: Child, parent: int, name: str, device: Device) -> None:
    if device.uid or device.gid:
        owner = child.outer_user(device.uid), child.outer_group(device.gid)
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)


def _check_same(parent: int, name: str, kind: int, device: Device) -> None:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    number = os.makedev(device.major, device.minor)
    if stat.S_IFMT(found.st_mode) != kind or (kind != stat.S_IFIFO and found.st_rdev != number):
        raise Failure(f"{device.path} exists already and is another device", number=errno.EEXIST)


def _bind(parent: int, name: str, source: int) -> None:
    """Bind the node `source`, a detached mount."""
    try:
        target = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o644, dir_fd=parent)
        mounts.attach(source, target)
        os.close(target)
    finally:
        os.close(source)


def _host_node(device: Device) -> int:
    """A detached mount of the host's node that is `device`, found by its path or by the name the kernel gives it."""
    number = os.makedev(device.major, device.minor)
    kind = "block" if device.type == "b" else "char"
    for path in (device.path, _kernel_name(f"/sys/dev/{kind}/{device.major}:{device.minor}/uevent")):
        try:
            source = mounts.clone(AT_FDCWD, path)
        except OSError:
            continue
        if os.fstat(source).st_rdev == number:
            return source
        os.close(source)
    raise Failure(
        f"in a user namespace the device {device.path} must be one of the host's, and the host has no node of "
        f"{device.major}:{device.minor}",
        number=errno.ENODEV,
    )


def _kernel_name(uevent: str) -> str:
    try:
        with open(uevent, encoding="utf-8", errors="replace") as file:
            return next((f"/dev/{line[8:].strip()}" for line in file if line.startswith("DEVNAME=")), "")
    except OSError:
        return ""


# ── the console ───────────────────────────────────────────────────────────────────────────────────


def open_console(root: int, dev: int | None, size: ConsoleSize | None, proc: int | None) -> tuple[int, int]:
    """A pty of the container's own devpts, bound to /dev/console: (master, slave).

    The slave is got from its master by ioctl, never by name, so that nothing put in its place can be meant.
    `proc` as for `rootpath.open_expected`.
    """
    try:
        master = rootpath.open_expected(root, "/dev/pts/ptmx", os.O_RDWR, _expect_devpts, proc=proc)
    except OSError as error:
        raise Failure(
            f"a terminal needs a devpts mounted at /dev/pts: {os.strerror(error.errno or 0).lower()}",
            number=error.errno or 0,
        ) from None
    os.set_blocking(master, True)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if size is not None:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
    if dev is not None:
        _bind_console(dev, slave)
    return master, slave


def _expect_devpts(fd: int) -> None:
    if filesystem_magic(fd) != _DEVPTS_MAGIC:
        raise Failure("a terminal needs a devpts at /dev/pts: what is there is no devpts")


def _bind_console(dev: int, slave: int) -> None:
    source = mounts.clone(slave, "")
    try:
        target = rootpath.mount_target(dev, "/console", directory=False, resolve=rootpath.RESOLVE_NO_SYMLINKS)
        mounts.attach(source, target)
        os.close(target)
    finally:
        os.close(source)


def control_terminal(slave: int) -> Operation:
    """Makes `slave` the controlling terminal of the session's leader, who does it."""
    return operations.ioctl(slave, termios.TIOCSCTTY, 0)
