"""Images as clients see them: pure functions from the store's values to the API's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cove.errors import InvalidArgument
from cove.image.images import Image
from cove.image.variants import Offer, attested
from cove.oci import image as oci
from cove.oci.platform import Platform
from cove.wire import images as wire
from cove.wire.containers import ContainerConfig, HealthConfig
from cove.wire.descriptors import Descriptor
from cove.wire.times import moment


def unix_seconds(text: str) -> int:
    """An image's RFC 3339 time; 0 when it has none."""
    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()) if text else 0
    except ValueError:
        return 0


def created_ns(text: str) -> int:
    """An image's RFC 3339 time in nanoseconds of Unix time; 0 when it has none."""
    try:
        return moment(text, now_ns=0) if text else 0
    except InvalidArgument:
        return 0


def summary(
    image: Image, *, containers: int = -1, shared: int = -1, manifests: Sequence[wire.ManifestSummary] | None = None
) -> wire.ImageSummary:
    return wire.ImageSummary(
        id=image.id,
        repo_tags=image.names,
        repo_digests=image.repo_digests,
        created=unix_seconds(image.created),
        size=image.size,
        labels=image.config.config.labels or None,
        containers=containers,
        shared_size=shared,
        descriptor=descriptor(image.target),
        manifests=msgspec.UNSET if manifests is None else tuple(manifests),
    )


def inspection(image: Image, manifests: Sequence[wire.ManifestSummary] | None = None) -> wire.ImageInspect:
    config = image.config
    return wire.ImageInspect(
        id=image.id,
        repo_tags=image.names,
        repo_digests=image.repo_digests,
        comment=(config.history[-1].comment if config.history else "") or msgspec.UNSET,
        created=image.created,
        docker_version=config.docker_version or msgspec.UNSET,
        author=config.author or msgspec.UNSET,
        config=_config(config.config),
        architecture=config.architecture,
        variant=config.variant or msgspec.UNSET,
        os=config.os or "linux",
        os_version=config.os_version or msgspec.UNSET,
        size=image.size,
        root_fs=wire.RootFS(layers=config.rootfs.diff_ids),
        descriptor=descriptor(image.target),
        manifests=msgspec.UNSET if manifests is None else tuple(manifests),
    )


def descriptor(found: oci.Descriptor) -> Descriptor:
    return Descriptor(
        media_type=found.media_type,
        digest=found.digest,
        size=found.size,
        annotations=found.annotations or msgspec.UNSET,
        platform=found.platform or msgspec.UNSET,
    )


def manifest(offer: Offer, *, unpacked: int, containers: Sequence[str]) -> wire.ManifestSummary:
    """One manifest of an image: what it is for, whether it is here, its layers' bytes on disk, and its users."""
    content = sum(blob.size for blob in offer.blobs)
    image: wire.ImageData | msgspec.UnsetType = msgspec.UNSET
    attestation: wire.AttestationData | msgspec.UnsetType = msgspec.UNSET
    if offer.kind == "image":
        image = wire.ImageData(
            platform=offer.platform or Platform(),
            containers=tuple(containers),
            size=wire.UnpackedSize(unpacked=unpacked),
        )
    elif offer.kind == "attestation":
        attestation = wire.AttestationData(for_=attested(offer.descriptor))
    return wire.ManifestSummary(
        id=offer.descriptor.digest,
        descriptor=descriptor(offer.descriptor),
        available=bool(offer.blobs),
        size=wire.ManifestSize(content=content, total=content + unpacked),
        kind=offer.kind if offer.kind in {"image", "attestation"} else "unknown",
        image_data=image,
        attestation_data=attestation,
    )


def _config(config: oci.ContainerConfig) -> wire.ImageConfig:
    health = config.healthcheck
    return wire.ImageConfig(
        user=config.user,
        exposed_ports={key: {} for key in config.exposed_ports} if config.exposed_ports else msgspec.UNSET,
        env=config.env or None,
        cmd=config.cmd or None,
        healthcheck=msgspec.convert(health, HealthConfig, from_attributes=True) if health else msgspec.UNSET,
        volumes={key: {} for key in config.volumes} or None,
        working_dir=config.working_dir,
        entrypoint=config.entrypoint or None,
        on_build=config.on_build or None,
        labels=config.labels or None,
        stop_signal=config.stop_signal or msgspec.UNSET,
        shell=config.shell or msgspec.UNSET,
    )


def defaults(config: ContainerConfig) -> oci.ContainerConfig:
    """A container's configuration as the defaults of an image made of it."""
    health = config.healthcheck
    return oci.ContainerConfig(
        user=config.user,
        exposed_ports={key: {} for key in config.exposed_ports},
        env=config.env,
        entrypoint=config.entrypoint or (),
        cmd=config.cmd or (),
        volumes={key: {} for key in config.volumes or ()},
        working_dir=config.working_dir,
        labels=config.labels,
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout,
        healthcheck=msgspec.convert(health, oci.Healthcheck, from_attributes=True) if health else None,
        on_build=config.on_build or (),
        shell=config.shell or (),
    )
