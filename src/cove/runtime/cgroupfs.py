"""The container's view of its control groups: one cgroup2 mount, or on version 1 a directory of controllers."""

from __future__ import annotations

import os

from cove.kernel import mounts
from cove.kernel.mounts import Options


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
    for controllers in hierarchies:
        _mount_hierarchy(directory, controllers, attributes)
    mounts.set_attributes(directory, (attributes & mounts.ATTR_RDONLY, 0))
    return directory


def _version_1_hierarchies() -> list[str]:
    """The controllers of each version 1 hierarchy, as cgroups(7)'s /proc/self/cgroup names them."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        lines = [line.split(":", 2) for line in file]
    return [controllers for number, controllers, _ in lines if number != "0"]


def _mount_hierarchy(directory: int, controllers: str, attributes: int) -> None:
    """Mount one hierarchy below `directory`; joint controllers are also found by each one's name."""
    name = controllers.removeprefix("name=")
    os.mkdir(name, 0o755, dir_fd=directory)
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    data = (controllers,) if controllers.startswith("name=") else tuple(controllers.split(","))
    made = mounts.new_filesystem("cgroup", "cgroup", data, attributes)
    mounts.attach(made, place)
    os.close(made)
    os.close(place)
    if "," in name:
        for each in name.split(","):
            os.symlink(name, each, dir_fd=directory)
