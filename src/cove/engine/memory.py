"""Private directories in memory: for secrets, which must never reach a disk, and for small contexts, which need none.

They lie on a tmpfs of the host that is there anyway: the run directory, /dev/shm or /run. A daemon that was killed
leaves them; the next one of the same roots finds its own by their name and removes them.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from cove.engine.context import Context
from cove.kernel.syscalls import filesystem_magic

_TMPFS_MAGIC, _RAMFS_MAGIC = 0x01021994, 0x858458F6


def directory(context: Context, *, programs: bool = False) -> Path | None:
    """A new directory, the caller's to remove; None without a tmpfs. With `programs` files in it may be executed."""
    for place in _places(context):
        try:
            fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            usable = filesystem_magic(fd) in (_TMPFS_MAGIC, _RAMFS_MAGIC)
            if programs and os.statvfs(fd).f_flag & os.ST_NOEXEC:
                usable = False
        finally:
            os.close(fd)
        if usable:
            found = place / f"{_name(context)}{secrets.token_hex(8)}"
            found.mkdir(mode=0o700)
            return found
    return None


def sweep(context: Context) -> None:
    """At a daemon's start: what a killed one left goes."""
    for place in _places(context):
        for found in place.glob(f"{_name(context)}*"):
            shutil.rmtree(found, ignore_errors=True)


def _places(context: Context) -> tuple[Path, ...]:
    return context.run.root, Path("/dev/shm"), Path("/run")


def _name(context: Context) -> str:
    """How the directories of this daemon begin, so that several daemons live side by side."""
    return f"{context.instance.nft_table}-secret-"
