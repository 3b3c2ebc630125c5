"""What the tests of images' travels share: a store in memory, made-up images, and a real registry."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cove.errors import InvalidArgument, NotFound
from cove.image.arrival import Arrival, arriving
from cove.image.images import Image
from cove.image.variants import Variants
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor
from cove.oci.platform import Platform
from cove.oci.reference import Reference
from tests.conftest import eventually, free_port


class _NotAhead:
    """Nothing is unpacked before it is asked for."""

    def __enter__(self) -> _NotAhead:
        return self

    def __exit__(self, *_: object) -> None: ...

    def watch(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        return iter(stream)

    def finish(self) -> None: ...

    def adopt(self, diff_id: str, chain_id: str, parent: str) -> bool:
        return False


@dataclass
class World:
    """Content store, images and unpacker in one, in memory."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    unpacked: list[str] = field(default_factory=list)
    partial: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def has(self, digest: str) -> bool:
        return digest in self.blobs

    def exists(self, digest: str) -> bool:
        return digest in self.blobs

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self.blobs[digest])

    @contextlib.contextmanager
    def keeping(self) -> Iterator[set[str]]:
        yield set()

    def read(self, digest: str) -> bytes:
        return self.blobs[digest]

    def size(self, digest: str) -> int:
        return len(self.blobs[digest])

    def put(self, data: bytes) -> str:
        self.blobs[digests.of(data)] = data
        return digests.of(data)

    def mark(self, digest: str) -> float:
        return 0.0

    def abandon(self, marks: Mapping[str, float]) -> None:
        for digest in marks:
            self.blobs.pop(digest, None)

    def ingest(self, stream: Iterable[bytes], *, expected: str | None, size: int | None) -> str:
        data = b"".join(stream)
        if (expected and not digests.matches(data, expected)) or size not in {None, len(data)}:
            raise InvalidArgument("digest or size differ")
        name = expected or digests.of(data)
        self.blobs[name] = data
        return name

    @contextlib.contextmanager
    def arrival(self, digest: str, size: int) -> Iterator[Arrival]:
        with tempfile.TemporaryDirectory() as directory:
            named = Path(directory) / "named"
            with arriving(Path(self.partial.name), digest, size, named) as arrival:
                yield arrival
            if named.exists():
                self.blobs[digest] = named.read_bytes()

    @contextlib.contextmanager
    def arriving(self, diff_id: str, chain_id: str, parent: str) -> Iterator[Any]:
        yield _Arriving(self, diff_id, chain_id)

    def ahead(self) -> _NotAhead:
        return _NotAhead()

    def is_unpacked(self, chain_id: str) -> bool:
        return chain_id in self.unpacked

    def unpack(self, blob: Descriptor, diff_id: str, chain_id: str, parent: str) -> None:
        self.unpack_bytes(self.blobs[blob.digest], diff_id, chain_id)

    def unpack_bytes(self, data: bytes, diff_id: str, chain_id: str) -> None:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if digests.of(data) != diff_id:
            raise InvalidArgument(f"the layer is not {diff_id}")
        self.unpacked.append(chain_id)

    def register(self, manifest_digest: str, names: Iterable[str], *, whole: Collection[str] = ()) -> Image:
        for name in names:
            self.named[name] = manifest_digest
        return self._stored(manifest_digest)

    def get(self, name_or_id: str, platform: Platform | None = None) -> Image:
        for digest in set(self.named.values()):
            if self._stored(digest).id.startswith(name_or_id):
                return self._stored(digest)
        full = Reference.parse(name_or_id).full
        if full not in self.named:
            raise NotFound(f"No such image: {name_or_id}")
        return self._stored(self.named[full], platform)

    def list(self) -> list[Image]:
        return [self._stored(digest) for digest in sorted(set(self.named.values()))]

    def _stored(self, digest: str, platform: Platform | None = None) -> Image:
        target = Variants(self).target(digest)
        variant = target.on(platform) if platform else target.default()
        if variant is None:
            raise NotFound(f"not for {platform}")
        refs = [Reference.parse(name) for name, at in self.named.items() if at == digest]
        return Image(
            id=variant.id,
            target=target.descriptor,
            offers=target.offers,
            manifest=variant.manifest,
            config=variant.config,
            raw_config=variant.raw_config,
            layers=variant.layers,
            chain_ids=variant.chain_ids,
            names=tuple(ref.familiar for ref in refs if ref.tag),
            repo_digests=tuple(ref.familiar for ref in refs if ref.digest),
            created="",
            size=0,
        )


@dataclass
class _Arriving:
    world: World
    diff_id: str
    chain_id: str
    data: bytes = b""

    def feed(self, piece: bytes) -> None:
        self.data += piece

    def finish(self) -> None:
        self.world.unpack_bytes(self.data, self.diff_id, self.chain_id)


def layer_tar(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_image(world: World, name: str, contents: Iterable[bytes], **platform: str) -> str:
    """An image of one file per layer in `world`; its manifest's digest."""
    tars = [layer_tar(f"file{n}", content) for n, content in enumerate(contents)]
    zipped = [gzip.compress(data, 1, mtime=0) for data in tars]
    config = {
        "os": "linux",
        "architecture": "amd64",
        **platform,
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digests.of(data) for data in tars]},
    }
    raw_config = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": image.OCI_MANIFEST,
        "config": descriptor(image.OCI_CONFIG, raw_config),
        "layers": [descriptor(image.OCI_LAYER_GZIP, data) for data in zipped],
    }
    for blob in (raw_config, *zipped):
        world.put(blob)
    digest = world.put(json.dumps(manifest).encode())
    if name:
        world.register(digest, [Reference.parse(name).full])
    return digest


def make_index(world: World, name: str, offers: dict[str, bytes]) -> str:
    """An image with a variant of one small layer for each platform, and an attestation about the first one."""
    manifests = []
    for platform, content in offers.items():
        system, architecture = platform.split("/")
        digest = make_image(world, "", [content], os=system, architecture=architecture)
        version = {"os.version": "10.0.20348"} if system == "windows" else {}
        about = {"os": system, "architecture": architecture, **version}
        manifests.append(descriptor(image.OCI_MANIFEST, world.blobs[digest], platform=about))
    statement = _make_statement(world)
    notes = {image.ATTESTATION_TYPE: "attestation-manifest", image.ATTESTATION_SUBJECT: manifests[0]["digest"]}
    unknown = {"os": "unknown", "architecture": "unknown"}
    manifests.append(descriptor(image.OCI_MANIFEST, statement, platform=unknown, annotations=notes))
    index = {"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": manifests}
    digest = world.put(json.dumps(index).encode())
    world.register(digest, [Reference.parse(name).full])
    return digest


STATEMENT = b'{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2"}'


def _make_statement(world: World) -> bytes:
    """The manifest of an in-toto statement, as BuildKit makes it."""
    config = json.dumps({"os": "unknown", "architecture": "unknown", "rootfs": {"type": "layers", "diff_ids": []}})
    kind = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": image.OCI_MANIFEST,
        "config": descriptor(image.OCI_CONFIG, config.encode()),
        "layers": [descriptor("application/vnd.in-toto+json", STATEMENT, annotations=kind)],
    }
    for blob in (config.encode(), STATEMENT):
        world.put(blob)
    return world.blobs[world.put(json.dumps(manifest).encode())]


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digests.of(data), "size": len(data), **more}


@contextlib.contextmanager
def real_registry(directory: Path, password: str = "") -> Iterator[str]:
    """Debian's docker-registry on a loopback port; its "host:port"."""
    port = free_port()
    lines = [
        "version: 0.1",
        "log: {level: error}",
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '127.0.0.1:{port}'}}",
    ]
    if password:
        (directory / "htpasswd").write_text(password)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}")
    (directory / "config.yml").write_text("\n".join(lines))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(directory / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        assert eventually(lambda: process.poll() is None and _listens(port)), "the registry does not answer"
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return hashlib.shake_128(str(seed).encode()).digest(size)
