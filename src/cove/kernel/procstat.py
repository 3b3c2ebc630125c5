"""What /proc/PID/stat tells of a process, and what makes its number unmistakable: its start time and the boot.

Imports nothing, so that a command that only asks this starts quickly.
"""

from __future__ import annotations

import errno
import os


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third (state) on; the second may contain anything."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return file.read(4096).rpartition(b")")[2].split()


def start_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (field 22 of proc_pid_stat(5))."""
    try:
        return int(stat_fields(pid)[19])
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), f"/proc/{pid}/stat") from error


def zombie_status(pid: int) -> int | None:
    """The wait status that a dead, not yet reaped process left (field 52 of its stat), None while it lives."""
    fields = stat_fields(pid)
    return int(fields[49]) if fields[0] in (b"Z", b"X") else None


def is_alive(pid: int, ticks: int, boot: str) -> bool:
    """Whether the very process that was noted as (`pid`, `ticks`, `boot`) still runs; a zombie does not."""
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == ticks and boot == boot_id()


_boot_id = ""


def boot_id() -> str:
    """A value that differs from boot to boot."""
    global _boot_id
    if not _boot_id:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            _boot_id = file.read(64).decode().strip()  # a text file would have its codec imported
    return _boot_id
