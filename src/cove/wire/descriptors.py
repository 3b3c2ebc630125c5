"""What a manifest or another blob is: its type, digest and size, and the platform it is for."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.oci.platform import Platform


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | UnsetType = UNSET
    platform: Platform | UnsetType = UNSET
