"""A layer's directory once more under another name: directories are made anew, everything else is a hard link.

Layers never change, so that two of them may share files. Both directories lie below the data root and are reached by
descriptors; names inside are taken one at a time and never followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def twin(source: Path, target: Path) -> None:
    """Fill the empty directory `target` with what `source` has, with the same owners, modes, times and attributes."""
    there, here = os.open(source, _OPEN), -1
    try:
        here = os.open(target, _OPEN)
        _fill(there, here)
    finally:
        os.close(there)
        if here >= 0:
            os.close(here)


def _fill(source: int, target: int) -> None:
    with os.scandir(source) as listed:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed]
    for name, is_directory in entries:
        if not is_directory:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            continue
        os.mkdir(name, 0o700, dir_fd=target)
        below, above = os.open(name, _OPEN, dir_fd=source), -1
        try:
            above = os.open(name, _OPEN, dir_fd=target)
            _fill(below, above)
        finally:
            os.close(below)
            if above >= 0:
                os.close(above)
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for key in os.listxattr(source):
        os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
