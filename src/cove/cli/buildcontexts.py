"""`--build-context NAME=VALUE`: directories and OCI layouts are sent, the daemon finds everything else."""

from __future__ import annotations

import json
import os

from cove.cli import context
from cove.cli.flags import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cove.client.client import Client

_LAYOUT = "oci-layout://"
_ELSEWHERE = ("docker-image://", "http://", "https://", "git://", "ssh://", "git@")
_NAME = "org.opencontainers.image.ref.name"


def given(client: Client, texts: Iterable[str]) -> dict[str, str]:
    """The contexts by name, as the daemon takes them."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise UsageError(f"--build-context {text} must have the form NAME=DIRECTORY, NAME=URL or NAME=TYPE://…")
        if value.startswith(_LAYOUT):
            found[name] = f"docker-image://{_loaded(client, name, value.removeprefix(_LAYOUT))}"
        elif value.startswith(_ELSEWHERE):
            found[name] = value
        elif os.path.isdir(value):
            found[name] = client.builds.send(context.of_files(value))
        else:
            raise UsageError(f"--build-context {text}: there is no directory {value}")
    return found


def _loaded(client: Client, name: str, place: str) -> str:
    """The id of the image that a layout has, once the daemon has it; `place` is DIRECTORY[:TAG][@DIGEST]."""
    directory, _, digest = place.partition("@")
    tag = ""
    if not os.path.isdir(directory):
        directory, _, tag = directory.rpartition(":")
    try:
        with open(os.path.join(directory, "index.json"), encoding="utf-8") as file:
            index = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"the build context {name}: {directory or place} is no OCI layout: {error}") from error
    chosen = [each for each in index.get("manifests", []) if _fits(each, tag, digest)]
    if len(chosen) != 1:
        raise UsageError(
            f"the build context {name}: {directory} has {len(chosen)} images of that name; name one: "
            f"{_LAYOUT}DIRECTORY:TAG or {_LAYOUT}DIRECTORY@DIGEST"
        )
    only = {**index, "manifests": [{key: value for key, value in chosen[0].items() if key != "annotations"}]}
    archive = context.of_layout(directory, json.dumps(only).encode())
    for message in client.images.load(archive, quiet=True):
        words = str(message.get("stream", "")).split()
        if words[:2] == ["Loaded", "image"]:
            return words[-1]
    raise UsageError(f"the build context {name}: the daemon found no image in {directory}")


def _fits(manifest: dict[str, Any], tag: str, digest: str) -> bool:
    named = (manifest.get("annotations") or {}).get(_NAME, "")
    return (not digest or manifest.get("digest") == digest) and (not tag or named in (tag, f":{tag}"))
