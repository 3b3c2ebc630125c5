"""Volumes with a size that holds: a limit of the file system's own, or else a file with a file system in it.

    volumes/<name>/_data    a directory with a project quota, where the data root's file system holds those
    volumes/<name>/disk     elsewhere, a sparse file of that size with ext4, mounted inside each container that uses
                            it; the containers' mounts share one loop device

The file system's own tools make a disk. Nothing is mounted on the host: who wants to look in does so in a mount
namespace of its own (`cove.image.travel.archives`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from cove.errors import InvalidArgument, Unsupported
from cove.oci.spec import Mount

KIND = "ext4"
_LEAST = 1 << 20
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Limits(Protocol):
    """Project quotas of the data root's file system."""

    def hold(self, directory: Path) -> bool:
        """Whether there are any."""

    def limit(self, directories: Sequence[Path], size: int) -> None:
        """Let empty directories hold `size` bytes together."""

    def release(self, directory: Path) -> None:
        """Lift a directory's limit, if it has one."""

    def used(self, directory: Path) -> int | None:
        """Bytes that count against a directory's limit, None when it has none."""

    def check(self, directory: Path) -> None:
        """Raises Unavailable when the directory's limit does not hold any more."""


def parse(text: str) -> int:
    """Bytes; raises InvalidArgument."""
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if size < _LEAST:
        raise InvalidArgument(f'create: invalid size "{text}": write bytes or 100m, 10g; 1m is the least')
    return size


def make(disk: Path, size: int) -> None:
    """A new file system of `size` bytes, owned by root and empty. Raises Unsupported without its tools, OSError."""
    for tool in ("mkfs.ext4", "debugfs"):
        if shutil.which(tool) is None:
            raise Unsupported(f"A volume with a size needs {tool} on the host: install the package e2fsprogs")
    new = disk.with_suffix(".new")
    with new.open("wb") as file:
        os.truncate(file.fileno(), size)
    try:
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "root_owner=0:0,nodiscard", str(new))
        _run("debugfs", "-w", "-R", "rmdir lost+found", str(new))
        new.rename(disk)
    finally:
        new.unlink(missing_ok=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidArgument(f"{command[0]} refuses: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def mount(disk: Path, destination: str, options: Iterable[str]) -> Mount:
    """The mount that shows it; room that is freed inside is freed on the host's disk too."""
    return Mount(destination=destination, source=str(disk), type=KIND, options=("loop", "discard", *options))


def used(disk: Path) -> int:
    """Bytes that it takes on the host's disk."""
    return disk.stat().st_blocks * 512
