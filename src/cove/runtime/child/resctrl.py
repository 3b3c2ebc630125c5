"""Cache and memory bandwidth of processors that divide them: linux.intelRdt, through /sys/fs/resctrl.

A group is a directory there, called as `closID` says, else after the container, which then owns it and takes it
along when it is deleted. Where resctrl is not mounted, a configuration that asks for it is refused.
"""

from __future__ import annotations

import os
from contextlib import suppress

from cove.kernel import rootpath, syscalls
from cove.oci.spec import IntelRdt
from cove.runtime.child.common import Failure

ROOT = "/sys/fs/resctrl"
_MAGIC = 0x7655821


def apply(identity: str, wanted: IntelRdt, pid: int, *, root: str = ROOT, magic: int = _MAGIC) -> None:
    """Put the process `pid` into the group that `wanted` describes, which is made when it is missing."""
    name = wanted.clos_id or identity
    if "/" in name or name in (".", "..", "info", "mon_groups", "mon_data"):
        raise Failure(f"linux.intelRdt.closID {name!r} is no name for a group")
    base = _open(root, magic)
    try:
        group = _group(base, name, wanted)
        try:
            _write(group, "schemata", _schemata(wanted))
            _write(group, "tasks", [str(pid)])
            if wanted.enable_monitoring:
                _monitor(group, identity, pid)
        finally:
            os.close(group)
    finally:
        os.close(base)


def remove(identity: str, *, root: str = ROOT) -> None:
    """Drop the group that is called after the container, if there is one."""
    with suppress(OSError):
        os.rmdir(f"{root}/{identity}")


def _open(root: str, magic: int) -> int:
    try:
        base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        base = -1
    if base < 0 or syscalls.filesystem_magic(base) != magic:
        raise Failure(
            f"linux.intelRdt is not possible: no resctrl is mounted at {root} (mount -t resctrl resctrl {root}, on a "
            "processor that has it)"
        )
    return base


def _group(base: int, name: str, wanted: IntelRdt) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=base)
    except FileExistsError:
        pass
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Failure(f"linux.intelRdt: the group {name} cannot be made: {reason}", number=error.errno or 0) from None
    return rootpath.open_in(base, name, os.O_PATH | os.O_DIRECTORY, resolve=rootpath.RESOLVE_NO_SYMLINKS)


def _schemata(wanted: IntelRdt) -> list[str]:
    """Line by line, because the kernel says of each whether it takes it."""
    lines = [*wanted.schemata, *wanted.l3_cache_schema.splitlines(), *wanted.mem_bw_schema.splitlines()]
    return [line.strip() for line in lines if line.strip()]


def _write(group: int, name: str, lines: list[str]) -> None:
    for line in lines:
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise Failure(
                f"linux.intelRdt: the kernel refuses {line!r} for {name}: {reason}", number=error.errno or 0
            ) from None


def _monitor(group: int, identity: str, pid: int) -> None:
    """A monitoring group of the container's own, whose counters tell of it alone."""
    with suppress(FileExistsError):
        os.mkdir(f"mon_groups/{identity}", 0o755, dir_fd=group)
    _write(group, f"mon_groups/{identity}/tasks", [str(pid)])
