"""Images: summaries, inspection, history, deletion."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.oci.platform import Platform
from cove.wire.base import Value
from cove.wire.containers import GraphDriver, HealthConfig
from cove.wire.descriptors import Descriptor
from cove.wire.ports import PortSet


class ImageConfig(Value, frozen=True, kw_only=True, omit_defaults=True):
    """The defaults that an image gives its containers: only those that it gives."""

    user: str = ""
    exposed_ports: PortSet | UnsetType = UNSET
    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: HealthConfig | UnsetType = UNSET
    args_escaped: bool | UnsetType = UNSET
    volumes: PortSet | None = None
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | UnsetType = UNSET
    shell: tuple[str, ...] | UnsetType = UNSET


class OlderImageConfig(ImageConfig, frozen=True, kw_only=True, omit_defaults=False):
    """The same before API 1.52, which tells most of what is empty too."""


class OldestImageConfig(OlderImageConfig, frozen=True, kw_only=True, omit_defaults=False):
    """The same before API 1.50, with what only a container has."""

    hostname: str = ""
    domainname: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    image: str = ""


class RootFS(Value, frozen=True, kw_only=True):
    type: str = "layers"
    layers: tuple[str, ...] = ()


class ImageMetadata(Value, frozen=True, kw_only=True):
    last_tag_time: str = "0001-01-01T00:00:00Z"


class ManifestSize(Value, frozen=True, kw_only=True):
    content: int = 0
    total: int = 0


class UnpackedSize(Value, frozen=True, kw_only=True):
    unpacked: int = 0


class ImageData(Value, frozen=True, kw_only=True):
    platform: Platform
    containers: tuple[str, ...] = ()
    size: UnpackedSize = UnpackedSize()


class AttestationData(Value, frozen=True, kw_only=True):
    """`for_`: the digest of the manifest that the attestation is about."""

    for_: str = msgspec.field(name="For")


class ManifestSummary(Value, frozen=True, kw_only=True):
    """One of an image's manifests; `available` when all of it is in the store."""

    id: str = msgspec.field(name="ID")
    descriptor: Descriptor
    available: bool
    size: ManifestSize
    kind: str
    image_data: ImageData | UnsetType = UNSET
    attestation_data: AttestationData | UnsetType = UNSET


class ImageInspect(Value, frozen=True, kw_only=True):
    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    parent: str | UnsetType = UNSET
    comment: str | UnsetType = UNSET
    created: str = ""
    docker_version: str | UnsetType = UNSET
    author: str | UnsetType = UNSET
    config: ImageConfig
    container_config: ImageConfig | UnsetType = UNSET
    architecture: str
    variant: str | UnsetType = UNSET
    os: str
    os_version: str | UnsetType = UNSET
    size: int
    virtual_size: int | UnsetType = UNSET
    graph_driver: GraphDriver = GraphDriver()
    root_fs: RootFS = msgspec.field(name="RootFS", default=RootFS())
    metadata: ImageMetadata = ImageMetadata()
    descriptor: Descriptor | UnsetType = UNSET
    manifests: tuple[ManifestSummary, ...] | UnsetType = UNSET


class DistributionInspect(Value, frozen=True, kw_only=True):
    """What a name stands for at its registry."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...] = ()


class ImageSummary(Value, frozen=True, kw_only=True):
    """`created` in Unix seconds; -1 for sizes and counts that were not computed."""

    id: str
    parent_id: str = ""
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    created: int
    size: int
    shared_size: int = -1
    virtual_size: int | UnsetType = UNSET
    labels: dict[str, str] | None = None
    containers: int = -1
    descriptor: Descriptor | UnsetType = UNSET
    manifests: tuple[ManifestSummary, ...] | UnsetType = UNSET


class AttestationStatement(Value, frozen=True, kw_only=True):
    """An in-toto statement about an image; `statement` is its text as it lies there."""

    descriptor: Descriptor
    predicate_type: str
    statement: msgspec.Raw | UnsetType = UNSET


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that a search found; registries' catalogues tell nothing but its name."""

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class ImageHistoryItem(Value, frozen=True, kw_only=True):
    """`id` is "<missing>" for layers without an image of their own."""

    id: str = "<missing>"
    created: int = 0
    created_by: str = ""
    tags: tuple[str, ...] | None = None
    size: int = 0
    comment: str = ""


class ImageDeleteItem(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one of the two."""

    untagged: str = ""
    deleted: str = ""


class ImagePruneResponse(Value, frozen=True, kw_only=True):
    images_deleted: tuple[ImageDeleteItem, ...] | None = None
    space_reclaimed: int = 0


class RegistryAuth(msgspec.Struct, frozen=True, kw_only=True, rename="lower"):
    """Credentials for one registry: the header X-Registry-Auth (base64url JSON), or POST /auth."""

    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class BootstrapRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Cove's own: make a base image out of the distribution's packages."""

    name: str
    suite: str = ""
    include: tuple[str, ...] = ()
    variant: str = "minbase"
    mirror: str = ""


class ManifestCreateRequest(Value, frozen=True, kw_only=True):
    """Cove's own: several images under one name. `amend` adds to those that the name stands for already."""

    images: tuple[str, ...] = ()
    amend: bool = False


class ManifestAnnotateRequest(Value, frozen=True, kw_only=True):
    """Cove's own: what an index says of one of its images; what is empty stays as it is."""

    image: str
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    annotations: dict[str, str] = {}


class VerifyRequest(Value, frozen=True, kw_only=True):
    """Cove's own: public keys in PEM form; none means those of the policy."""

    keys: tuple[str, ...] = ()


class SignatureFound(Value, frozen=True, kw_only=True):
    """A signature that holds: of which digest, by which key (its SHA-256), and what the signer called the image."""

    digest: str
    key: str
    identity: str


class Attachment(Value, frozen=True, kw_only=True):
    """A manifest that says something about an image."""

    digest: str
    artifact_type: str
    subject: str
    size: int
