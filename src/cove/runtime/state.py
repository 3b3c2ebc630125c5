"""A container's observed Status as one small file, and the one function for each of its transitions.

    created ──▶ running ⇄ paused
       │           │
       └───────────┴──▶ exited          phases only move along these arrows

Written by the supervisor alone, replaced atomically, on a run directory that dies with the boot (so nothing
is synced to a disk). Anyone may read it. Beside it lies the end that a keeper saw while there was no supervisor.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from cove.paths import RunRoot
from cove.runtime.messages import Exit, Status

_decoder = msgspec.json.Decoder(Status)
_end_decoder = msgspec.json.Decoder(Exit)
_encoder = msgspec.json.Encoder()


def save(path: Path, status: Status) -> None:
    """Replace the file at `path`; OSError when there is no room, and then the old one stays."""
    _replace(path, _encoder.encode(status))


def note_end(path: Path, end: Exit) -> None:
    """What a successor shall know of an end that no supervisor saw."""
    _replace(path, _encoder.encode(end))


def noted_end(path: Path) -> Exit | None:
    """What `note_end` wrote, if anything."""
    with suppress(OSError, msgspec.DecodeError):
        return _end_decoder.decode(path.read_bytes())
    return None


def _replace(path: Path, content: bytes) -> None:
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(fd, content)
    finally:
        os.close(fd)
    if written < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    os.rename(temporary, path)


def load(path: Path) -> Status | None:
    """The Status at `path`; None when there is none or it cannot be read."""
    with suppress(OSError, msgspec.DecodeError):
        return _decoder.decode(path.read_bytes())
    return None


def load_all(run: RunRoot) -> Iterator[Status]:
    """Every container's Status below the run root."""
    if run.containers.is_dir():
        for directory in sorted(run.containers.iterdir()):
            status = load(run.container(directory.name).state)
            if status is not None:
                yield status


def unreadable(run: RunRoot) -> Iterator[str]:
    """The identities of run directories that tell nothing: their file is damaged, or was never written."""
    if run.containers.is_dir():
        for name in sorted(os.listdir(run.containers)):
            if load(run.container(name).state) is None:
                yield name


def is_born(status: Status) -> bool:
    """Whether its first process was ever made: the file is there before anything else is."""
    return status.pid > 0


def is_live(status: Status) -> bool:
    """Whether it has a process."""
    return status.phase != "exited"


def born(status: Status, pid: int, start_ticks: int, at: float) -> Status:
    """Its first process is there, and waits at the barrier."""
    return msgspec.structs.replace(status, pid=pid, start_ticks=start_ticks, started_at=at)


def started(status: Status, at: float) -> Status:
    """Its program runs."""
    return msgspec.structs.replace(status, phase="running", started_at=at)


def frozen(status: Status, now: bool) -> Status:
    """Paused, or resumed."""
    return msgspec.structs.replace(status, phase="paused" if now else "running")


def exited(status: Status, end: Exit) -> Status:
    """It has ended."""
    return msgspec.structs.replace(status, phase="exited", exit=end)
