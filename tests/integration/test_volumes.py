"""Volumes with a size, and volumes on the move: what a container sees in them, and that nothing is left mounted."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually, new_daemon
from tests.integration import odd_files

pytestmark = pytest.mark.root

_MAKE = (
    "cd /v; chown 70:71 .; chmod 1770 .; "
    "mkdir -m 750 d; echo text > d/file; chown 1000:2000 d/file; chmod 4711 d/file; ln d/file hard; "
    "ln -s d/file soft; truncate -s 8388608 holes; mkfifo pipe"
)
_SHOW = (
    "cd /v; stat -c '%n %F %a %u %g %h' . d soft pipe; stat -c '%n %F %a %u %g %s %h' d/file hard holes; cat hard; "
    "du -k holes"
)


def _loops() -> list[str]:
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it is being taken off
            found.append(file.read_text())
    return found


def _without_volumes(daemon: Daemon, *names: str) -> None:
    for name in names:
        daemon.cove("volume", "rm", "-f", name)


def test_a_size_holds_and_is_shared(daemon: Daemon) -> None:
    daemon.cove("volume", "create", "--opt", "size=16m", "sized")
    try:
        written = daemon.docker(
            "run",
            "--rm",
            "-v",
            "sized:/v",
            "busybox",
            "dd",
            "if=/dev/zero",
            "of=/v/big",
            "bs=1M",
            "count=40",
            check=False,
        )
        assert written.returncode == 1 and "No space left on device" in written.stderr
        daemon.docker("run", "-d", "--name", "user", "-v", "sized:/v", "busybox", "sleep", "60")
        daemon.docker("run", "--rm", "-v", "sized:/v", "busybox", "sh", "-c", "rm /v/big; echo shared > /v/file")
        assert daemon.docker("exec", "user", "cat", "/v/file").stdout == "shared\n"
        assert daemon.docker("exec", "user", "ls", "/v").stdout == "file\n"
        daemon.cove("rm", "-f", "user")
        assert eventually(lambda: not any("sized" in each for each in _loops()))
    finally:
        daemon.cove("rm", "-f", "user", check=False)
        _without_volumes(daemon, "sized")


@pytest.mark.parametrize("words", [(), ("--opt", "size=16m")], ids=["directory", "sized"])
def test_an_image_fills_a_new_volume(daemon: Daemon, words: tuple[str, ...]) -> None:
    daemon.cove("volume", "create", *words, "fresh")
    try:
        for _ in range(2):
            assert "passwd" in daemon.docker("run", "--rm", "-v", "fresh:/etc", "busybox", "ls", "/etc").stdout
        daemon.docker("run", "--rm", "-v", "fresh:/etc", "busybox", "rm", "/etc/passwd")
        assert "passwd" not in daemon.docker("run", "--rm", "-v", "fresh:/etc", "busybox", "ls", "/etc").stdout
    finally:
        _without_volumes(daemon, "fresh")


@pytest.mark.parametrize("words", [(), ("--opt", "size=32m")], ids=["directory", "sized"])
def test_content_moves_exactly(daemon: Daemon, tmp_path: Path, words: tuple[str, ...]) -> None:
    daemon.cove("volume", "create", *words, "first")
    try:
        daemon.cove("run", "--rm", "-v", "first:/v", "busybox", "sh", "-c", _MAKE)
        seen = daemon.cove("run", "--rm", "-v", "first:/v", "busybox", "sh", "-c", _SHOW).stdout
        assert "d/file regular file 4711 1000 2000 5 2" in seen
        archive = tmp_path / "archive.tar"
        daemon.cove("volume", "export", "-o", str(archive), "first")
        daemon.cove("volume", "import", "-i", str(archive), "second")
        daemon.cove("volume", "clone", "first", "third")
        taken = daemon.cove("volume", "snapshot", "first").stdout.strip()
        assert taken.startswith("first-")
        daemon.cove("volume", "rename", taken, "fourth")
        for name in ("second", "third", "fourth"):
            assert daemon.cove("run", "--rm", "-v", f"{name}:/v", "busybox", "sh", "-c", _SHOW).stdout == seen, name
        labels = daemon.cove("volume", "inspect", "-f", "{{json .Labels}}", "fourth").stdout
        assert '"cove.snapshot.of":"first"' in labels.replace(" ", "")
    finally:
        _without_volumes(daemon, "first", "second", "third", "fourth")


def test_nothing_is_lost_on_the_way(daemon: Daemon, tmp_path: Path) -> None:
    volumes = daemon.data / "volumes"
    daemon.cove("volume", "create", "odd")
    try:
        odd_files.make(volumes / "odd/_data")
        wanted = odd_files.seen(volumes / "odd/_data")
        daemon.cove("volume", "export", "-o", str(tmp_path / "odd.tar"), "odd")
        daemon.cove("volume", "import", "-i", str(tmp_path / "odd.tar"), "imported")
        daemon.cove("volume", "clone", "odd", "cloned")
        daemon.cove("volume", "snapshot", "odd", "taken")
        daemon.cove("create", "--name", "odd", "-v", "odd:/v", "busybox", "true")
        daemon.cove("backup", "-o", str(tmp_path / "odd.backup"), "odd")
        daemon.cove("restore", "--name", "again", "--volume", "odd=restored", str(tmp_path / "odd.backup"))
        for name in ("imported", "cloned", "taken", "restored"):
            assert odd_files.seen(volumes / name / "_data") == wanted, name
    finally:
        daemon.cove("rm", "-f", "odd", "again", check=False)
        _without_volumes(daemon, "odd", "imported", "cloned", "taken", "restored")


def test_a_cut_archive_makes_no_volume(daemon: Daemon, tmp_path: Path) -> None:
    daemon.cove("run", "--rm", "-v", "whole:/v", "busybox", "sh", "-c", "head -c 3000000 /dev/urandom > /v/file")
    try:
        daemon.cove("volume", "export", "-o", str(tmp_path / "whole.tar"), "whole")
        (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:2_000_000])
        refused = daemon.cove("volume", "import", "-i", str(tmp_path / "cut.tar"), "part", check=False)
        assert refused.returncode == 1 and "cut off" in refused.stderr
        assert "part" not in daemon.cove("volume", "ls", "-q").stdout.split()
        assert {path.name for path in (daemon.data / "volumes").iterdir()} >= {"whole"}
        assert not [path for path in (daemon.data / "volumes").iterdir() if path.name.startswith((".", "part"))]
    finally:
        _without_volumes(daemon, "whole")


def test_a_rename_cut_short_has_happened_or_has_not(archive: Path) -> None:
    daemon = new_daemon()
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        for done in (False, True):
            daemon.cove("run", "--rm", "-v", "old:/v", "busybox", "touch", "/v/kept")
            daemon.kill()
            with closing(sqlite3.connect(daemon.data / "cove.db")) as database:
                (body,) = database.execute("SELECT record FROM volumes WHERE name = 'old'").fetchone()
                half = json.dumps({**json.loads(body), "name": "new", "was": "old"})
                database.execute("INSERT INTO volumes (name, record) VALUES ('new', ?)", (half,))
                database.commit()
            if done:
                (daemon.data / "volumes/old").rename(daemon.data / "volumes/new")
            daemon.start()
            name = "new" if done else "old"
            assert daemon.cove("volume", "ls", "-q").stdout.split() == [name]
            assert daemon.cove("run", "--rm", "-v", f"{name}:/v", "busybox", "ls", "/v").stdout == "kept\n"
            daemon.cove("volume", "rm", name)
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def test_what_a_prune_leaves(daemon: Daemon, tmp_path: Path) -> None:
    daemon.cove("volume", "create", "named")
    daemon.cove("volume", "create", "--label", "keep=yes", "kept")
    daemon.cove("volume", "create", "--opt", "size=8m", "sized")
    daemon.cove("volume", "create", "-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind", "elsewhere")
    daemon.cove("create", "--name", "user", "-v", "used:/v", "-v", "/anonymous", "busybox", "true")
    volumes = daemon.cove("inspect", "-f", "{{range .Mounts}}{{.Name}} {{end}}", "user").stdout.split()
    anonymous = next(name for name in volumes if name != "used")
    try:
        pruned = daemon.docker("volume", "prune", "-f").stdout.split()
        assert not {"named", "kept", "sized", "elsewhere", "used", anonymous} & set(pruned)
        daemon.cove("rm", "user")
        daemon.cove("create", "--name", "user", "-v", "used:/v", "busybox", "true")
        pruned = daemon.docker("volume", "prune", "-f").stdout.split()
        assert anonymous in pruned and not {"named", "kept", "sized", "elsewhere", "used"} & set(pruned)
        pruned = daemon.docker("volume", "prune", "-af", "--filter", "label!=keep").stdout.split()
        assert {"named", "sized"} <= set(pruned) and not {"kept", "elsewhere", "used"} & set(pruned)
        refused = daemon.docker("volume", "prune", "-f", "--filter", "until=1h", check=False)
        assert refused.returncode == 1 and "until" in refused.stderr
    finally:
        daemon.cove("rm", "-f", "user")
        _without_volumes(daemon, "named", "kept", "sized", "elsewhere", "used")


def _is_full(daemon: Daemon) -> bool:
    """ext4 gives room back a moment after it is freed, and not at all when it is unmounted before."""
    return (daemon.data / "volumes/sized/disk").stat().st_blocks * 512 > 40 << 20


def test_room_that_is_freed_in_a_sized_volume_comes_back(daemon: Daemon) -> None:
    daemon.cove("volume", "create", "--opt", "size=64m", "sized")
    try:
        daemon.cove("run", "-d", "--name", "user", "-v", "sized:/v", "busybox", "sleep", "600")
        daemon.cove("exec", "user", "sh", "-c", "dd if=/dev/zero of=/v/f bs=1M count=40; sync")
        assert _is_full(daemon)
        daemon.cove("exec", "user", "sh", "-c", "rm /v/f; sync")
        assert eventually(lambda: not _is_full(daemon))
    finally:
        daemon.cove("rm", "-f", "user")
        _without_volumes(daemon, "sized")


def test_a_running_writer_stands_still(daemon: Daemon) -> None:
    write = "i=0; while :; do i=$((i+1)); echo $i > /v/t; mv /v/t /v/a; echo $i > /v/t; mv /v/t /v/b; done"
    daemon.cove("run", "-d", "--name", "writer", "-v", "busy:/v", "busybox", "sh", "-c", write)
    try:
        assert eventually(lambda: "b" in daemon.cove("exec", "writer", "ls", "/v").stdout.split())
        daemon.cove("volume", "snapshot", "busy", "moment")
        both = daemon.cove("run", "--rm", "-v", "moment:/v", "busybox", "cat", "/v/a", "/v/b").stdout.split()
        assert int(both[0]) - int(both[1]) in (0, 1)
        assert daemon.cove("inspect", "-f", "{{.State.Status}}", "writer").stdout.strip() == "running"
        refused = daemon.cove("volume", "rename", "busy", "other", check=False)
        assert refused.returncode == 1 and "in use by writer" in refused.stderr
        taken = daemon.cove("volume", "clone", "busy", "moment", check=False)
        assert taken.returncode == 1 and "exists already" in taken.stderr
    finally:
        daemon.cove("rm", "-f", "writer")
        _without_volumes(daemon, "busy", "moment")


@pytest.mark.parametrize("size", ["", "0", "-1", "ten", "12q", "1k"])
def test_nonsense_for_a_size(daemon: Daemon, size: str) -> None:
    refused = daemon.cove("volume", "create", "--opt", f"size={size}", "odd", check=False)
    assert refused.returncode == 1 and "size" in refused.stderr
    assert "odd" not in daemon.cove("volume", "ls", "-q").stdout.split()
