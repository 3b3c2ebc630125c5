"""The disk below the data root is full: whoever fills it is told by the kernel, everybody else by one sentence."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import Daemon, new_daemon

pytestmark = pytest.mark.root

_FILL = "echo before; dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null; echo after; exit 5"


@pytest.fixture
def small(archive: Path) -> Iterator[Daemon]:
    """A daemon whose data root is a file system of 24 MiB, mounted where only the daemon sees it."""
    daemon = new_daemon()
    daemon.data.mkdir()
    mount = f'mount -t tmpfs -o size=24m small {daemon.data}; exec "$@"'
    daemon.around = ("unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh")
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


@pytest.mark.parametrize("name", ["cove", "docker"])
def test_a_container_that_fills_the_disk(small: Daemon, name: str) -> None:
    client: Callable[..., CompletedProcess[str]] = getattr(small, name)
    filled = client("run", "--name", "fill", "busybox", "sh", "-c", _FILL, check=False)
    assert (filled.returncode, filled.stdout) == (5, "before\nafter\n")
    assert client("logs", "fill").stdout == "before\nafter\n"
    assert client("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "fill").stdout == "exited 5\n"

    refused = client("run", "--name", "other", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert "No space left on device" in refused.stderr and "Traceback" not in refused.stderr
    assert client("ps", "-a", "--format", "{{.Names}}").stdout == "fill\n"

    client("rm", "fill")
    assert client("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
    assert client("ps", "-aq").stdout == ""


def test_an_import_that_does_not_fit(small: Daemon, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    (big / "noise").write_bytes(os.urandom(40 << 20))
    archive = tmp_path / "big.tar"
    shutil.make_archive(str(tmp_path / "big"), "tar", big)
    for client in (small.cove, small.docker):
        refused = client("import", str(archive), "big:latest", check=False)
        assert refused.returncode == 1 and "No space left on device" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert small.cove("images", "--format", "{{.Repository}}").stdout == "busybox\n"
    assert small.cove("run", "--rm", "busybox", "echo", "works").stdout == "works\n"


def test_nothing_fits_any_more(small: Daemon, tmp_path: Path) -> None:
    """Each verb that needs room says so; what needs none works; afterwards all of it does."""
    small.cove("create", "--name", "made", "busybox", "true")
    small.cove("run", "-d", "--name", "filler", "busybox", "sleep", "600")
    small.cove("exec", "filler", "sh", "-c", "dd if=/dev/zero of=/x bs=1k 2>/dev/null", check=False)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo x >/x\n")
    verbs = (
        ("start", "made"),
        ("build", "-q", str(tmp_path)),
        ("commit", "filler", "more"),
        ("create", "busybox", "true"),
    )
    for words in verbs:
        for client in (small.cove, small.docker):
            refused = client(*words, check=False)
            assert refused.returncode == 1 and re.search("No space left on device|disk is full", refused.stderr), (
                words
            )
    assert small.cove("exec", "filler", "echo", "there").stdout == "there\n"
    small.cove("exec", "filler", "rm", "/x")
    small.cove("start", "-a", "made")
    small.cove("build", "-q", str(tmp_path))
