"""Images of Debian's packages, for tests of real programs: made once, and kept for later runs as archives.

The archive lies below /var/tmp/cove-test-images under a name that follows from what is in it; COVE_TEST_IMAGES names
another directory. Whoever deletes it makes the next run take the minutes that a bootstrap takes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Daemon, new_daemon

NAME, NODE = "debian:work", "debian:node"
_SUITE = "bookworm"
_PACKAGES = {NAME: "python3,python3-pip,gcc,libc6-dev,nginx-light,postgresql,python3-psycopg2", NODE: "nodejs,npm"}
_WHERE = Path(os.environ.get("COVE_TEST_IMAGES", "/var/tmp/cove-test-images"))
_SECONDS = 700


@pytest.fixture(scope="session")
def debian_archive() -> Path:
    """The archive of the image `NAME`; a test that needs it is skipped with the reason where it cannot be had."""
    return _archive(NAME)


@pytest.fixture(scope="session")
def node_archive() -> Path:
    """The same of the image `NODE`."""
    return _archive(NODE)


def _archive(name: str) -> Path:
    content = hashlib.sha256(f"{_SUITE} {_PACKAGES[name]}".encode()).hexdigest()[:16]
    archive = _WHERE / f"debian-{content}.tar"
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
        archive.parent.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(f".{os.getpid()}")
        daemon.cove("save", "-o", str(part), name, timeout=300)
        part.rename(archive)
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)
