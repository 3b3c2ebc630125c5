"""What a plan is made for, and what it needs to be told of the world; frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cove.build.dockerfile.devices import Device
from cove.oci.image import ImageConfig
from cove.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Base:
    """An image that a FROM or a COPY --from names, as it was found."""

    reference: str
    digest: str
    chain: str
    config: ImageConfig
    raw_config: bytes = b""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's choices. `contexts` are named contexts: NAME to "image:REF" or "tree".

    `every_stage`: those that the target does not need are looked at too. `moment`: what the main context's source
    tells of its time.
    """

    target: str = ""
    every_stage: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: Platform = Platform(os="linux", architecture="amd64")  # noqa: RUF009 - frozen
    build_platform: Platform = Platform(os="linux", architecture="amd64")  # noqa: RUF009 - frozen
    no_cache: bool = False
    no_cache_filter: frozenset[str] = frozenset()
    epoch: int | None = None
    moment: int | None = None
    network: str = ""
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""
    shm_size: int = 0
    entitlements: frozenset[str] = frozenset()
    devices: tuple[Device, ...] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    place: str = ""


class Missing(Exception):
    """The plan needs these images first: (reference, platform), each with the line that asks for it."""

    def __init__(self, images: Mapping[tuple[str, str], int]) -> None:
        super().__init__("images are missing")
        self.images = images


PROXIES = tuple(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Arguments that every RUN may use without an ARG; they are no part of a key or a history."""


UNLISTED = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
"""Arguments for builders that nobody needs to declare."""


def platform_arguments(options: Options, last_stage: str) -> dict[str, str]:
    """The arguments that are always there in FROM, and in a stage after `ARG NAME`."""
    target, build = options.platform, options.build_platform
    return {
        "TARGETPLATFORM": str(target),
        "TARGETOS": target.os,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETOSVERSION": "",
        "TARGETSTAGE": options.target or last_stage or "default",
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "BUILDOSVERSION": "",
    }
