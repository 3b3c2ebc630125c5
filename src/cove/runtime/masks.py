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
from cove.runtime.child import Failure

_NULL = os.makedev(1, 3)


def open_null() -> int:
    """A detached mount of the host's /dev/null; Failure when that is not the null device."""
    fd = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _verify(fd)
        return mounts.clone(fd, "")
    finally:
        os.close(fd)


def _verify(fd: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _NULL:
        raise Failure("/dev/null of the host is not the null device: masks made of it would not mask")


def mask(root: int, paths: Iterable[str], null: int) -> None:
    """Hide `paths`; `null` is a detached mount of /dev/null, which is cloned for each file."""
    empty = -1
    for path in paths:
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
            _verify(cover)
        mounts.attach(cover, target)
        os.close(target)
        if cover != empty:
            os.close(cover)
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
