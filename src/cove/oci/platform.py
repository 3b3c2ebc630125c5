"""Platforms: what an image was built for, what this host runs, and which of several fits best.

Names are Go's (GOOS, GOARCH), as in the OCI image-spec; the kernel's and Debian's own spellings are
understood and normalised. A 64-bit processor also runs its family's 32-bit programs, and a newer one
those of older variants: `preference` ranks them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from cove.errors import InvalidArgument

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "ppc64el": ("ppc64le", ""),
    "mips64el": ("mips64le", ""),
    "loongarch64": ("loong64", ""),
}
_KNOWN_ARCHITECTURES = frozenset(
    "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split()
)
_KNOWN_SYSTEMS = frozenset(
    "aix android darwin freebsd illumos linux netbsd openbsd plan9 solaris wasip1 windows".split()
)
_BASELINE = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)

T = TypeVar("T")


class Platform(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An operating system on a processor; equal platforms compare equal once normalised."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """ "linux/arm64/v8", "linux/amd64", or one of the two parts alone; InvalidArgument otherwise."""
        parts = text.split("/")
        if len(parts) > 3 or any(_COMPONENT.fullmatch(part) is None for part in parts):
            raise InvalidArgument(
                f"{text!r} is an invalid platform specifier: write os/architecture or os/architecture/variant"
            )
        if len(parts) > 1:
            return cls(os=parts[0], architecture=parts[1], variant="".join(parts[2:])).normalised()
        lower = text.lower()
        if lower in _KNOWN_SYSTEMS or lower == "macos":
            return msgspec.structs.replace(host_platform(), os=lower).normalised()
        if lower in _KNOWN_ARCHITECTURES or lower in _ARCHITECTURES:
            return cls(os="linux", architecture=lower).normalised()
        raise InvalidArgument(
            f"{text!r} is an invalid platform specifier: unknown operating system or architecture: invalid argument"
        )

    def normalised(self) -> Platform:
        """The same platform in the one spelling that is compared; a family's baseline variant is ""."""
        system = self.os.lower()
        architecture, implied = _ARCHITECTURES.get(self.architecture.lower(), (self.architecture.lower(), ""))
        variant = self.variant.lower() or implied
        if variant.isdigit():
            variant = f"v{variant}"
        if variant == _BASELINE.get(architecture) and architecture != "arm":
            variant = ""
        if architecture == "arm" and not variant:
            variant = "v7"
        return msgspec.structs.replace(
            self, os="darwin" if system == "macos" else system, architecture=architecture, variant=variant
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def host_platform() -> Platform:
    """The platform of this kernel."""
    return Platform(os=sys.platform, architecture=os.uname().machine).normalised()


def preference(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` runs on `wanted`: 0 is exact, more is worse, None does not run."""
    want, have = wanted.normalised(), offered.normalised()
    if want.os != have.os or (want.os_version and have.os_version and want.os_version != have.os_version):
        return None
    for rank, (architecture, variant) in enumerate(_runs(want)):
        if (have.architecture, have.variant) == (architecture, variant):
            return rank
    return None


def best(wanted: Platform, offers: Iterable[tuple[Platform, T]]) -> T | None:
    """The offer that fits `wanted` best; of equal ones the first; None when none runs."""
    ranked = [(rank, offer) for platform, offer in offers if (rank := preference(wanted, platform)) is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _runs(platform: Platform) -> list[tuple[str, str]]:
    """What a processor runs, its own kind first, then older variants, then the 32-bit family."""
    own = (platform.architecture, platform.variant)
    level = int(platform.variant[1:]) if re.fullmatch(r"v[0-9]", platform.variant) else 0
    if platform.architecture == "amd64":
        return [own, *(("amd64", f"v{n}" if n > 1 else "") for n in range(level - 1, 0, -1)), ("386", "")]
    if platform.architecture == "arm64":
        older = [("arm64", f"v{n}" if n > 8 else "") for n in range(level - 1, 7, -1)]
        return [own, *older, *(("arm", f"v{n}") for n in (8, 7, 6, 5))]
    if platform.architecture == "arm":
        return [own, *(("arm", f"v{n}") for n in range(level - 1, 4, -1))]
    return [own]
