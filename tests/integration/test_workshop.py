"""The process that makes archive workers, and workers that stay: both come with the first job, for the next ones."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from cove.errors import NotFound
from cove.image.worker import hands
from cove.image.worker.sandbox import Worker
from tests.conftest import eventually, has_ended

pytestmark = pytest.mark.root


def job(directory: Path) -> None:
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Worker("stat", root, path="/") as worker:
            worker.result()
    finally:
        os.close(root)


def short_job(directory: Path, *sources: str) -> str:
    """The digest of some of a directory's files."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        found = hands.work("digest", {"root": root}, copy={"sources": list(sources)}, listed=False)
    finally:
        os.close(root)
    return str(found["digest"])


def workshops(parents: set[int] | None = None) -> set[int]:
    """This process' own, or the workers that they made."""
    found = set()
    wanted = {os.getpid()} if parents is None else parents
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in wanted and b"cove.image.worker.workshop" in (entry / "cmdline").read_bytes():
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


def test_one_that_ended_is_buried_before_the_next_job(tmp_path: Path) -> None:
    job(tmp_path)
    for pid in workshops():
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists())
    job(tmp_path)


def test_short_jobs_share_a_worker(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    first = short_job(tmp_path, "file")
    workers = workshops(workshops())
    assert workers
    for _ in range(20):
        assert short_job(tmp_path, "file") == first
        with pytest.raises(NotFound):
            short_job(tmp_path, "none")
    assert workshops(workshops()) == workers


def test_a_worker_that_was_killed_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    first = short_job(tmp_path, "file")
    for pid in workshops(workshops()):
        os.kill(pid, signal.SIGKILL)
        assert eventually(partial(has_ended, pid))
    assert short_job(tmp_path, "file") == first


def test_a_worker_that_stays_sees_nothing_but_its_trees(tmp_path: Path) -> None:
    short_job(tmp_path, "/")
    for pid in workshops(workshops()):
        assert os.listdir(f"/proc/{pid}/root") == []
        assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == 1
        opened = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.name != "2"}
        assert not [name for name in opened if name.startswith("/") and name != "/dev/null"]
