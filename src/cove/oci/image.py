"""Image manifests, indexes and configurations as frozen values.

Sources: the OCI image-spec (descriptor.md, manifest.md, image-index.md, config.md) and Docker's
image manifest version 2, schema 2, with Docker's extensions of the configuration. The bytes an image
came in are its truth and its digest; these values are a view of them and are never written back, so
that fields unknown here survive.

A manifest is untrusted: `decode_manifest` refuses a document that one reader could take for an index
and another for a manifest (CVE-2021-41190), and every digest that could not be verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from cove.errors import InvalidArgument, Unsupported
from cove.oci import digest as digests
from cove.oci.platform import Platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
SCHEMA1_MANIFEST = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYERS = frozenset({OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD})

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation of a layout's index: the name of what the descriptor points at."""

ATTESTATION_TYPE = "vnd.docker.reference.type"
ATTESTATION_SUBJECT = "vnd.docker.reference.digest"
"""Annotations of an index's entry that is an attestation about another one (BuildKit's convention)."""

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 16 << 20
MAX_LAYERS = 500

T = TypeVar("T")


class _Camel(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of manifests' parts: JSON names as the image-spec's."""


class _Pascal(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True, kw_only=True):
    """Base of the configuration's "config" object: JSON names as Docker's."""


class Descriptor(_Camel, frozen=True, kw_only=True):
    """What a blob is called, how long it is and what it is."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str = ""
    artifact_type: str = ""
    platform: Platform | None = None


class Manifest(_Camel, frozen=True, kw_only=True):
    """One image for one platform."""

    schema_version: int = 2
    media_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(_Camel, frozen=True, kw_only=True):
    """Several manifests, as a rule one per platform; Docker calls it a manifest list."""

    schema_version: int = 2
    media_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Healthcheck(_Pascal, frozen=True, kw_only=True):
    """`test`: ("NONE",), ("CMD", …) or ("CMD-SHELL", line). Durations are nanoseconds, 0 means default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(_Pascal, frozen=True, kw_only=True):
    """How a container of the image runs unless told otherwise."""

    user: str = ""
    exposed_ports: dict[str, dict[str, Any]] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: dict[str, dict[str, Any]] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The digests of the layers' uncompressed archives, the lowest first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step of the image's making; `empty_layer` steps have no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image's configuration; the digest of its bytes is the image's id.

    `parent`: the id of the image whose container this one was committed from, as Docker's images have it.
    """

    parent: str = ""
    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""
    created: str = ""
    author: str = ""
    docker_version: str = ""
    comment: str = ""
    config: ContainerConfig = ContainerConfig()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        return Platform(
            os=self.os or "linux",
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )


def decode_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """The manifest or index in `raw`, sent as `media_type` ("" when nobody said).

    Raises InvalidArgument for what is neither, or both, and Unsupported for schema 1.
    """
    document = _document(raw, "manifest", MAX_MANIFEST)
    declared = document.get("mediaType", "")
    sent = media_type.partition(";")[0].strip()
    _refuse_schema1(document, sent)
    is_index, is_manifest = "manifests" in document, "config" in document or "layers" in document
    if is_index and is_manifest:
        raise InvalidArgument("invalid manifest: it is ambiguous, with the fields of both a manifest and an index")
    for kind in filter(None, (declared, sent if sent in MANIFESTS | INDEXES else "")):
        if (kind in INDEXES and is_manifest) or (kind in MANIFESTS and is_index):
            raise InvalidArgument(f"invalid manifest: it is called {kind} but has the fields of another type")
    if declared and sent in MANIFESTS | INDEXES and declared != sent:
        raise InvalidArgument(f"invalid manifest: it calls itself {declared} but was sent as {sent}")
    if is_index or declared in INDEXES:
        index = _convert(document, Index, "image index")
        _check_descriptors(index.manifests)
        return index
    manifest = _convert(document, Manifest, "image manifest")
    _check_descriptors((manifest.config, *manifest.layers))
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidArgument(
            f"invalid manifest: {len(manifest.layers)} layers are more than the {MAX_LAYERS} allowed"
        )
    return manifest


def decode_index(raw: bytes) -> Index:
    """The index in `raw`, e.g. a layout's index.json."""
    index = decode_manifest(raw)
    if not isinstance(index, Index):
        raise InvalidArgument("invalid image index: it is an image manifest")
    return index


def decode_config(raw: bytes) -> ImageConfig:
    """The image configuration in `raw`; null fields count as absent."""
    config = _convert(_document(raw, "image configuration", MAX_CONFIG), ImageConfig, "image configuration")
    for diff_id in config.rootfs.diff_ids:
        digests.check(diff_id)
    return config


def encode(value: Manifest | Index | ImageConfig) -> bytes:
    """The bytes of a document made here."""
    raw = msgspec.json.encode(value)
    if isinstance(value, ImageConfig):
        return raw
    # The version is required although it is the only one, but it equals the default that is left out.
    comma = b"" if raw == b"{}" else b","
    return b'{"schemaVersion":2' + comma + raw[1:] if value.schema_version == 2 else raw


def media_type_of(value: Manifest | Index) -> str:
    """What a document is called; one that does not say is OCI's."""
    return value.media_type or (OCI_INDEX if isinstance(value, Index) else OCI_MANIFEST)


def _document(raw: bytes, what: str, limit: int) -> dict[str, Any]:
    if len(raw) > limit:
        raise InvalidArgument(f"invalid {what}: {len(raw)} bytes are more than the {limit} allowed")
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid {what}: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"invalid {what}: it is not a JSON object")
    return {key: _without_nulls(value) for key, value in document.items() if value is not None}


def _without_nulls(value: Any) -> Any:
    """`value` without the null members that Go programs write for what is empty."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    return value


def _convert(document: dict[str, Any], kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid {what}: {error}") from error


def _check_descriptors(descriptors: tuple[Descriptor, ...]) -> None:
    for descriptor in descriptors:
        digests.check(descriptor.digest)
        if descriptor.size < 0:
            raise InvalidArgument(f"invalid manifest: {descriptor.digest} has the negative size {descriptor.size}")


def _refuse_schema1(document: dict[str, Any], sent: str) -> None:
    if sent in {SCHEMA1_MANIFEST, SCHEMA1_SIGNED} or document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise Unsupported(
            "the image has a Docker schema 1 manifest, a format without verifiable content that is no longer "
            "supported; push the image again with a newer tool"
        )
