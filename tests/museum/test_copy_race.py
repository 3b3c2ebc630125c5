"""CVE-2018-15664, CVE-2026-41568 and kin: the container swaps a directory for a link while files are copied.

And a file for a device, which acts as soon as the one who copies opens it, whatever the container itself may open.

The twin is the copy through an honest absolute link (/var/run → /run), in tests/integration/test_layers.py.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import CoveError
from cove.image.travel import archives
from cove.kernel import inotify

pytestmark = pytest.mark.root

_IN_OPEN = 0x20  # inotify(7)

# Lives with its root in the "container" and exchanges a directory and a link as fast as it can.
_SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chroot(sys.argv[1]); os.chdir("/")
print("ready", flush=True)
first, second = (name.encode() for name in sys.argv[2:])
while os.path.exists("/go"):
    libc.renameat2(-100, first, -100, second, 2)
"""


@pytest.fixture
def racing(tmp_path: Path) -> Iterator[tuple[int, Path, Path]]:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "work/target").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("the host's")
    (root / "work/link").symlink_to("../../../../../../../../../.." + str(outside))
    (root / "work/target/secret").write_text("its own")
    with _swapping(root, "/work/target", "/work/link") as pid:
        yield pid, root, outside


@contextlib.contextmanager
def _swapping(root: Path, first: str, second: str) -> Iterator[int]:
    """The pid of who exchanges these two below `root`."""
    (root / "go").touch()
    process = subprocess.Popen([sys.executable, "-c", _SWAPPER, str(root), first, second], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    try:
        yield process.pid
    finally:
        (root / "go").unlink()
        process.wait()
        process.stdout.close()


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(200):
            info = tarfile.TarInfo(f"marker{number}")
            archive.addfile(info)
    return buffer.getvalue()


def test_no_copy_leaves_the_container(racing: tuple[int, Path, Path]) -> None:
    pid, _, outside = racing
    root = archives.running(pid)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(4):
                # Losing the race for a moment is fine (the link dangles inside); leaving is not.
                with contextlib.suppress(CoveError):
                    archives.write_archive(root, "/work/target", [_archive()])
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = b""
    for _ in range(6):
        with contextlib.suppress(CoveError):
            seen += b"".join(archives.read_archive(root, "/work/target/"))
    writer.join()
    assert not failures
    assert os.listdir(outside) == ["secret"]
    assert b"the host's" not in seen


def test_no_device_is_opened_in_the_place_of_a_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for number in range(20):
        (root / f"work/{number}").mkdir(parents=True)
        (root / f"work/{number}/file").write_text("content")
    os.mknod(root / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    opened = inotify.open_instance()
    inotify.add_watch(opened, str(root / "device"), _IN_OPEN)
    copied = b""
    try:
        with _swapping(root, "/device", "/work/7/file") as pid:
            tree = archives.running(pid)
            for _ in range(100):
                copied += b"".join(archives.read_archive(tree, "/work"))
        assert list(inotify.events(opened)) == []
    finally:
        os.close(opened)
    assert copied.count(b"content") >= 19 * 100, "the twin: files are copied"
