"""Exhibits of mount targets that change while they are used, and of sources.

CVE-2021-30465 and CVE-2019-18837 (a directory of a shared volume becomes a link between the look and the mount),
CVE-2024-45310 (the same while missing targets are made): a process keeps exchanging a directory for a link out of
the root, while containers start that mount something below it. CVE-2017-1002101: a part of a volume, which a
container is shown, becomes a link out of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon

_SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
print("ready", flush=True)
while os.path.exists("go"):
    for _ in range(200):
        libc.renameat2(-100, b"target", -100, b"link", 2)
"""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A directory that containers share, with a target that is a link to the host's every other moment."""
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    (shared / "target").mkdir(parents=True)
    (shared / "target/inside").touch()
    victim.mkdir()
    (victim / "present").mkdir()
    (shared / "link").symlink_to("../" * 16 + str(victim).lstrip("/"))
    (shared / "go").touch()
    process = subprocess.Popen([sys.executable, "-c", _SWAPPER, str(shared)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    try:
        yield shared, victim
    finally:
        (shared / "go").unlink()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("below", ["", "/new/deep", "/present"])
def test_a_mount_lands_inside_or_not_at_all(
    daemon: Daemon, tmp_path: Path, shared: tuple[Path, Path], below: str
) -> None:
    common, victim = shared
    given = tmp_path / "given"
    given.mkdir()
    (given / "inside").touch()
    words = ("-v", f"{common}:/common", "-v", f"{given}:/common/target{below}")
    for _ in range(12):
        # The link may be followed, as a name inside: a place of that name is then the container's own.
        done = daemon.cove("run", "--rm", *words, "busybox", "grep", "given", "/proc/self/mountinfo", check=False)
        assert "Traceback" not in done.stderr
        assert [path.name for path in victim.iterdir()] == ["present"]
        assert list((victim / "present").iterdir()) == []
        assert str(given) not in Path("/proc/self/mountinfo").read_text()


def test_a_part_of_a_volume_is_inside_it_or_nothing(daemon: Daemon, shared: tuple[Path, Path]) -> None:
    common, victim = shared
    (victim / "secret").touch()
    options = ("--opt", "type=none", "--opt", f"device={common}", "--opt", "o=bind")
    daemon.cove("volume", "create", *options, "swapped")
    try:
        for _ in range(12):
            words = ("--mount", "type=volume,source=swapped,target=/part,volume-subpath=target")
            done = daemon.cove("run", "--rm", *words, "busybox", "ls", "/part", check=False)
            assert done.stdout in ("", "inside\n") and "secret" not in done.stdout
            assert done.stdout or "escapes the base directory" in done.stderr
    finally:
        daemon.cove("volume", "rm", "swapped")


def test_twin_a_mount_below_a_mount_and_through_an_honest_link(daemon: Daemon, tmp_path: Path) -> None:
    common, given = tmp_path / "common", tmp_path / "given"
    (common / "real").mkdir(parents=True)
    (common / "link").symlink_to("real")
    given.mkdir()
    (given / "file").write_text("given\n")
    words = ("-v", f"{common}:/common", "-v", f"{given}:/common/link/deep", "-v", f"{given}:/common/other")
    done = daemon.cove("run", "--rm", *words, "busybox", "cat", "/common/real/deep/file", "/common/other/file")
    assert done.stdout == "given\ngiven\n"
