"""save and load: Docker's archives and OCI layouts, good, foreign and hostile."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cove.errors import InvalidArgument, NotFound
from cove.image.travel import loading, saving
from cove.oci import digest as digests
from tests.conftest import Daemon
from tests.integration.distribution_world import World, layer_tar, make_image, noise

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")


def load(world: World, data: bytes, spool: Path, *, quiet: bool = True, piece: int = 5000) -> list[str]:
    said: list[dict[str, Any]] = []
    pieces = (data[at : at + piece] for at in range(0, len(data), piece))
    loading.load(world, world, world, pieces, spool, said.append, quiet=quiet)
    assert list(spool.iterdir()) == []
    return [message.get("stream", message.get("status", "")) for message in said]


def tar_of(members: Iterable[tuple[str, bytes | tuple[bytes, str]]], **options: Any) -> bytes:
    """A tar of files (bytes) and links (type, target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.type, info.linkname = what
                tar.addfile(info)
    return buffer.getvalue()


def old_archive(**changes: Any) -> dict[str, Any]:
    """Docker's archive as it was before it was an OCI layout; the second layer is a link to the first."""
    layer = layer_tar("file", b"content")
    diff_id = digests.of(layer)
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]}}
    listing = [{"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    members = {
        "a/layer.tar": layer,
        "b/layer.tar": (tarfile.SYMTYPE, "../a/layer.tar"),
        "c.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(listing).encode(),
    }
    return {name: what for name, what in (members | changes).items() if what is not None}


def test_round_trip_keeps_every_byte(tmp_path: Path) -> None:
    here, there = World(), World()
    digest = make_image(here, "app:v1", [noise(300_000), b"two"])
    here.register(digest, ["docker.io/library/app:v2"])
    make_image(here, "quay.io/x/other:latest", [b"three"])
    saved = b"".join(saving.save(here, here, ["app", "quay.io/x/other"]))
    said = load(there, saved, tmp_path, quiet=False)
    assert said[-3:] == ["Loaded image: app:v1\n", "Loaded image: app:v2\n", "Loaded image: quay.io/x/other:latest\n"]
    assert said.count("Loading layer") == 3
    names = set(here.named)
    assert {name: there.named[name] for name in names} == here.named
    assert all(there.blobs[name] == data for name, data in here.blobs.items())


def test_saved_by_id_has_no_name(tmp_path: Path) -> None:
    world = World()
    make_image(world, "app:v1", [b"one"])
    identity = world.get("app:v1").id
    saved = b"".join(saving.save(world, world, [identity]))
    assert load(World(), saved, tmp_path) == [f"Loaded image ID: {identity}\n"]
    with pytest.raises(NotFound):
        saving.save(world, world, ["nothing"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_old_docker_archives(pack: Any, tmp_path: Path) -> None:
    world = World()
    assert load(world, pack(tar_of(old_archive().items())), tmp_path) == ["Loaded image: old:1\n"]
    assert len(world.unpacked) == 2


def test_a_name_moves_with_a_word(tmp_path: Path) -> None:
    world = World()
    make_image(world, "old:1", [b"other"])
    identity = world.get("old:1").id
    said = load(world, tar_of(old_archive().items()), tmp_path)
    assert said[0] == f"The image old:1 already exists, renaming the old one with ID {identity} to empty string\n"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"manifest.json": None}, "holds no image"),
        ({"manifest.json": b"[" * 10_000}, "not in order"),
        ({"manifest.json": b" " * (5 << 20)}, "bytes"),
        ({"a/layer.tar": None}, "layer 'b/layer.tar' is missing|layer 'a/layer.tar' is missing"),
        ({"a/layer.tar": b"another"}, "is not sha256"),
        ({"c.json": None}, "'c.json' is missing"),
        ({"a/layer.tar": (tarfile.SYMTYPE, "../b/layer.tar")}, "is missing"),
        ({"c.json": (tarfile.SYMTYPE, "/etc/passwd")}, "'c.json' is missing"),
        ({"c.json": (tarfile.LNKTYPE, "../../../../etc/passwd")}, "'c.json' is missing"),
        ({"blobs/sha256/" + "0" * 64: b"lie"}, "is something else"),
        ({"manifest.json": b'[{"Config":"c.json","RepoTags":["UP"],"Layers":[]}]'}, "must be lowercase"),
        ({"index.json": b'{"schemaVersion":2,"manifests":[],"layers":[]}'}, "ambiguous"),
    ],
)
def test_hostile_archives_are_refused(members: dict[str, Any], words: str, tmp_path: Path) -> None:
    world = World()
    with pytest.raises(InvalidArgument, match=words):
        load(world, tar_of(old_archive(**members).items()), tmp_path)
    assert world.named == {} and list(tmp_path.iterdir()) == []


def test_names_that_climb_stay_inside(tmp_path: Path) -> None:
    members = old_archive()
    climbing = {f"../../{name}" if name == "c.json" else f"/{name}": what for name, what in members.items()}
    assert load(World(), tar_of(climbing.items()), tmp_path) == ["Loaded image: old:1\n"]


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = tar_of(old_archive().items())
    negative = bytearray(whole)
    negative[124:136] = b"\xff" * 12
    endless = tarfile.TarInfo("x")
    endless.type, endless.size = tarfile.XHDTYPE, 1 << 33
    for data, words in (
        (whole[:700], "cut off"),
        (b"no archive" * 100, "checksum|number"),
        (bytes(negative), "checksum|number"),
        (endless.tobuf(tarfile.GNU_FORMAT) + b"x" * 5000, "too much"),
        (gzip.compress(whole)[:-200], "cut off|decompressed"),
        (gzip.compress(whole)[:100] + b"\0" * 500, "decompressed|checksum|number"),
        (b"", "holds no image"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            load(World(), data, tmp_path)


def test_another_systems_image_is_kept_as_it_came(tmp_path: Path) -> None:
    config = json.dumps({"os": "windows", "rootfs": {"diff_ids": ["sha256:" + "0" * 64] * 2}}).encode()
    world = World()
    load(world, tar_of(old_archive(**{"c.json": config}).items()), tmp_path)
    assert [stored.config.os for stored in world.list()] == ["windows"] and world.unpacked == []


@needs_skopeo
def test_skopeo_reads_ours_and_we_read_skopeos(tmp_path: Path) -> None:
    world = World()
    make_image(world, "quay.io/x/app:v1", [noise(100_000), b"two"])
    saved = tmp_path / "saved.tar"
    saved.write_bytes(b"".join(saving.save(world, world, ["quay.io/x/app:v1"])))
    spool = tmp_path / "spool"
    spool.mkdir()
    identity = world.get("quay.io/x/app:v1").id
    for source in (f"docker-archive:{saved}", f"oci-archive:{saved}:v1"):
        for sink in ("docker-archive:{}:quay.io/x/app:v1", "oci-archive:{}:quay.io/x/app:v1"):
            target = tmp_path / "target.tar"
            target.unlink(missing_ok=True)
            command = ["skopeo", "--insecure-policy", "--tmpdir", str(tmp_path), "copy", source, sink.format(target)]
            subprocess.run(command, check=True, capture_output=True)
            there = World()
            assert load(there, target.read_bytes(), spool) == ["Loaded image: quay.io/x/app:v1\n"]
            assert len(there.unpacked) == 2
            if sink.startswith("docker"):
                assert there.get("quay.io/x/app:v1").id == identity


@needs_skopeo
def test_skopeo_copies_out_of_a_daemon_and_into_it(daemon: Daemon, tmp_path: Path) -> None:
    """Debian 12's speaks version 1.22 for it, older than everything else here."""
    copy = ["skopeo", "--insecure-policy", "--tmpdir", str(tmp_path), "copy"]
    out = ["--src-daemon-host", daemon.host, "docker-daemon:busybox:latest", f"oci:{tmp_path}/layout:busybox"]
    back = ["--dest-daemon-host", daemon.host, f"oci:{tmp_path}/layout:busybox", "docker-daemon:by/skopeo:v1"]
    for words in (out, back):
        done = subprocess.run(copy + words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert daemon.cove("run", "--rm", "by/skopeo:v1", "echo", "it runs").stdout == "it runs\n"
    daemon.cove("rmi", "by/skopeo:v1")
