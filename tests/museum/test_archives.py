"""Exhibits of archives: bombs, malformed headers and links that lead out, through load and import; with twins."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cove.errors import CoveError, InvalidArgument
from cove.image.layers import Layers
from cove.image.making import store_layer
from cove.image.store import ImageStore
from cove.image.worker.members import Limits
from cove.paths import DataRoot
from tests.conftest import Daemon

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore.open(DataRoot(tmp_path / "data"))


def header(name: str, size: bytes, kind: bytes = b"0", runs: bytes = b"") -> bytes:
    """A header with a right checksum around whatever `size` and a sparse file's `runs` say."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = size.ljust(12, b"\0")
    raw[156:157] = kind
    if runs:
        raw[257:265] = b"ustar  \0"
        raw[386 : 386 + len(runs)] = runs
        raw[483:495] = b"%011o\0" % 4096
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


MALFORMED = {
    "CVE-2025-8194, a negative size": header("x", b"\xff" + struct.pack(">q", -(1 << 40)).rjust(11, b"\xff")),
    "a size beyond everything": header("x", b"\x80" + struct.pack(">Q", 1 << 62).rjust(11, b"\0")),
    "an extension that never ends": header("x", b"\x80" + struct.pack(">Q", 1 << 40).rjust(11, b"\0"), b"x"),
    "a long name without an end": header("x", b"%o" % (1 << 30), b"L"),
    "a pax record that counts itself wrong": header("x", b"%o" % 10, b"x") + b"99 path=x\n".ljust(512, b"\0"),
    "a sparse map that goes backwards": header(
        "x", b"%o" % 0, b"S", b"%011o\0%011o\0" % (512, 0) + b"%011o\0%011o\0" % (0, 0)
    ),
    "CVE-2017-14992, padding without end": header("x", b"%o" % 1) + bytes(100),
    "an unknown kind": header("x", b"0", b"Q"),
    "a truncated gzip": gzip.compress(header("x", b"0") + bytes(1024))[:-12],
    "gzip around garbage": gzip.compress(b"garbage" * 200),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_archive_is_one_sentence(store: ImageStore, what: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        store_layer(store.content, store.layers, [MALFORMED[what]])
    assert len(refused.value.message) < 400 and "\n" not in refused.value.message
    assert not store.layers.chain_ids()


def test_a_bomb_is_cut_off_with_memory_bounded(tmp_path: Path) -> None:
    """A few kilobytes that unpack to gigabytes: the worker stops at the limit, and nothing stays."""
    data = DataRoot(tmp_path / "data")
    store = ImageStore.open(data)
    layers = Layers(data, store.content, Limits(size=64 << 20, entries=1000))
    zeros = gzip.compress(header("x", b"\x80" + struct.pack(">Q", 10 << 30).rjust(11, b"\0")) + bytes(100 << 20), 1)
    with pytest.raises(InvalidArgument, match=r"impossible size|more than"):
        store_layer(store.content, layers, [zeros])
    many = b"".join(header(f"f{number}", b"0") for number in range(1100)) + bytes(1024)
    with pytest.raises(InvalidArgument, match="more than the 1000 members"):
        store_layer(store.content, layers, [many])
    assert not [path for path in data.layers.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_twin_a_large_sound_layer_is_taken(store: ImageStore) -> None:
    raw = header("big", b"%o" % (32 << 20)) + bytes(32 << 20) + bytes(1024)
    layer = store_layer(store.content, store.layers, [gzip.compress(raw, 1)])
    assert (store.layers.stack(layer.chain_id)[0] / "big").stat().st_size == 32 << 20


# ── CVE-2014-6407, 2014-9356 and kin: paths in an image archive that lead out ─────────────────────


def archive_of(members: Iterable[tuple[str, str | bytes]]) -> bytes:
    """A tar whose bytes members are files and whose text members are links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "secret").write_text("the host's")
    yield directory
    assert sorted(path.name for path in directory.iterdir()) == ["secret"]


def test_load_reads_and_writes_only_inside_the_archive(daemon: Daemon, tmp_path: Path, victim: Path) -> None:
    listing = json.dumps([{"Config": "config.json", "RepoTags": ["evil:1"], "Layers": ["layer.tar"]}]).encode()
    for members in (
        [("manifest.json", listing), ("config.json", f"{victim}/secret"), ("layer.tar", f"{victim}/secret")],
        [("manifest.json", listing), ("config.json", "../" * 30 + str(victim)[1:] + "/secret"), ("layer.tar", b"x")],
        [("blobs", str(victim)), (f"blobs/sha256/{'0' * 64}", b"x"), ("manifest.json", listing)],
        [(f"{victim}/written", b"x"), ("../" * 30 + str(victim)[1:] + "/written", b"x"), ("manifest.json", listing)],
    ):
        path = tmp_path / "evil.tar"
        path.write_bytes(archive_of(members))
        done = daemon.cove("load", "-i", str(path), check=False)
        assert done.returncode and "the host's" not in done.stdout + done.stderr
        assert done.stderr.count("\n") == 1, "one sentence"
    assert daemon.cove("images", "-q", "evil").stdout == ""


def test_twin_links_between_members_are_followed(daemon: Daemon, tmp_path: Path, archive: Path) -> None:
    """Old Docker archives share a layer by a link to another image's."""
    layer = archive.read_bytes()
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    ).encode()
    listing = json.dumps([{"Config": "c.json", "RepoTags": ["linked:1"], "Layers": ["b/layer.tar"]}]).encode()
    members = [
        ("a/layer.tar", layer),
        ("b/layer.tar", "../a/layer.tar"),
        ("c.json", config),
        ("manifest.json", listing),
    ]
    path = tmp_path / "twin.tar"
    path.write_bytes(archive_of(members))
    assert "Loaded image: linked:1" in daemon.cove("load", "-i", str(path)).stdout
    assert daemon.cove("run", "--rm", "linked:1", "echo", "runs").stdout == "runs\n"
    daemon.cove("rmi", "linked:1")


def test_a_whiteout_hides_nothing_outside(store: ImageStore, victim: Path) -> None:
    for name in (f"../{'../' * 30}{str(victim)[1:]}/.wh.secret", ".wh...", ".wh.", ".wh.."):
        try:
            store_layer(store.content, store.layers, [archive_of([(name, b"")])])
        except CoveError as error:
            assert error.message
    assert (victim / "secret").read_text() == "the host's"
