"""Paths inside a root stay inside it, whatever links say."""

from __future__ import annotations

import os
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
