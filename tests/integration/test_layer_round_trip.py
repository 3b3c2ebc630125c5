"""A tree becomes an archive and the archive the same tree again: ours, GNU tar's and umoci's reading of it agree."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cove.errors import InvalidArgument
from cove.image.making import store_layer
from cove.image.store import ImageStore
from cove.image.travel import saving
from cove.image.travel.imports import import_archive
from cove.image.worker.sandbox import PIPE, Worker
from cove.paths import DataRoot

pytestmark = pytest.mark.root

Tree = dict[str, tuple[Any, ...]]
_OVERLAYS = {f"trusted.overlay.{name}" for name in ("opaque", "impure", "origin")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore.open(DataRoot(tmp_path_factory.mktemp("data")))


def described(root: Path) -> Tree:
    """Everything that a layer keeps of a tree; hard-linked names are told by the first of them."""
    found: Tree = {}
    first: dict[int, str] = {}
    for directory, directories, files, fd in os.fwalk(root, follow_symlinks=False):
        for name in (*directories, *files):
            entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
            path = os.path.relpath(f"{directory}/{name}", root)
            kind = stat.S_IFMT(entry.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                opened = os.open(name, os.O_RDONLY, dir_fd=fd)
                with open(opened, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            elif kind == stat.S_IFLNK:
                content = os.readlink(name, dir_fd=fd)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                content = entry.st_rdev
            link = first.setdefault(entry.st_ino, path) if kind == stat.S_IFREG else path
            owner = (entry.st_uid, entry.st_gid)
            attributes = {}
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                opened = os.open(name, os.O_RDONLY, dir_fd=fd)
                attributes = {key: os.getxattr(opened, key) for key in os.listxattr(opened) if key not in _OVERLAYS}
                os.close(opened)
            found[path] = (kind, stat.S_IMODE(entry.st_mode), owner, entry.st_mtime_ns, content, link, attributes)
    return found


def packed(tree: Path) -> bytes:
    """The tree as `export` and `commit` write it."""
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    job: dict[str, Any] = {"path": "/", "arcname": ".", "layer": False, "one_device": True}
    try:
        with Worker("pack", root, stdout=PIPE, floor=None, skip=[], bare=True, **job) as worker:
            archive = b"".join(worker.output())
            worker.result()
    finally:
        os.close(root)
    return archive


def unpacked(store: ImageStore, archive: bytes) -> Path:
    return store.layers.stack(store_layer(store.content, store.layers, [archive]).chain_id)[0]


NAMES = some.text(alphabet="abcé ñ\n-.", min_size=1, max_size=9).filter(
    lambda name: name.strip(".") and not name.startswith(".wh.")
)
MODES = some.sampled_from([0o644, 0o755, 0o4755, 0o2750, 0o6711, 0o1777, 0o7777, 0o000, 0o600])
OWNERS = some.sampled_from([0, 1, 1000, 65534, 2_500_000, 0xFFFFFFFE])
TIMES = some.sampled_from(
    [0, 1, 1_600_000_000_123_456_789, 15_000_000_000_000_000_000, -1, -2_000_000_000_987_654_321]
)
KINDS = ["file", "sparse", "directory", "symlink", "hardlink", "fifo", "device", "disk"]
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep: capabilities(7)
ATTRIBUTES = some.dictionaries(
    some.sampled_from(
        ["user.a", "user.é ñ", "security.capability", "system.posix_acl_access", "system.posix_acl_default"]
    ),
    some.binary(max_size=90),
    max_size=2,
)
ENTRIES = some.lists(
    some.tuples(
        some.lists(NAMES, min_size=1, max_size=3),
        some.sampled_from(KINDS),
        some.binary(max_size=1500),
        MODES,
        OWNERS,
        OWNERS,
        TIMES,
        ATTRIBUTES,
    ),
    max_size=12,
)


def entry(tag: int, bits: int, identity: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<HHI", tag, bits, identity)


def dress(path: Path, attributes: dict[str, bytes]) -> None:
    """Set attributes where they may be: their values are any bytes for `user.`, and what they must be for others."""
    if path.is_symlink():
        return
    for key, value in attributes.items():
        if key.startswith("system."):
            named = entry(2, 5, 1000 + len(value))
            acl = (entry(1, 7), named, entry(4, 5), entry(0x10, 5), entry(0x20, 0))
            value = struct.pack("<I", 2) + b"".join(acl)
        elif key == "security.capability":
            value = CAPABILITY
        if path.is_dir() or key != "system.posix_acl_default":
            os.setxattr(path, key, value)


def make(root: Path, entries: list[tuple[Any, ...]]) -> None:
    """Put the entries there that fit with those before them."""
    files: list[Path] = []
    made: list[tuple[Path, int, int, int, int, dict[str, bytes]]] = []
    for names, kind, content, mode, uid, gid, time, attributes in entries:
        path = root.joinpath(*names)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "directory":
                path.mkdir()
            elif kind == "symlink":
                path.symlink_to(content.hex()[:100] or "nowhere")
            elif kind == "hardlink" and files:
                os.link(files[len(content) % len(files)], path)
                continue
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "device":
                os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
            elif kind == "disk":
                os.mknod(path, stat.S_IFBLK, os.makedev(4000, 1_000_000))
            elif kind == "sparse":
                with path.open("xb") as file:
                    file.truncate(1 << 20)
                    file.seek(300_000)
                    file.write(content)
                files.append(path)
            else:
                with path.open("xb") as file:
                    file.write(content)
                files.append(path)
        except (FileExistsError, NotADirectoryError):
            continue
        made.append((path, mode, uid, gid, time, attributes))
    for path, mode, uid, gid, time, attributes in reversed(made):
        os.lchown(path, uid, gid)
        if not path.is_symlink():
            path.chmod(mode)
        if path.is_dir() or path.is_file():
            dress(path, attributes)
        os.utime(path, ns=(time, time), follow_symlinks=False)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(entries=ENTRIES)
def test_every_tree_comes_back_as_it_was(store: ImageStore, entries: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree, theirs = Path(directory) / "tree", Path(directory) / "gnu"
        tree.mkdir()
        theirs.mkdir()
        make(tree, entries)
        archive = packed(tree)
        assert archive == packed(tree), "equal trees give equal bytes"
        before = described(tree)
        assert described(unpacked(store, archive)) == before
        tar = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", theirs, "-xpf", "-"]
        subprocess.run(tar, input=archive, check=True)
        assert described(theirs) == before


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "bin").mkdir()
    (root / "bin/suid").write_bytes(b"\x7fELF")
    (root / "bin/suid").chmod(0o4755)
    os.link(root / "bin/suid", root / "bin/same")
    (root / "bin/soft").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    os.chown(root / "etc/passwd", 12, 3456)
    for path in (root / "etc/passwd", root / "bin/suid", root / "pipe", root / "etc", root / "bin"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    os.utime(root / "bin/soft", (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    yield root


@pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed; it judges our layers")
def test_umoci_unpacks_what_we_saved(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    import_archive(store.content, store.images, store.layers, [packed(tree)], name="judged:1")
    layout = tmp_path / "layout"
    layout.mkdir()
    with tarfile.open(fileobj=io.BytesIO(b"".join(saving.save(store.content, store.images, ["judged:1"])))) as saved:
        saved.extractall(layout)
    bundle = tmp_path / "bundle"
    unpack = ["umoci", "unpack", "--image", f"{layout}:1", str(bundle)]
    done = subprocess.run(unpack, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert described(bundle / "rootfs") == described(tree)


def test_names_longer_than_a_path_may_be(store: ImageStore, tmp_path: Path) -> None:
    directory = "/".join(["d" * 250] * 20)
    name = f"{directory}/{'f' * 250}"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for path, kind, link in (
                (name, tarfile.REGTYPE, ""),
                (f"{directory}/hard", tarfile.LNKTYPE, name),
                (directory, tarfile.DIRTYPE, ""),
                ("soft", tarfile.SYMTYPE, name[:4000]),
            ):
                info = tarfile.TarInfo(path)
                info.type, info.linkname, info.mode, info.mtime = kind, link, 0o750, 1_600_000_000
                content = b"deep" if kind == tarfile.REGTYPE else b""
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        root = unpacked(store, buffer.getvalue())
        fd = os.open(root, os.O_RDONLY)
        for part in directory.split("/"):
            below = os.open(part, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        opened = os.open("hard", os.O_RDONLY, dir_fd=fd)
        assert os.read(opened, 9) == b"deep" and os.fstat(opened).st_nlink == 2
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o750 and os.fstat(fd).st_mtime == 1_600_000_000
        os.close(opened)
        os.close(fd)
        again = packed(root)
        with tarfile.open(fileobj=io.BytesIO(again)) as archive:
            assert any(len(member.name) > 4096 for member in archive)


def test_layers_of_many_gzip_members_are_read_whole(store: ImageStore, tree: Path) -> None:
    """eStargz: each file is a gzip member of its own, so that it can be found by offset."""
    archive = packed(tree)
    pieces = [archive[at : at + 700] for at in range(0, len(archive), 700)]
    found = unpacked(store, b"".join(gzip.compress(piece, mtime=0) for piece in pieces))
    assert described(found) == described(tree)
    with pytest.raises(InvalidArgument, match=r"cut off|damaged"):
        unpacked(store, b"".join(gzip.compress(piece) for piece in pieces)[:-300])


def test_access_control_lists_as_text_and_as_attributes(store: ImageStore) -> None:
    text = "user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---"
    wanted = struct.pack("<I", 2) + b"".join(
        (entry(1, 7), entry(2, 5, 1000), entry(4, 5), entry(0x10, 5), entry(0x20, 0))
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, pax in (
            ("shared", tarfile.DIRTYPE, {"SCHILY.acl.default": text}),
            ("shared/plain", tarfile.REGTYPE, {}),
            ("listed", tarfile.REGTYPE, {"SCHILY.acl.access": text}),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.pax_headers = kind, 0o750, pax
            archive.addfile(info)
    root = unpacked(store, buffer.getvalue())
    assert os.getxattr(root / "listed", "system.posix_acl_access") == wanted
    assert os.getxattr(root / "shared", "system.posix_acl_default") == wanted
    assert os.listxattr(root / "shared/plain") == [], "what came in the same archive inherits nothing"
    again = unpacked(store, packed(root))
    assert os.getxattr(again / "listed", "system.posix_acl_access") == wanted
    named = tarfile.TarInfo("x")
    named.pax_headers = {"SCHILY.acl.access": "user::rwx,user:bob:r-x,group::r-x,mask::r-x,other::---"}
    with pytest.raises(InvalidArgument, match="'bob' without a number"):
        unpacked(store, named.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
