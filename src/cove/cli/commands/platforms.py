"""`cove image inspect --platforms`: for which systems and processors an image exists."""

from __future__ import annotations

from cove.cli import credentials, humanize, output, reference
from cove.cli.flags import Call
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cove.client import Client

_COLUMNS = (("Platform", "PLATFORM"), ("Here", "HERE"), ("Size", "SIZE"), ("Digest", "DIGEST"))
_HEADINGS = {"Name": "NAME", "Kind": "KIND"}


def platforms(call: Call) -> int:
    """One row for each variant; an image that is not here is asked about at its registry."""
    client = connect(call.host)
    rows = [row for name in call.arguments for row in _rows(client, name)]
    output.show(rows, _COLUMNS, call.text("format"), headings=_HEADINGS)
    return 0


def _rows(client: Client, name: str) -> Iterable[dict[str, Any]]:
    try:
        found = client.images.inspect(name, manifests=True)
    except ApiError as error:
        if error.status != 404:
            raise
        auth = credentials.header(reference.registry(name))
        try:
            there = client.images.at_registry(name, auth=auth)
        except ApiError:
            raise error from None
        for platform in there.get("Platforms") or ():
            yield _row(name, _text(platform), "no", "N/A", "N/A", "image")
        return
    for manifest in found.get("Manifests") or ():
        image = manifest.get("ImageData") or {}
        about = (manifest.get("AttestationData") or {}).get("For", "")
        shown = (
            _text(image.get("Platform") or {}) if image else f"({manifest['Kind']}{about and ' of ' + about[:19]})"
        )
        here = manifest.get("Available")
        size = humanize.size(manifest["Size"]["Content"]) if here else "N/A"
        yield _row(name, shown, "yes" if here else "no", size, manifest["ID"], manifest["Kind"])


def _row(name: str, platform: str, here: str, size: str, digest: str, kind: str) -> dict[str, Any]:
    return {"Name": name, "Platform": platform, "Here": here, "Size": size, "Digest": digest, "Kind": kind}


def _text(platform: dict[str, Any]) -> str:
    parts = [str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key)]
    version = platform.get("os.version")
    return "/".join(parts) + (f" ({version})" if version else "")
