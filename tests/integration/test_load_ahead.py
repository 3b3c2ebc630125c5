"""load unpacks layers while they are stored: whatever the archive's form, and whatever else lies in it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from cove.errors import InvalidArgument
from cove.image.store import ImageStore
from cove.image.travel.loading import load
from cove.oci import digest as digests
from cove.paths import DataRoot

pytestmark = pytest.mark.root

Pack = Callable[[bytes], bytes]


def tar(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


LAYERS = [
    tar(("common", b"low"), ("a", b"1" * 5000)),
    tar(("common", b"high"), ("dir/.wh..wh..opq", b""), ("dir/b", b"2")),
]


def docker_archive(layers: list[bytes], pack: Pack, *more: tuple[str, bytes]) -> bytes:
    """As docker 20 saves: layers before anything that tells of them."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digests.of(layer) for layer in layers]},
        }
    ).encode()
    listed = [f"{number}/layer.tar" for number, _ in enumerate(layers)]
    listing = json.dumps([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": listed}]).encode()
    packed = [(name, pack(layer)) for name, layer in zip(listed, layers, strict=True)]
    return tar(*more, *packed, ("c.json", config), ("manifest.json", listing))


def oci_archive(layers: list[bytes], pack: Pack, *more: tuple[str, bytes]) -> bytes:
    """As skopeo and newer dockers save: all blobs, then the index."""
    blobs = [pack(layer) for layer in layers]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digests.of(layer) for layer in layers]},
        }
    ).encode()

    def described(kind: str, data: bytes) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digests.of(data), "size": len(data)}

    kind = {b"\x1f\x8b": "layer.v1.tar+gzip", b"\x28\xb5": "layer.v1.tar+zstd"}.get(blobs[0][:2], "layer.v1.tar")
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", config),
            "layers": [described(kind, blob) for blob in blobs],
        }
    ).encode()
    entry = {
        **described("manifest.v1+json", manifest),
        "annotations": {"io.containerd.image.name": "docker.io/library/x:1"},
    }
    stored = [*blobs, config, manifest]
    members = [(f"blobs/{digests.of(blob).replace(':', '/')}", blob) for blob in stored]
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return tar(*more, *members, ("index.json", index), ("oci-layout", b"{}"))


@pytest.fixture
def data(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "data")


@pytest.fixture
def store(data: DataRoot) -> ImageStore:
    return ImageStore.open(data)


def loaded(store: ImageStore, data: bytes, spool: Path) -> list[str]:
    def pieces() -> Iterator[bytes]:
        yield from (data[at : at + 3000] for at in range(0, len(data), 3000))

    spool.mkdir(exist_ok=True)
    images = load(store.content, store.images, store.layers, pieces(), spool, lambda _: None)
    assert list(spool.iterdir()) == []
    return [name for image in images for name in image.names]


def hidden(data: DataRoot) -> list[str]:
    return [entry.name for entry in data.layers.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("archive", [docker_archive, oci_archive])
def test_every_form(
    archive: Callable[..., bytes], pack: Pack, store: ImageStore, data: DataRoot, tmp_path: Path
) -> None:
    stranger = ("notes/stranger.tar", tar(("nobody", b"asked")))
    whole = archive(LAYERS, pack, stranger)
    for _ in range(2):  # and once more, when all is there
        assert loaded(store, whole, tmp_path / "spool") == ["x:1"]
        image = store.images.get("x:1")
        top, below = store.layers.stack(image.chain_ids[-1])
        assert (top / "common").read_bytes() == b"high" and (below / "common").read_bytes() == b"low"
        assert (below / "a").stat().st_size == 5000 and not list(tmp_path.rglob("nobody"))
        assert hidden(data) == []


def test_layers_in_any_order_and_twice(store: ImageStore, data: DataRoot, tmp_path: Path) -> None:
    layers = [LAYERS[1], LAYERS[0], LAYERS[1]]
    assert loaded(store, docker_archive(layers, bytes), tmp_path / "spool") == ["x:1"]
    stack = store.layers.stack(store.images.get("x:1").chain_ids[-1])
    assert [(each / "common").read_bytes() for each in stack] == [b"high", b"low", b"high"]
    assert hidden(data) == []


@pytest.mark.parametrize("archive", [docker_archive, oci_archive])
def test_what_is_unsound_is_refused_and_leaves_nothing(
    archive: Callable[..., bytes], store: ImageStore, data: DataRoot, tmp_path: Path
) -> None:
    damaged = LAYERS[1][:1030] + b"\xff" * 70 + LAYERS[1][1100:]
    climbing = tar(("../../out", b"out"))
    for broken in (damaged, climbing):
        with pytest.raises(InvalidArgument):
            loaded(store, archive([LAYERS[0], broken], bytes), tmp_path / "spool")
    with pytest.raises(InvalidArgument, match="cut off"):
        loaded(store, archive(LAYERS, bytes)[:4000], tmp_path / "spool")
    assert hidden(data) == [] and store.images.list() == [] and not list(tmp_path.rglob("out"))
