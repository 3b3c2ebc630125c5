"""The container's view of its control groups: one cgroup2 mount, or on version 1 a directory of controllers."""

from __future__ import annotations

import os

from cove.kernel import mounts, syscalls
from cove.kernel.mounts import Options

# These attributes of a mount have the same numbers as mount(2)'s flags.
_PLAIN = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC


def mount(target: int, options: Options) -> int:
    """Attach the view to `target`: the descriptor of its (topmost) mount.

    Called in the container's own cgroup namespace, so that its group is the root of what it sees.
    """
    attributes = options.attributes[0]
    hierarchies = _version_1_hierarchies()
    if not hierarchies:
        made = mounts.new_filesystem("cgroup2", "cgroup", (), attributes)
        mounts.attach(made, target)
        return made
    directory = mounts.new_filesystem("tmpfs", "tmpfs", ("mode=755",), attributes & ~mounts.ATTR_RDONLY)
    mounts.attach(directory, target)
    # Nobody else has this fresh tmpfs: names in it can be trusted, and mount(2) does each in one call.
    os.fchdir(directory)
    for controllers in hierarchies:
        _mount_hierarchy(controllers, attributes & _PLAIN)
    os.chdir("/")
    mounts.set_attributes(directory, (attributes & mounts.ATTR_RDONLY, 0))
    return directory


def _version_1_hierarchies() -> list[str]:
    """The controllers of each version 1 hierarchy, as cgroups(7)'s /proc/self/cgroup names them."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        lines = [line.split(":", 2) for line in file]
    return [controllers for number, controllers, _ in lines if number != "0"]


def _mount_hierarchy(controllers: str, flags: int) -> None:
    """Mount one hierarchy in the working directory; joint controllers are also found by each one's name."""
    name = controllers.removeprefix("name=")
    os.mkdir(name, 0o755)
    # A named hierarchy without controllers must not come with any.
    data = f"none,{controllers}" if controllers.startswith("name=") else controllers
    syscalls.mount("cgroup", name, "cgroup", flags, data)
    if "," in name:
        for each in name.split(","):
            os.symlink(name, each)
