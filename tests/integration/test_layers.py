"""Layers and copies on a real kernel: everything an archive can hold, and everything it must not do.

Each refusal has its twin, the legitimate use beside it.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cove.errors import CoveError, InvalidArgument, NotFound
from cove.image.making import store_layer
from cove.image.store import ImageStore
from cove.image.travel import archives
from cove.image.travel.diff import layer_archive
from cove.oci import digest as digests
from cove.oci.image import OCI_LAYER, Descriptor
from cove.paths import DataRoot

pytestmark = pytest.mark.root

KINDS = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
}


def tar(*members: tuple[str, str, Any], **common: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = KINDS[kind], 0o755, 1_600_000_000
            content = b""
            if kind == "file":
                content = value
                info.size = len(content)
            elif kind in ("link", "hard"):
                info.linkname = value
            elif kind == "char":
                info.devmajor, info.devminor = value
            for key, each in common.items():
                setattr(info, key, each)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "data")


@pytest.fixture
def store(data: DataRoot) -> ImageStore:
    return ImageStore.open(data)


@pytest.fixture
def unpack(store: ImageStore) -> Callable[[bytes], Path]:
    def run(archive: bytes) -> Path:
        layer = store_layer(store.content, store.layers, [archive])
        return store.layers.stack(layer.chain_id)[0]

    return run


def leftovers(data: DataRoot) -> list[str]:
    return [entry.name for entry in data.layers.iterdir() if entry.name != "empty"]


def test_everything_a_layer_can_hold(unpack: Callable[[bytes], Path]) -> None:
    long = "/".join(["d" * 60] * 5) + "/" + "f" * 200
    root = unpack(
        tar(
            ("etc", "dir", None),
            ("etc/.wh.gone", "file", b""),
            ("opaque", "dir", None),
            ("opaque/.wh..wh..opq", "file", b""),
            (long, "file", b"long"),
            ("bin/suid", "file", b"x"),
            ("bin/hard", "hard", "/bin/suid"),
            ("bin/soft", "link", "/etc/passwd"),
            ("pipe", "fifo", None),
            ("null", "char", (1, 3)),
            ("new\nline", "file", b""),
            uid=123,
            gid=70000,
            mode=0o4755,
            mtime=1_600_000_000.5,
            pax_headers={"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.redirect": "/../.."},
        )
    )
    gone = (root / "etc/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(root / "opaque", "trusted.overlay.opaque") == b"y"
    assert (root / long).read_bytes() == b"long"
    suid = (root / "bin/suid").stat()
    assert (stat.S_IMODE(suid.st_mode), suid.st_uid, suid.st_gid) == (0o4755, 123, 70000)
    assert suid.st_mtime_ns == 1_600_000_000_500_000_000
    assert suid.st_ino == (root / "bin/hard").stat().st_ino
    assert os.readlink(root / "bin/soft") == "/etc/passwd"
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    assert (root / "null").lstat().st_rdev == os.makedev(1, 3)
    assert (root / "etc").stat().st_mtime_ns == 1_600_000_000_500_000_000
    assert os.listxattr(root / "bin/suid") == ["user.note"]


def test_sparse_files_of_gnu_tar(unpack: Callable[[bytes], Path], tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.write(b"start")
        file.seek(50 << 20)
        file.write(b"end")
    for form in ("--format=gnu", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"):
        archive = tmp_path / "sparse.tar"
        assert os.system(f"tar -S {form} -C {tmp_path} -cf {archive} big") == 0
        found = unpack(archive.read_bytes()) / "big"
        assert found.read_bytes() == big.read_bytes()
        assert found.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", "file", b"x")],
        [("a/../../evil", "file", b"x")],
        [("h", "hard", "../../../../etc/passwd")],
        [("h", "hard", "/etc/shadow")],
        [("a", "link", "/etc"), ("h", "hard", "a/shadow")],
    ],
)
def test_a_layer_cannot_lead_out(
    members: list[tuple[str, str, Any]], unpack: Callable[[bytes], Path], data: DataRoot
) -> None:
    with pytest.raises(InvalidArgument):
        unpack(tar(*members))
    assert leftovers(data) == []


def test_writing_through_a_link_stays_inside(unpack: Callable[[bytes], Path], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = unpack(
        tar(
            (str(outside)[1:], "dir", None),
            ("abs", "link", str(outside)),
            ("abs/marker", "file", b"x"),
            ("up", "link", "../../../../../../../../../" + str(outside)),
            ("up/marker2", "file", b"x"),
        )
    )
    assert list(outside.iterdir()) == []
    assert {path.name for path in (root / str(outside)[1:]).iterdir()} == {"marker", "marker2"}


def test_links_inside_work(unpack: Callable[[bytes], Path]) -> None:
    root = unpack(
        tar(("run", "dir", None), ("var/run", "link", "/run"), ("var/run/x", "file", b"1"), ("y", "hard", "/run/x"))
    )
    assert (root / "run/x").stat().st_ino == (root / "y").stat().st_ino


@pytest.mark.parametrize("broken", ["cut", "garbage", "flipped", "gzip-cut", "wrong-diff-id"])
def test_an_unsound_layer_is_one_sentence_and_leaves_nothing(broken: str, store: ImageStore, data: DataRoot) -> None:
    good = tar(("file", "file", b"data" * 5000))
    bad = {
        "cut": good[:3000],
        "garbage": os.urandom(10_000),
        "flipped": good[:100] + b"9" + good[101:],
        "gzip-cut": gzip.compress(good)[:-20],
        "wrong-diff-id": good + b"\0" * 512,
    }[broken]
    digest = store.content.put(bad)
    diff_id = digests.of(good)
    with pytest.raises(InvalidArgument) as caught:
        store.layers.unpack(Descriptor(media_type=OCI_LAYER, digest=digest, size=len(bad)), diff_id, diff_id, "")
    assert "\n" not in caught.value.message
    assert leftovers(data) == []
    assert not store.layers.is_unpacked(diff_id)


def test_a_restart_keeps_layers_and_throws_away_what_was_interrupted(store: ImageStore, data: DataRoot) -> None:
    layer = store_layer(store.content, store.layers, [tar(("x", "file", b"1"))])
    (data.layers / ".half").mkdir()
    (data.layers / ("f" * 64)).mkdir()
    again = ImageStore.open(data)
    assert not (data.layers / ".half").exists() and not (data.layers / ("f" * 64)).exists()
    # No image and no snapshot stands on the layer, so that the sweep at start took it.
    assert not again.layers.is_unpacked(layer.chain_id)


# ── copies ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def container(store: ImageStore) -> archives.FsRoot:
    layer = store_layer(
        store.content,
        store.layers,
        [
            tar(
                ("etc", "dir", None),
                ("etc/passwd", "file", b"root"),
                ("run", "dir", None),
                ("var/run", "link", "/run"),
                ("loop", "link", "loop"),
                ("out", "link", "../../../../../../etc"),
                ("old/file", "file", b"1"),
            )
        ],
    )
    store.snapshots.prepare("c1", layer.chain_id)
    return archives.stopped((store.snapshots.mount("c1"),))


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        return found.getnames()


def test_stat_says_what_docker_says(container: archives.FsRoot) -> None:
    found = archives.stat_path(container, "/var/run")
    assert (found["name"], found["mode"], found["linkTarget"]) == ("run", 1 << 27 | 0o777, "/run")
    assert archives.stat_path(container, "/var/run/")["mode"] == 1 << 31 | 0o755
    assert archives.stat_path(container, "/out")["linkTarget"] == "/etc"
    assert archives.stat_path(container, "etc/passwd")["size"] == 4
    for missing in ("/nope", "/nope/x", "/etc/nope"):
        with pytest.raises(NotFound):
            archives.stat_path(container, missing)
    for wrong in ("/etc/passwd/", "/loop/", "/etc/passwd/x"):
        with pytest.raises(CoveError):
            archives.stat_path(container, wrong)


def test_reading_and_writing(container: archives.FsRoot) -> None:
    archives.write_archive(container, "/var/run", [tar(("deep/file", "file", b"new"), uid=42, gid=43)])
    assert names(b"".join(archives.read_archive(container, "/run"))) == ["run", "run/deep", "run/deep/file"]
    assert names(b"".join(archives.read_archive(container, "/run/."))) == [".", "./deep", "./deep/file"]
    assert names(b"".join(archives.read_archive(container, "/var/run"))) == ["run"]
    with tarfile.open(fileobj=io.BytesIO(b"".join(archives.read_archive(container, "/run/deep/file")))) as found:
        member = found.getmember("file")
        assert (member.uid, member.gid, member.mtime) == (42, 43, 1_600_000_000)


def test_a_copy_stays_inside_and_keeps_kinds(container: archives.FsRoot) -> None:
    marker = Path("/etc/cove-copy-marker")
    archives.write_archive(container, "/out", [tar((marker.name, "file", b"x"))])
    assert not marker.exists()
    assert archives.stat_path(container, f"/etc/{marker.name}")["size"] == 1
    with pytest.raises(InvalidArgument):
        archives.write_archive(container, "/etc", [tar(("../../x", "file", b"x"))])
    with pytest.raises(InvalidArgument, match="cannot overwrite directory"):
        archives.write_archive(container, "/", [tar(("etc", "file", b"x"))], no_overwrite_dir_non_dir=True)
    with pytest.raises(InvalidArgument, match="not a directory"):
        archives.write_archive(container, "/etc/passwd", [tar(("x", "file", b"x"))])


def test_a_running_process_is_reached_through_its_own_root(container: archives.FsRoot) -> None:
    own = archives.running(os.getpid())
    assert archives.stat_path(own, "/etc/hostname")["name"] == "hostname"
    assert archives.stat_path(own, "/dev/null")["mode"] & 1 << 21


def test_changes_become_a_layer_again(container: archives.FsRoot, store: ImageStore, data: DataRoot) -> None:
    archives.write_archive(container, "/", [tar(("old", "file", b"was a directory"), ("added", "file", b"2"))])
    changes = {change.path: change.kind for change in store.snapshots.changes("c1")}
    assert changes == {"/old": 0, "/added": 1}
    archives.write_archive(container, "/", [tar(("etc", "link", "run"))])
    assert {change.path: change.kind for change in store.snapshots.changes("c1")}["/etc"] == 0
    archive = b"".join(layer_archive(data, "c1"))
    assert names(archive) == ["added", "etc", "old"]
    layer = store_layer(store.content, store.layers, [archive], store.snapshots.chain("c1") or "")
    assert len(store.layers.stack(layer.chain_id)) == 2
    exported = names(b"".join(archives.export(container)))
    assert "added" in exported and "var/run" in exported


def test_nothing_stays_on_the_host(container: archives.FsRoot, data: DataRoot) -> None:
    archives.stat_path(container, "/etc")
    assert str(data.root) not in Path("/proc/self/mounts").read_text()


def test_zstd_layers(store: ImageStore) -> None:
    archive = tar(("file", "file", b"data" * 100_000))
    diff_id = digests.of(archive)
    layer = store_layer(store.content, store.layers, [zstandard.compress(archive)])
    assert layer.diff_id == diff_id
    assert (store.layers.stack(layer.chain_id)[0] / "file").stat().st_size == 400_000
    with pytest.raises(InvalidArgument):
        store_layer(store.content, store.layers, [zstandard.compress(archive)[:-5]])
