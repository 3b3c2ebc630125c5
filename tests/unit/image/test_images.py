"""Blobs and names without a kernel: what is stored, found, named and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from cove.errors import Conflict, InvalidArgument, NotFound
from cove.image.content import ContentStore
from cove.image.images import Image, Images
from cove.image.making import store_image
from cove.oci import digest as digests
from cove.oci.image import OCI_LAYER, ContainerConfig, Descriptor, ImageConfig, RootFS
from cove.paths import DataRoot


@pytest.fixture
def data(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path)


def make(images: Images, word: str, *names: str) -> Image:
    layer = word.encode() * 10
    blob = Descriptor(media_type=OCI_LAYER, digest=images.content.put(layer), size=len(layer))
    config = ImageConfig(
        architecture="amd64", os="linux", config=ContainerConfig(cmd=(word,)), rootfs=RootFS(diff_ids=(blob.digest,))
    )
    return store_image(images.content, images, config, [blob], names)


def test_a_blob_is_named_only_when_it_is_what_its_digest_says(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    right = digests.of(b"hello")
    assert content.ingest(io.BytesIO(b"hello"), expected=right, size=5) == right
    assert content.read(right) == b"hello"
    for expected, size in ((digests.of(b"other"), None), (digests.of(b"hell"), 4), (right, 6)):
        with pytest.raises(InvalidArgument):
            content.ingest([b"hel", b"lo"], expected=expected, size=size)
    assert list(content.digests()) == [right]
    assert not list((tmp_path / "ingest").iterdir())


def test_a_damaged_blob_is_set_aside(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    digest = content.put(b"precious")
    content.path(digest).write_bytes(b"flipped!")
    with pytest.raises(Exception, match="damaged"):
        content.read(digest)
    assert not content.has(digest)


def test_an_image_is_found_by_name_digest_and_short_id(data: DataRoot) -> None:
    images = Images(data)
    image = make(images, "one", "app", "example.org/app:2")
    for called in ("app", "app:latest", "docker.io/library/app", image.id, image.id[7:19], "example.org/app:2"):
        assert images.get(called).id == image.id
    assert images.get(f"app@{image.manifest.digest}").id == image.id
    assert image.names == ("app:latest", "example.org/app:2")
    with pytest.raises(NotFound, match="No such image: nope:latest"):
        images.get("nope")
    assert Images(data).get("app").id == image.id  # a new daemon sees the same


def test_a_name_that_moves_leaves_a_dangling_image(data: DataRoot) -> None:
    images = Images(data)
    old, new = make(images, "old", "app"), make(images, "new", "app")
    assert images.get("app").id == new.id
    assert images.get(old.id).names == ()
    assert images.prune() == [{"Deleted": old.id}, {"Deleted": old.chain_ids[0]}]
    assert [image.id for image in images.list()] == [new.id]


def test_deleting_goes_name_by_name_and_respects_containers(data: DataRoot) -> None:
    images = Images(data)
    image = make(images, "one", "app:1", "other:1")
    assert images.delete("other:1") == [{"Untagged": "other:1"}]
    running = {image.id: [("c" * 64, True)]}
    with pytest.raises(Conflict, match=r"cannot be forced\) - image is being used by running container cccccccccccc"):
        images.delete(image.id[7:19], force=True, in_use=running)
    with pytest.raises(Conflict, match=r"must force\) - container cccccccccccc is using its referenced image"):
        images.delete("app:1", in_use={image.id: [("c" * 64, False)]})
    with pytest.raises(Conflict, match=r"must force\) - container cccccccccccc is using its referenced image"):
        images.delete("app:1", in_use=running)
    assert images.delete("app:1", force=True, in_use=running) == [{"Untagged": "app:1"}]
    assert images.get(image.id).names == ()
    images.tag(image.id, "app:1")
    assert {"Deleted": image.id} in images.delete("app:1", force=True, in_use={image.id: [("c" * 64, False)]})
    assert images.list() == []


def test_index_and_manifest_are_oci_documents(data: DataRoot) -> None:
    images = Images(data)
    image = make(images, "one", "app")
    index = json.loads((data.image / "index.json").read_text())
    entry = index["manifests"][0]
    assert index["schemaVersion"] == 2
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "docker.io/library/app:latest"}
    assert json.loads(images.content.read(entry["digest"]))["config"]["digest"] == image.id
