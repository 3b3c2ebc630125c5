"""What is written beside an image without being of it: annotations of its manifests, its index, their descriptors.

    annotation.KEY · annotation-manifest[PLATFORM].KEY · annotation-manifest-descriptor.KEY · annotation-index.KEY

Pure. Source: docs/annotations.md of moby/buildkit, for the spelling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cove.errors import InvalidArgument, Unsupported
from cove.oci.platform import Platform

_KEY = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)")
_ALL = ""


@dataclass(frozen=True, slots=True)
class Annotations:
    """By document; those of manifests by platform, "" for every one."""

    index: Mapping[str, str] = field(default_factory=dict)
    manifest: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    descriptor: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of_manifest(self, platform: Platform) -> dict[str, str]:
        """Those within the manifest for a platform."""
        return _for(self.manifest, platform)

    def of_descriptor(self, platform: Platform) -> dict[str, str]:
        """Those that the index has of the manifest for a platform."""
        return _for(self.descriptor, platform)

    def check(self, *, indexed: bool) -> None:
        """Whether the result, an index or a single manifest, has a place for them. Raises InvalidArgument."""
        if not indexed and (self.index or self.descriptor):
            raise InvalidArgument(
                "index annotations not supported for single platform export: one manifest has no index that they "
                "could be in; build for several platforms or with --provenance=true"
            )


def read_annotations(attributes: Mapping[str, str]) -> Annotations:
    """Those among an output's options. Raises InvalidArgument or Unsupported."""
    found: dict[str, dict[str, dict[str, str]]] = {"index": {}, "manifest": {}, "manifest-descriptor": {}}
    for name, value in attributes.items():
        match = _KEY.fullmatch(name)
        if match is None:
            continue
        kind, platform, key = match[1] or "manifest", match[2] or _ALL, match[3]
        if kind == "index-descriptor":
            raise Unsupported(f"the annotation {name} cannot be kept: nothing here points at an index but its names")
        if kind not in found:
            raise InvalidArgument(f"unrecognized annotation type {kind}")
        place = str(Platform.parse(platform)) if platform else _ALL
        found[kind].setdefault(place, {})[key] = value
    index = {key: value for each in found["index"].values() for key, value in each.items()}
    return Annotations(index, found["manifest"], found["manifest-descriptor"])


def is_annotation(name: str) -> bool:
    """Whether an output's option is an annotation."""
    return _KEY.fullmatch(name) is not None


def _for(by_platform: Mapping[str, Mapping[str, str]], platform: Platform) -> dict[str, str]:
    return {**by_platform.get(_ALL, {}), **by_platform.get(str(platform), {})}
