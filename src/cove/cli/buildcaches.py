"""`--cache-to` and `--cache-from`: places as the daemon takes them, and directories, which are this machine's own.

    type=inline · type=registry,ref=NAME[,mode=max] · type=local,dest|src=DIRECTORY[,tag=…] · NAME, an image's

A directory is an OCI image layout: its index names the cache by a tag, as that of `docker buildx` does.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile

from cove.cli import context
from cove.cli.flags import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cove.client.client import Client

    Place = dict[str, str]

_NAME = "org.opencontainers.image.ref.name"
_INDEX = "application/vnd.oci.image.index.v1+json"
_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'


def _place(text: str) -> Place:
    if "=" not in text:
        return {"type": "registry", "ref": text}
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    return {"type": "registry", **fields}


def targets(texts: Iterable[str]) -> list[Place]:
    """Where the steps go, as the daemon takes it."""
    found = [_place(text) for text in texts]
    for place in found:
        if place["type"] == "local" and "dest" not in place:
            raise UsageError("--cache-to type=local needs dest=DIRECTORY")
    return found


def sources(client: Client, texts: Iterable[str]) -> list[Place]:
    """Where the steps come from, as the daemon takes it; directories are sent."""
    found = []
    for text in texts:
        place = _place(text)
        if place["type"] == "local":
            if "src" not in place:
                raise UsageError("--cache-from type=local needs src=DIRECTORY")
            sent = _sent(client, place)
            place = {"type": "local", "src": sent} if sent else {}
        found += [place] if place else []
    return found


def _sent(client: Client, place: Place) -> str:
    """What the daemon calls a directory's cache; "" for one without any."""
    directory, tag = place["src"], place.get("tag", "latest")
    wanted = place.get("digest", "")
    for entry in _listed(directory):
        if wanted == entry.get("digest") if wanted else (entry.get("annotations") or {}).get(_NAME) == tag:
            only = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
            return client.builds.send_cache(context.of_layout(directory, json.dumps(only).encode()))
    print(f"cove: there is no cache {wanted or tag} in {directory} yet", file=sys.stderr)
    return ""


def _listed(directory: str) -> list[dict[str, Any]]:
    try:
        with open(os.path.join(directory, "index.json"), encoding="utf-8") as file:
            return list(json.load(file).get("manifests") or ())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"the cache in {directory} cannot be read: {error}") from error


def store(client: Client, told: Iterable[dict[str, Any]], places: Iterable[Place]) -> None:
    """Write what the daemon has for directories into them."""
    tags = {place["dest"]: place.get("tag", "latest") for place in places if place["type"] == "local"}
    for message in told:
        if "Cache" in message:
            where = message["Cache"]["Place"]
            _write(client.builds.fetch_cache(message["Cache"]["Id"]).chunks(), where, tags.get(where, "latest"))


def _write(pieces: Iterable[bytes], directory: str, tag: str) -> None:
    """Blobs first, then the index that names them, at once."""
    os.makedirs(os.path.join(directory, "blobs", "sha256"), exist_ok=True)
    fresh: dict[str, Any] = {}
    with tarfile.open(fileobj=_Pieces(pieces), mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            source = archive.extractfile(member)
            if source is None:
                continue
            if member.name == "index.json":
                fresh = json.load(source)["manifests"][0]
            elif member.name.startswith("blobs/sha256/"):
                path = os.path.join(directory, "blobs", "sha256", os.path.basename(member.name))
                _put(path, iter(lambda: source.read(1 << 18), b""))  # noqa: B023 - used at once
    fresh["annotations"] = {**(fresh.get("annotations") or {}), _NAME: tag}
    others = [each for each in _listed(directory) if (each.get("annotations") or {}).get(_NAME) != tag]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [*others, fresh]}
    _put(os.path.join(directory, "oci-layout"), [_LAYOUT.encode()])
    _put(os.path.join(directory, "index.json"), [json.dumps(index).encode()])


def _put(path: str, pieces: Iterable[bytes]) -> None:
    from cove.cli.files import open_output

    with open_output(path) as file:
        for piece in pieces:
            file.write(piece)


class _Pieces:
    """A reply in pieces, as something to read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = b""

    def read(self, size: int) -> bytes:
        while len(self._left) < size and (piece := next(self._pieces, b"")):
            self._left += piece
        data, self._left = self._left[:size], self._left[size:]
        return data
