"""Paths inside a root stay inside it, whatever links say."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cove.kernel import rootpath


def test_links_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "secret").write_text("image")
    os.symlink("/../secret", inside / "etc/absolute")
    os.symlink("../../../secret", inside / "etc/relative")
    root = os.open(inside, os.O_PATH)
    try:
        assert rootpath.read_small(root, "/etc/absolute") == b"image"
        assert rootpath.read_small(root, "/etc/relative") == b"image"
        os.symlink("/../made", inside / "link")
        with pytest.raises(FileExistsError):  # dangling
            rootpath.make_directories(root, "/link/below")
        (inside / "made").mkdir()
        os.close(rootpath.make_directories(root, "/link/below"))
        assert (inside / "made/below").is_dir() and not (tmp_path / "made").exists()
        os.close(rootpath.mount_target(root, "/link/../file", directory=False))
        assert (inside / "file").is_file()
    finally:
        os.close(root)


def test_small_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * 100)
    root = os.open(tmp_path, os.O_PATH)
    try:
        for path in ("/fifo", "/large", "/"):
            with pytest.raises(OSError):
                rootpath.read_small(root, path, 99)
        assert len(rootpath.read_small(root, "/large", 100)) == 100
        with pytest.raises(OSError):
            rootpath.write_procfs(root, "large", b"y")
    finally:
        os.close(root)


@pytest.mark.parametrize("looked_at", ["plain", "device"])
def test_only_what_was_looked_at_is_opened(tmp_path: Path, looked_at: str) -> None:
    """Whoever swaps the name after the look has a look's thing opened, or nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a device node")
    (tmp_path / "plain").write_text("plain")
    os.mknod(tmp_path / "device", 0o600 | stat.S_IFCHR, os.makedev(240, 77))  # opening it is ENXIO, or ENODEV
    os.link(tmp_path / looked_at, tmp_path / "name")
    other = "device" if looked_at == "plain" else "plain"
    root, proc = os.open(tmp_path, os.O_PATH), os.open("/proc", os.O_PATH)

    def swapped(fd: int) -> None:
        rootpath.expect_regular(fd)
        os.unlink(tmp_path / "name")
        os.link(tmp_path / other, tmp_path / "name")

    try:
        if looked_at == "device":
            with pytest.raises(OSError, match="not a regular file"):
                rootpath.open_expected(root, "/name", os.O_RDONLY, rootpath.expect_regular, proc=proc)
            with pytest.raises(OSError, match="not a regular file"):
                rootpath.open_expected(root, "/name", os.O_RDONLY, rootpath.expect_regular)
        else:
            fd = rootpath.open_expected(root, "/name", os.O_RDONLY, swapped, proc=proc)
            assert os.read(fd, 9) == b"plain"
            os.close(fd)
    finally:
        os.close(root)
        os.close(proc)
