"""What a container shall not see or not change: masked paths and read-only paths.

A masked file shows /dev/null, verified to be character device 1:3 by its descriptor; a masked directory shows
an empty read-only tmpfs, one for all of them. Paths that are not there need no mask.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from cove.kernel import mounts, rootpath
from cove.runtime.child import devices


def mask(root: int, paths: Iterable[str], dev: int) -> None:
    """Hide `paths`. The null device is that of `dev`, the container's /dev.

    Not the host's: whoever is root in the container may change the mode of what it sees.
    """
    null = devices.find_null(dev)
    empty = -1
    for path in dict.fromkeys(paths):
        target = _find(root, path)
        if target is None:
            continue
        if stat.S_ISDIR(os.fstat(target).st_mode):
            if empty < 0:
                data = ("size=0", "nr_inodes=1", "mode=555")
                attributes = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
                empty = mounts.new_filesystem("tmpfs", "tmpfs", data, attributes)
                cover = empty
            else:
                cover = mounts.clone(empty, "")
        else:
            cover = mounts.clone(null, "")
            devices.verify_null(cover)
        mounts.attach(cover, target)
        os.close(target)
        if cover != empty:
            os.close(cover)
    os.close(null)
    if empty >= 0:
        os.close(empty)


def make_readonly(root: int, paths: Iterable[str]) -> None:
    """Make `paths` and all that is mounted below them read-only, by binding each onto itself."""
    for path in paths:
        target = _find(root, path)
        if target is None:
            continue
        tree = mounts.clone(target, "", recursive=True)
        mounts.attach(tree, target)
        try:
            mounts.set_attributes(tree, (mounts.ATTR_RDONLY, 0), recursive=True)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            mounts.set_attributes(tree, (mounts.ATTR_RDONLY, 0))
        os.close(tree)
        os.close(target)


def _find(root: int, path: str) -> int | None:
    try:
        return rootpath.open_in(root, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
