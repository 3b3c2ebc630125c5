"""Sizes by project quotas: a data root on ext4 and on XFS that hold them; what a container cannot outgrow or leave.

The kernel must have them: `make test-guest` boots one that does.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually, new_daemon

pytestmark = pytest.mark.root

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota,lazy_itable_init=1"),
    "xfs": ("mkfs.xfs", "-q"),
}
_BIG = ("dd", "if=/dev/zero", "bs=1M", "count=40")
# FS_IOC_FSSETXATTR of no project, FS_IOC_SETFLAGS of no flag, and the former with a bit that the kernel ignores.
_ESCAPE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p]
fd = os.open(sys.argv[1], os.O_RDONLY)
for number in (0x401C5820, 0x40086602, 0x1401C5820):
    libc.ioctl(fd, number, bytes(64))
    print(errno.errorcode.get(ctypes.get_errno(), "done"))
"""


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def bounded(request: pytest.FixtureRequest, archive: Path) -> Iterator[Daemon]:
    """A daemon whose data root's file system holds limits of projects."""
    make = _MAKE[request.param]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    daemon = new_daemon()
    disk = daemon.root / "disk"
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([*make, disk], check=True)
    daemon.data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", request.param, "-o", "loop,prjquota", disk, daemon.data], capture_output=True, text=True
    )
    if mounted.returncode:
        shutil.rmtree(daemon.root)
        pytest.skip(
            f"this kernel has no project quotas for {request.param}: {mounted.stderr.strip().splitlines()[0]}"
        )
    try:
        daemon.start()
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
        daemon.clean()
    finally:
        daemon.stop()
        subprocess.run(["umount", daemon.data], check=True)
        shutil.rmtree(daemon.root, ignore_errors=True)


def _projects(daemon: Daemon) -> list[str]:
    """The projects that are Cove's still."""
    daemon.stop()
    with closing(sqlite3.connect(daemon.data / "cove.db")) as database:
        found = [str(identity) for (identity,) in database.execute("SELECT id FROM projects")]
    daemon.start()
    return found


def _refused(daemon: Daemon, *words: str) -> None:
    written = daemon.cove("run", "--rm", *words, check=False)
    assert written.returncode == 1
    assert "No space left" in written.stderr or "quota exceeded" in written.stderr, written.stderr


def test_a_volume_cannot_outgrow_its_size(bounded: Daemon) -> None:
    bounded.cove("volume", "create", "--opt", "size=16m", "sized")
    assert not (bounded.data / "volumes/sized/disk").exists()
    _refused(bounded, "-v", "sized:/v", "busybox", *_BIG, "of=/v/big")
    listed = bounded.cove("volume", "ls", "--size", "--format", "{{.Name}} {{.Size}}").stdout.split()
    assert listed[0] == "sized" and 10 < float(listed[1].removesuffix("MB")) <= 16.8
    seen = bounded.cove("run", "--rm", "-v", "sized:/v", "busybox", "df", "-k", "/v").stdout.splitlines()[-1].split()
    assert int(seen[1]) == 16384
    bounded.cove("run", "--rm", "-v", "sized:/v", "busybox", "rm", "/v/big")
    bounded.cove("run", "--rm", "-v", "sized:/v", "busybox", "sh", "-c", "mkdir /v/d; echo text > /v/d/file")

    bounded.cove("volume", "clone", "sized", "twin")
    bounded.cove("volume", "rename", "twin", "other")
    for name in ("sized", "other"):
        _refused(bounded, "-v", f"{name}:/v", "busybox", *_BIG, "of=/v/d/big")
        assert bounded.cove("run", "--rm", "-v", f"{name}:/v", "busybox", "cat", "/v/d/file").stdout == "text\n"
    assert len(_projects(bounded)) == 2
    bounded.cove("volume", "rm", "sized", "other")
    assert _projects(bounded) == []


def test_an_archive_cannot_outgrow_it_either(bounded: Daemon, tmp_path: Path) -> None:
    bounded.cove("volume", "create", "plain")
    bounded.cove("volume", "create", "--opt", "size=16m", "small")
    bounded.cove("run", "--rm", "-v", "plain:/v", "busybox", *_BIG, "of=/v/big")
    bounded.cove("volume", "export", "-o", str(tmp_path / "big.tar"), "plain")
    refused = bounded.cove("volume", "import", "-i", str(tmp_path / "big.tar"), "small", check=False)
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1
    bounded.cove("volume", "rm", "plain", "small")


def test_a_writable_layer_with_a_size(bounded: Daemon, tmp_path: Path) -> None:
    bounded.docker("run", "-d", "--name", "small", "--storage-opt", "size=16M", "busybox", "sleep", "600")
    grown = bounded.docker("exec", "small", *_BIG, "of=/big", check=False)
    assert grown.returncode and ("No space left" in grown.stderr or "quota exceeded" in grown.stderr)
    bounded.docker("exec", "small", "rm", "/big")
    # Files of the image that are copied up count too, and renames between the layer's directories work.
    bounded.docker(
        "exec", "small", "sh", "-c", "echo x >> /etc/passwd; mkdir /d; mv /etc/passwd /d; rm -r /var; ls /d"
    )
    bounded.cove("backup", "-o", str(tmp_path / "small.tar"), "small")
    bounded.docker("rm", "-f", "small")
    bounded.cove("restore", str(tmp_path / "small.tar"))
    bounded.docker("start", "small")
    assert bounded.docker("exec", "small", *_BIG, "of=/big", check=False).returncode
    bounded.docker("rm", "-f", "small")
    assert eventually(lambda: _projects(bounded) == [])
    for words in (("size=ten",), ("colour=red",)):
        refused = bounded.docker("create", "--storage-opt", *words, "busybox", "true", check=False)
        assert refused.returncode and "size" in refused.stderr


def test_nobody_leaves_a_project(bounded: Daemon, tmp_path: Path) -> None:
    if shutil.which("python3") is None:
        pytest.skip("there is no python3 on this host")
    (tmp_path / "escape.py").write_text(_ESCAPE)
    host = [word for path in ("/usr", "/lib", "/lib64", "/bin") for word in ("-v", f"{path}:{path}:ro")]
    bounded.cove("volume", "create", "--opt", "size=16m", "sized")
    bounded.cove("volume", "create", "free")
    run = ("run", "--rm", "-v", f"{tmp_path}:/t:ro", *host)
    tried = ("busybox", "/usr/bin/python3", "/t/escape.py", "/v")
    assert bounded.cove(*run, "-v", "sized:/v", *tried).stdout.split() == ["ENOTSUP"] * 3
    assert "ENOTSUP" not in bounded.cove(*run, "-v", "free:/v", *tried).stdout
    bounded.cove("volume", "rm", "sized", "free")


def test_a_killed_daemon_frees_what_nobody_has(bounded: Daemon) -> None:
    bounded.cove("volume", "create", "--opt", "size=16m", "kept")
    bounded.cove("volume", "create", "--opt", "size=16m", "lost")
    before = _projects(bounded)
    bounded.kill()
    shutil.rmtree(bounded.data / "volumes/lost")
    bounded.start()
    after = _projects(bounded)
    assert len(set(before) & set(after)) == 1, "the project of the directory that went is free"
    assert len(after) == 2, "the volume that is written down is made again, with its size"
    for name in ("kept", "lost"):
        _refused(bounded, "-v", f"{name}:/v", "busybox", *_BIG, "of=/v/big")
    bounded.cove("volume", "rm", "kept", "lost")
    assert json.loads(bounded.cove("volume", "ls", "--format", "json").stdout or "[]") == []
