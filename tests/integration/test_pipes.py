"""A host on which one user has many pipes: archives are still unpacked."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root


@pytest.fixture
def many_pipes() -> Iterator[None]:
    """More room than the bound beyond which the kernel grants an unprivileged process no wider pipe (pipe(7))."""
    bound = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text()) * os.sysconf("SC_PAGE_SIZE")
    if not bound:
        pytest.skip("this host bounds no user's pipes")
    held: list[int] = []
    try:
        for _ in range(bound // (1 << 20) + 2):
            held += os.pipe()
            fcntl.fcntl(held[-1], fcntl.F_SETPIPE_SZ, 1 << 20)
        yield
    finally:
        for fd in held:
            os.close(fd)


def test_an_image_comes_and_runs(daemon: Daemon, archive: Path, many_pipes: None) -> None:
    daemon.cove("import", str(archive), "piped")
    try:
        assert daemon.cove("run", "--rm", "piped", "echo", "well").stdout == "well\n"
        identity = daemon.cove("create", "piped", "true").stdout.strip()
        daemon.cove("cp", str(archive), f"{identity}:/tmp/")
        daemon.cove("rm", identity)
    finally:
        daemon.cove("rmi", "-f", "piped")
