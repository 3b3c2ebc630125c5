"""Images made for another system or processor than this host's: what can be done with them, in words."""

from __future__ import annotations

from cove.errors import Unsupported
from cove.oci.platform import Platform, host_platform, preference

_KERNELS = {"windows": "a Windows kernel", "freebsd": "a FreeBSD kernel", "darwin": "macOS"}


def refuse_other_system(name: str, platform: Platform) -> None:
    """Unsupported for an image whose programs speak to another kernel than Linux."""
    if platform.os in {"", "linux"}:
        return
    needed = _KERNELS.get(platform.os, f"a {platform.os} kernel")
    raise Unsupported(
        f"{name} is an image for {platform}, which needs {needed}: containers share the kernel of their host, and "
        f"this one runs Linux; choose a Linux variant (`cove image inspect --platforms {name}` lists them) or run "
        f"it on such a host"
    )


def warnings(platform: Platform, *, asked: bool) -> tuple[str, ...]:
    """What a client should be told of an image for another processor, unless it asked for that."""
    host = host_platform()
    if asked or preference(host, platform) is not None:
        return ()
    return (
        f"The requested image's platform ({platform}) does not match the detected host platform ({host}) and no "
        f"specific platform was requested",
    )
