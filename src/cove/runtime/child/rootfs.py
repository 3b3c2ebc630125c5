"""A container's file system tree: the root, what is mounted in it, and the move into it.

Everything here happens in the container's own mount namespace; nothing is ever mounted on the host.

    copy sources that stay tied to the host (detached) ─▶ cut the tree off from the host ─▶ root on top of "/"
      ─▶ each mount on a descriptor resolved inside the root ─▶ /dev, masks ─▶ pivot_root ─▶ old root gone

Such a source is copied before the namespace is made private, so that a volume asked for as "rshared" still shares
with the host while nothing else can; every other one in its turn. So is what another container lends: this process
comes back from that one's mounts to the top of its own, which must not be covered yet.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable

from cove.kernel import mounts, rootpath, syscalls
from cove.kernel.mounts import Options, parse_options
from cove.oci.spec import Device, Mount, Spec
from cove.runtime.child import cgroupfs, copy_up, devices, hooks, labels, sources
from cove.runtime.child.common import Child, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:  # which needs this module, by way of others
    from cove.runtime.child.outside import Given

_PROPAGATIONS = {
    "": (mounts.MS_PRIVATE, True),
    "private": (mounts.MS_PRIVATE, False),
    "rprivate": (mounts.MS_PRIVATE, True),
    "slave": (mounts.MS_SLAVE, False),
    "rslave": (mounts.MS_SLAVE, True),
    "shared": (mounts.MS_SHARED, False),
    "rshared": (mounts.MS_SHARED, True),
    "unbindable": (mounts.MS_UNBINDABLE, False),
    "runbindable": (mounts.MS_UNBINDABLE, True),
}
# File systems that only make sense at their own place, which must then be a real directory there.
_FIXED = {"proc", "sysfs"}
# Files below /proc that a container may have a file of its own for (as lxcfs provides them).
_PROC_FILES = {
    f"/proc/{name}"
    for name in "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo net/dev sys/kernel".split()
}
# File systems whose owners are options.
_OWNED = {"tmpfs", "devpts", "mqueue", "ramfs"}
_DIRECTORY_FILESYSTEMS_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Tree:
    """The mounts of one container while they are made; `root` is a descriptor of its "/".

    `exact`: a bind with attributes of its own keeps none of its source's, but in a user namespace, which may not
    undo the host's. `child`: whose tree it is.
    """

    def __init__(
        self,
        spec: Spec,
        rootfs: Mount | None,
        given: Given | None = None,
        *,
        exact: bool = False,
        child: Child,
    ) -> None:
        self._spec = spec
        self._child = child
        self._exact = exact and given is None
        self._options = [parse_options(mount.options) for mount in spec.mounts]
        self._propagation = self._root_propagation()
        made = given.mounts if given is not None else {}
        self._sources = [made.get(index) for index in range(len(spec.mounts))]
        self._alone = given is None or given.root < 0
        hooked = hooks.at_creation(spec.hooks)
        named = spec.root is not None and (hooked or (self._alone and rootfs is None))
        self._place = spec.root.path if named and spec.root is not None else "/"
        if self._alone:
            for index, (mount, options) in enumerate(zip(spec.mounts, self._options, strict=True)):
                if sources.is_lent(mount):
                    self._sources[index] = sources.lent(mount)
                elif sources.is_bind(mount, options) and _is_early(mount, options, covered=self._place == "/"):
                    self._sources[index] = sources.bind(mount, options)
            self.root = sources.root(spec, rootfs)
        elif given is not None:
            self.root = given.root
        self._nodes = given.nodes if given is not None else None
        self.dev: int | None = None
        self.owns_dev = False
        self._dev_readonly = False

    def _root_propagation(self) -> tuple[int, bool]:
        wanted = self._spec.linux.rootfs_propagation if self._spec.linux else ""
        if wanted not in _PROPAGATIONS:
            raise Failure(f"unknown propagation of the root file system {wanted!r}")
        return _PROPAGATIONS[wanted]

    def enter(self) -> None:
        """Cut this namespace off from the host's, and put the root where the spec has it, or else on top of "/".

        Hooks look for it, and for what is mounted in it, at its path, and so do later mounts whose source lies in
        the root. On top of "/" it hides no name.
        """
        syscalls.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        place = os.open(self._place, _DIRECTORY_FILESYSTEMS_ONLY)
        mounts.attach(self.root, place)
        os.close(place)
        # A slave goes on hearing of the host's mounts below it, and never tells of its own.
        follows = self._propagation[0] == mounts.MS_SLAVE
        mounts.set_propagation(self.root, mounts.MS_SLAVE if follows else mounts.MS_PRIVATE, recursive=True)

    def mount_all(self, before_cgroup: Callable[[], None]) -> None:
        """Perform the spec's mounts in their order; `before_cgroup` is called before one of control groups."""
        for mount, options, source in zip(self._spec.mounts, self._options, self._sources, strict=True):
            if mount.type == "cgroup":
                before_cgroup()
            if self._alone and sources.is_bind(mount, options):
                source = self._bound(mount, options, source)
            elif source is None and sources.is_inside(self._spec, mount):
                source = sources.inside(self._spec, self.root, mount, options)
            try:
                if source is None and _is_shown_whole(mount, options):
                    source = sources.filesystem(mount, options)
                self._mount(mount, options, source)
            except OSError as error:
                where = f" ({error.filename})" if error.filename and error.filename != mount.destination else ""
                raise Failure(
                    f"cannot mount {mount.source or mount.type} at {mount.destination}: {error.strerror}{where}",
                    number=error.errno or 0,
                ) from None

    @staticmethod
    def _bound(mount: Mount, options: Options, early: int | None) -> int:
        """What to bind, made in its turn: the kernel lists mounts in the order in which they were made."""
        if early is None:
            return sources.bind(mount, options)
        try:
            again = mounts.clone(early, "", recursive=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return early  # before 6.15 a mount that is attached nowhere cannot be copied
        os.close(early)
        return again

    def _mount(self, mount: Mount, options: Options, source: int | None) -> None:
        directory = source is None or sources.is_directory(source)
        fixed = rootpath.RESOLVE_NO_SYMLINKS if mount.type in _FIXED else 0
        fresh = mount.type == "tmpfs" and not rootpath.exists(self.root, mount.destination)
        try:
            target = rootpath.mount_target(self.root, mount.destination, directory=directory, resolve=fixed)
        except OSError as error:
            if not fixed or error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise Failure(
                f"{mount.type} must be mounted on ordinary directory: {mount.destination} is, or lies behind, a link",
                number=error.errno,
            ) from None
        _refuse_proc(mount, source, target)
        if directory != sources.is_directory(target):
            what, where = ("directory", "file") if directory else ("file", "directory")
            raise Failure(
                f"cannot mount the {what} {mount.source or mount.type} on the {where} {mount.destination}: only a "
                f"{where} goes there",
                number=errno.ENOTDIR,
            )
        if source is None and mount.type == "cgroup":
            listed = self._spec.linux.namespaces if self._spec.linux else ()
            own = any(each.type == "cgroup" for each in listed)
            made = cgroupfs.mount(target, options, own=own, files=self._child.files())
        else:
            made = self._new(mount, options, target, fresh=fresh) if source is None else source
            mounts.attach(made, target)
            if source is not None:
                exact = self._exact and sources.is_bind(mount, options)
                mounts.set_attributes(made, mounts.as_remounted(options) if exact else options.attributes)
        mounts.set_attributes(made, options.recursive_attributes, recursive=True)
        if options.propagation:
            mounts.set_propagation(made, options.propagation, recursive=options.propagation_recursive)
        elif source is not None:
            mounts.set_propagation(made, mounts.MS_PRIVATE, recursive=True)
        os.close(target)
        if mount.destination.rstrip("/") == "/dev":
            self.dev = made
            self.owns_dev = source is None
        else:
            os.close(made)

    def _new(self, mount: Mount, options: Options, target: int, *, fresh: bool) -> int:
        """`fresh`: nothing was in its place, whose mode a tmpfs else has."""
        data, attributes = list(options.data), options.attributes[0]
        if options.idmap or mount.uid_mappings or mount.gid_mappings:
            raise Failure(f"the mount at {mount.destination} is not a bind mount, so its ids cannot be mapped")
        label = self._spec.linux.mount_label if self._spec.linux else ""
        data += labels.context(mount.type, label)
        if mount.type in _OWNED:
            data = [_outer(option, self._child) for option in data]
        if "tmpcopyup" in data:
            return self._copied_up(mount, options, data, target)
        if mount.type == "tmpfs" and rootpath.clean(mount.destination) == "/dev" and attributes & mounts.ATTR_RDONLY:
            attributes ^= mounts.ATTR_RDONLY
            self._dev_readonly = True  # once all of it is there
        if mount.type == "tmpfs" and not fresh and not any(option.startswith("mode=") for option in data):
            data.append(f"mode={stat.S_IMODE(os.fstat(target).st_mode):o}")
        if not mount.type:
            raise Failure(f"the mount at {mount.destination} has neither a type nor the option bind")
        context = self._child.open_proc() if mount.type == "proc" else None
        made = sources.known(mount, tuple(data), attributes, context)
        if mount.type == "devpts" and (owner := self._child.outer_user(0)):
            os.chown(".", owner, self._child.outer_group(0), dir_fd=made)  # its options are about what will be in it
        return made

    @staticmethod
    def _copied_up(mount: Mount, options: Options, data: list[str], target: int) -> int:
        """A tmpfs with what is in its place; read-only, if it shall be, only then."""
        if mount.type != "tmpfs":
            raise Failure(f"the mount option tmpcopyup of {mount.destination} works only for a tmpfs")
        found = [option for option in data if option != "tmpcopyup"]
        if not any(option.startswith("mode=") for option in found):
            found.append(f"mode={stat.S_IMODE(os.fstat(target).st_mode):o}")
        attributes = options.attributes[0] & ~mounts.ATTR_RDONLY
        made = mounts.new_filesystem("tmpfs", mount.source or "tmpfs", found, attributes)
        copy_up.copy(target, made, owner=not any(option.startswith(("uid=", "gid=")) for option in found))
        mounts.set_attributes(made, (options.attributes[0] & mounts.ATTR_RDONLY, 0))
        return made

    @property
    def dev_fd(self) -> int:
        """The descriptor of /dev, known once it is populated."""
        assert self.dev is not None
        return self.dev

    def populate_dev(self, wanted: Iterable[Device]) -> None:
        """Nodes and links in /dev, unless that was bound from the host and is complete."""
        if self.dev is None:
            self.dev = rootpath.make_directories(self.root, "/dev")
            self.owns_dev = True
        if self.owns_dev:
            devices.populate(self._child, self.root, self.dev, wanted, self._nodes)

    def pivot(self, *, move: bool = False) -> None:
        """Make the root this process' own; the host's tree is gone from here.

        `move`: with chroot instead, where "/" is the kernel's first root (a ramdisk), which cannot be pivoted.
        """
        os.fchdir(self.root)
        if move:
            _uncover(self.root)
            if self._place != "/":  # on top of "/", or the kernel calls this a chroot, where no namespace can be made
                syscalls.mount(".", "/", None, mounts.MS_MOVE)
            os.chroot(".")
        else:
            _pivot()
            syscalls.umount2(".", mounts.MNT_DETACH)
        os.chdir("/")
        propagation, recursive = self._propagation
        if propagation not in (mounts.MS_PRIVATE, mounts.MS_SLAVE):
            mounts.set_propagation(self.root, propagation, recursive=recursive)

    def seal(self) -> None:
        """Make what shall be read-only so, now that all is in its place: /dev and the root."""
        self._seal_dev()
        if self._spec.root is not None and self._spec.root.readonly:
            mounts.set_attributes(self.root, (mounts.ATTR_RDONLY, 0))

    def _seal_dev(self) -> None:
        if self._dev_readonly:
            mounts.set_attributes(self.dev_fd, (mounts.ATTR_RDONLY, 0))
            self._dev_readonly = False
        if self.dev is not None:
            os.close(self.dev)
            self.dev = None


def _outer(option: str, child: Child) -> str:
    """An option of a file system that is made by whoever works for `child`."""
    name, _, value = option.partition("=")
    if name not in ("uid", "gid") or not value.isdecimal():
        return option
    return f"{name}={(child.outer_user if name == 'uid' else child.outer_group)(int(value))}"


def _is_shown_whole(mount: Mount, options: Options) -> bool:
    """Whether a new file system is made before its target is known: what is shown of it may be a file."""
    if sources.is_bind(mount, options) or mount.type == "cgroup":
        return False
    return bool(options.subdirectory) or sources.is_layers(mount, options)


def _pivot() -> None:
    """The working directory becomes the root, on top of which the old one then is (pivot_root(2))."""
    try:
        syscalls.pivot_root(".", ".")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Failure(
            "the container's root cannot become one (pivot_root: invalid argument): a host that runs from its "
            "initramfs has no other root to move away; there --no-pivot moves the container's on top",
            number=errno.EINVAL,
        ) from None


def _uncover(root: int) -> None:
    """Take away every procfs and sysfs that is not in the tree at `root`.

    They stay in this mount namespace, though out of reach; as long as one is whole, the kernel lets a user
    namespace mount another, without the masks of the container's.
    """
    with open(f"/proc/self/fdinfo/{root}", encoding="ascii") as file:
        top = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        listed = [line.split() for line in file]
    parents = {words[0]: words[1] for words in listed}

    def inside(mount: str) -> bool:
        while mount in parents and mount != top:
            mount = parents[mount]
        return mount == top

    for words in reversed(listed):
        kind = words[words.index("-") + 1]
        if kind in _FIXED and not inside(words[0]):
            path = _unescaped(words[4])
            try:
                syscalls.umount2(path, mounts.MNT_DETACH)
            except OSError as error:
                raise Failure(
                    f"--no-pivot leaves {path} of the host in the container's mount namespace, and it cannot be "
                    f"unmounted there: {error.strerror}",
                    number=error.errno or 0,
                ) from None


def _unescaped(path: str) -> str:
    """A path as mountinfo has it (proc(5)): what would end a word is a backslash and three octal digits."""
    first, *others = path.split("\\")
    return first + "".join(chr(int(each[:3], 8)) + each[3:] for each in others)


def _is_early(mount: Mount, options: Options, *, covered: bool) -> bool:
    """Whether a source must be copied before the namespace is cut off from the host's.

    One that goes on sharing mounts with the host; and one that maps ids, by a user namespace which nobody can make
    any more whose root is `covered`.
    """
    mapped = covered and bool(options.idmap or mount.uid_mappings or mount.gid_mappings)
    return mapped or options.propagation in (mounts.MS_SHARED, mounts.MS_SLAVE)


def _refuse_proc(mount: Mount, source: int | None, target: int) -> None:
    """Nothing but a procfs may stand at /proc, and on a procfs (by whatever name) nothing but harmless files."""
    destination = rootpath.clean(mount.destination)
    procfs = mount.type == "proc" if source is None else syscalls.filesystem_magic(source) == rootpath.PROC_MAGIC
    if destination == "/proc" and not procfs:
        raise Failure(
            f"{mount.source or mount.type} cannot be mounted at /proc: only a procfs can", number=errno.EPERM
        )
    inside = syscalls.filesystem_magic(target) == rootpath.PROC_MAGIC
    if inside and not procfs and destination not in _PROC_FILES:
        raise Failure(
            f"{mount.source or mount.type} cannot be mounted inside /proc ({destination})", number=errno.EPERM
        )
