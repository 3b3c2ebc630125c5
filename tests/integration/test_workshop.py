"""The process that makes archive workers: it comes with the first job and stays for the next ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cove.image.worker.sandbox import Worker

pytestmark = pytest.mark.root


def job(directory: Path) -> None:
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Worker("stat", root, path="/") as worker:
            worker.result()
    finally:
        os.close(root)


def workshops() -> set[int]:
    """This process' own."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"cove.image.worker.workshop" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_it_stays_for_jobs_that_follow_with_pauses(tmp_path: Path) -> None:
    job(tmp_path)
    first = workshops()
    assert len(first) == 1
    for _ in range(2):
        time.sleep(0.5)  # longer than it takes to see that a worker has ended, and much less than it waits
        job(tmp_path)
    assert workshops() == first
