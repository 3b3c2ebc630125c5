"""Images of Debian's packages, for tests of real programs: made once, and kept for later runs as archives.

The archive lies below /var/tmp/cove-test-images under a name that follows from what is in it; COVE_TEST_IMAGES names
another directory. Whoever deletes it makes the next run take the minutes that a bootstrap takes, beside
the tests that need none (tests/ahead.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Daemon, new_daemon

if TYPE_CHECKING:
    from tests.ahead import Beside

NAME, NODE = "debian:work", "debian:node"
FIXTURES = {"debian_archive": NAME, "node_archive": NODE}
_SUITE = "bookworm"
_PACKAGES = {NAME: "python3,python3-pip,gcc,libc6-dev,nginx-light,postgresql,python3-psycopg2", NODE: "nodejs,npm"}
_WHERE = Path(os.environ.get("COVE_TEST_IMAGES", "/var/tmp/cove-test-images"))
_SECONDS = 1200


@pytest.fixture(scope="session")
def debian_archive(beside: Beside | None) -> Path:
    """The archive of the image `NAME`."""
    if beside is not None:
        beside.hurry()
    return had(NAME)


@pytest.fixture(scope="session")
def node_archive(beside: Beside | None) -> Path:
    """The same of the image `NODE`."""
    if beside is not None:
        beside.hurry()
    return had(NODE)


def had(name: str) -> Path:
    """The archive of an image, made if it is not kept yet; skips the test with the reason where it cannot be had."""
    content = hashlib.sha256(f"{_SUITE} {_PACKAGES[name]} unsafe-io".encode()).hexdigest()[:16]
    archive = _WHERE / f"debian-{content}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes on one machine make it once
        if not archive.exists():
            _make(name, archive)
    return archive


def load(daemon: Daemon, archive: Path) -> None:
    """Give a daemon the image of an archive."""
    daemon.cove("load", "-q", "-i", str(archive), timeout=300)


def _make(name: str, archive: Path) -> None:
    daemon = new_daemon()
    daemon.start()
    try:
        words = ("image", "bootstrap", "--suite", _SUITE, "--include", _PACKAGES[name], name)
        try:
            done = daemon.cove(*words, check=False, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip(f"Debian's packages take more than {_SECONDS} s to come and unpack here")
        if done.returncode:
            pytest.skip(f"Debian's packages cannot be reached from here: {done.stderr.strip()[-200:]}")
        part = archive.with_suffix(f".{os.getpid()}")
        daemon.cove("save", "-o", str(part), name, timeout=300)
        part.rename(archive)
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)
