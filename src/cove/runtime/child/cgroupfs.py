"""The container's view of its control groups: one cgroup2 mount, or on version 1 a directory of controllers."""

from __future__ import annotations

import os

from cove.kernel import mounts, syscalls
from cove.kernel.mounts import Options
from cove.runtime.child.common import Failure

# These attributes of a mount have the same numbers as mount(2)'s flags.
_PLAIN = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC


def mount(target: int, options: Options, *, own: bool, files: str) -> int:
    """Attach the view to `target`: the descriptor of its (topmost) mount.

    `own`: this process is in the container's own cgroup namespace, so that its group is the root of what it sees.
    `files`: the /proc/PID of a process that is in the group.
    Without one, version 1 would show every group of the host: there the container's is bound instead.
    """
    attributes = options.attributes[0]
    hierarchies = version_1_hierarchies(files)
    if not hierarchies:
        made = mounts.new_filesystem("cgroup2", "cgroup", options.data, attributes)
        mounts.attach(made, target)
        return made
    if options.data:
        raise Failure(
            f"the mount of control groups has the option {', '.join(options.data)}: those of version 1 take none but "
            "the flags of every mount"
        )
    directory = mounts.new_filesystem("tmpfs", "tmpfs", ("mode=755",), attributes & ~mounts.ATTR_RDONLY)
    mounts.attach(directory, target)
    groups = {} if own else _groups(hierarchies)
    # Nobody else has this fresh tmpfs: names in it can be trusted, and mount(2) does each in one call.
    for controllers in hierarchies:
        if own:
            _mount_hierarchy(directory, controllers, attributes & _PLAIN)
        elif controllers in groups:
            _bind_group(directory, controllers, groups[controllers], attributes)
    mounts.set_attributes(directory, (attributes & mounts.ATTR_RDONLY, 0))
    return directory


def version_1_hierarchies(files: str = "/proc/self") -> dict[str, str]:
    """The controllers of each version 1 hierarchy, as cgroups(7)'s /proc/PID/cgroup names them, and its group."""
    with open(f"{files}/cgroup", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    return {controllers: path for number, controllers, path in lines if number != "0"}


def _groups(hierarchies: dict[str, str]) -> dict[str, str]:
    """Where the host has this process' group of each hierarchy; none for one that it is in the root of."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            root, place = left.split(" ")[3:5]
            if kind != "cgroup":
                continue
            given = set(options.rstrip("\n").split(","))
            for controllers, path in hierarchies.items():
                wanted = {controllers} if controllers.startswith("name=") else set(controllers.split(","))
                if wanted <= given and path != "/" and path.startswith(root):
                    found.setdefault(controllers, f"{place}/{path[len(root) :].lstrip('/')}")
    return found


def _bind_group(directory: int, controllers: str, path: str, attributes: int) -> None:
    """The same in `directory` for the group at `path`, which is all that is shown."""
    name = _directory(directory, controllers)
    made = mounts.clone(syscalls.AT_FDCWD, path)
    mounts.set_attributes(made, (attributes, 0))
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    mounts.attach(made, place)
    os.close(place)
    os.close(made)


def _directory(directory: int, controllers: str) -> str:
    """Make a hierarchy's place in `directory`; joint controllers are also found by each one's name."""
    name = controllers.removeprefix("name=")
    os.mkdir(name, 0o755, dir_fd=directory)
    if "," in name:
        for each in name.split(","):
            os.symlink(name, each, dir_fd=directory)
    return name


def _mount_hierarchy(directory: int, controllers: str, flags: int) -> None:
    """Mount one hierarchy in `directory`. The working directory stays: hooks find the bundle there."""
    name = _directory(directory, controllers)
    # A named hierarchy without controllers must not come with any.
    data = f"none,{controllers}" if controllers.startswith("name=") else controllers
    syscalls.mount("cgroup", f"/proc/self/fd/{directory}/{name}", "cgroup", flags, data)
