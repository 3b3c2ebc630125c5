"""Exhibits of links in layers and archives that lead out of where they are unpacked; with twins."""

from __future__ import annotations

import io
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cove.errors import CoveError, InvalidArgument
from cove.image.making import store_layer
from cove.image.store import ImageStore
from cove.paths import DataRoot
from tests.conftest import Daemon

pytestmark = pytest.mark.root

_UP = "../" * 30
_IMAGE = "busybox:latest"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.open(DataRoot(tmp_path / "data"))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "secret").write_text("the host's")
    yield directory
    assert {path.name: path.read_text() for path in directory.iterdir()} == {"secret": "the host's"}
    assert (directory / "secret").stat().st_nlink == 1


class _Tar:
    """An archive, member after member."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def file(self, name: str, content: bytes = b"written") -> _Tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def link(self, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> _Tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, 0o777
        self._tar.addfile(info)
        return self

    def directory(self, name: str) -> _Tar:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(info)
        return self

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def _longer_than_a_path(victim: Path) -> bytes:
    """CVE-2025-4517: directories and links whose resolved names are longer than PATH_MAX, then a step out."""
    tar, at, long = _Tar(), "", "d" * 247
    for letter in "abcdefghijklmnop":
        tar.directory(f"{at}{long}").link(f"{at}{letter}", long)
        at = f"{at}{long}/"
    short = "/".join("abcdefghijklmnop")
    tar.link(f"{short}/{'l' * 254}", "../" * 16)
    tar.link("escape", f"{short}/{'l' * 254}/{_UP}{str(victim)[1:]}")
    tar.link("hard", "escape/secret", tarfile.LNKTYPE)
    return tar.file("hard").file("escape/written").bytes()


HOSTILE = {
    "CVE-2014-9356, an absolute link, then through it": lambda v: (
        _Tar().link("out", str(v)).file("out/written").file("out/secret").bytes()
    ),
    "CVE-2014-9357, a climbing link, then through it": lambda v: (
        _Tar().link("out", f"{_UP}{str(v)[1:]}").file("out/written").bytes()
    ),
    "CVE-2025-47290, a directory that becomes a link": lambda v: (
        _Tar().directory("out").file("out/first").link("out", str(v)).file("out/written").bytes()
    ),
    "a link that becomes a directory's parent": lambda v: (
        _Tar().link("a", "b").link("b", str(v)).directory("a/x").file("a/x/written").bytes()
    ),
    "a hard link to the host's file": lambda v: (
        _Tar().link("h", f"{_UP}{str(v)[1:]}/secret", tarfile.LNKTYPE).file("h").bytes()
    ),
    "a hard link through a link": lambda v: (
        _Tar().link("out", str(v)).link("h", "out/secret", tarfile.LNKTYPE).file("h").bytes()
    ),
    "CVE-2025-4517, names longer than a path": _longer_than_a_path,
    "/proc as the way out": lambda v: (
        _Tar().link("out", f"/proc/1/root{v}").link("me", f"/proc/self/cwd/{_UP}{str(v)[1:]}")
        .file("out/written").file("me/written").bytes()
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_layer_stays_in_its_directory(store: ImageStore, victim: Path, what: str) -> None:
    with suppress(CoveError):
        store_layer(store.content, store.layers, [HOSTILE[what](victim)])


@pytest.mark.parametrize("what", HOSTILE)
def test_a_copy_and_add_stay_in_the_container(daemon: Daemon, tmp_path: Path, victim: Path, what: str) -> None:
    """The same archives through `cp -` and a Dockerfile's ADD."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "evil.tar").write_bytes(HOSTILE[what](victim))
    (context / "Dockerfile").write_text(f"FROM {_IMAGE}\nADD evil.tar /in/\n")
    daemon.cove("build", "-t", "evil-links", str(context), check=False)
    daemon.cove("rmi", "-f", "evil-links", check=False)
    identity = daemon.cove("create", _IMAGE, "true").stdout.strip()
    try:
        with (context / "evil.tar").open("rb") as archive:
            words = [*daemon.cove("version", check=False).args[:1], "cp", "-", f"{identity}:/tmp"]
            environment = os.environ | {"COVE_HOST": daemon.host}
            done = subprocess.run(words, stdin=archive, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
    finally:
        daemon.cove("rm", "-f", identity)


def test_twin_links_inside_a_layer_are_links(store: ImageStore, victim: Path) -> None:
    tar = (
        _Tar().directory("run").link("var/run", "/run").file("var/run/pid").link("hard", "/run/pid", tarfile.LNKTYPE)
    )
    layer = store_layer(store.content, store.layers, [tar.link("abs", str(victim)).bytes()])
    root = store.layers.stack(layer.chain_id)[0]
    assert (root / "run/pid").read_bytes() == b"written"
    assert os.stat(root / "hard").st_ino == os.stat(root / "run/pid").st_ino
    assert os.readlink(root / "abs") == str(victim)


# ── CVE-2014-9358: what an archive says of itself becomes a path ──────────────────────────────────


def test_an_identity_is_no_path(daemon: Daemon, tmp_path: Path, victim: Path) -> None:
    evil = f"{_UP}{str(victim)[1:]}/secret"
    for config, layers, tags in (
        (evil, ["layer.tar"], ["evil:1"]),
        (f"blobs/sha256/{evil}", ["layer.tar"], ["evil:1"]),
        ("config.json", [evil], ["evil:1"]),
        ("config.json", ["layer.tar"], [f"{_UP}etc/cove:1"]),
    ):
        document = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + evil]},
        }
        tar = _Tar().file("config.json", json.dumps(document).encode()).file("layer.tar", b"")
        listing = [{"Config": config, "Layers": layers, "RepoTags": tags}]
        (tmp_path / "evil.tar").write_bytes(tar.file("manifest.json", json.dumps(listing).encode()).bytes())
        done = daemon.cove("load", "-i", str(tmp_path / "evil.tar"), check=False)
        assert done.returncode and done.stderr.count("\n") == 1
        assert "the host's" not in done.stderr
    assert daemon.cove("images", "-q", "evil").stdout == ""


# ── CVE-2021-20291: a layer that cannot be decompressed ends, and ends nobody else ────────────────


def test_a_broken_compression_is_refused_and_the_next_layer_is_taken(store: ImageStore) -> None:
    sound = _Tar().file("there").bytes()
    for broken in (
        lzma.compress(sound)[:-40],
        lzma.compress(b"no archive at all" * 99),
        b"\xfd7zXZ\0" + b"\1" * 4096,
    ):
        with pytest.raises(InvalidArgument):
            store_layer(store.content, store.layers, [broken])
    layer = store_layer(store.content, store.layers, [lzma.compress(sound)])  # the twin
    assert (store.layers.stack(layer.chain_id)[0] / "there").exists()
