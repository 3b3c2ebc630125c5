"""Where results go: Cove's images, or the client, as an archive or as files.

image, moby ─▶ the image store, under its names           the answer tells digests and names
oci, docker, tar ─▶ one file that the client writes        FileSend, bytes
local ─▶ a directory of the client's                       FileSend, fsutil's protocol
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from cove.buildkit import filesend
from cove.buildkit.job import Job, Outcome
from cove.buildkit.messages.common import BytesMessage, Empty
from cove.buildkit.messages.control import Exporter
from cove.buildkit.messages.session import SEND
from cove.engine.build.service import full_names
from cove.errors import InvalidArgument, Unavailable, Unsupported
from cove.grpc.calls import Asked
from cove.grpc.status import Code, RpcError
from cove.image.images import Image

_IMAGE = frozenset({"image", "moby"})
_ARCHIVE = frozenset({"oci", "docker"})
_KNOWN = {
    "image": frozenset(
        "name load push push-by-digest registry.insecure unpack store dangling-name-prefix oci-mediatypes "
        "compression name-canonical rewrite-timestamp force-compression".split()
    ),
    "archive": frozenset("name dest tar oci-mediatypes compression context force-compression".split()),
    "files": frozenset({"dest", "platform-split"}),
}
_CHUNK = 64 << 10
_ID = "buildkit-attachable-exporter-id"


_PUSHING = "this builder does not push by itself; build with the docker driver and --push, or push the image"
_LAYERS = "layers keep the form that they have: those of bases as they came, new ones uncompressed"
_DOES: dict[str, tuple[bool, str]] = {
    "push-by-digest": (False, _PUSHING),
    "registry.insecure": (False, _PUSHING),
    "name-canonical": (False, "names with a digest are not given to results"),
    "unpack": (True, "layers of images are always unpacked"),
    "store": (True, "a result of this exporter always goes to the image store"),
    "oci-mediatypes": (True, "manifests are always OCI's"),
    "force-compression": (False, _LAYERS),
    "rewrite-timestamp": (True, "with SOURCE_DATE_EPOCH, layers never have later times"),
}
"""What is done anyway, by option, and why not the contrary."""


def check(exporters: Sequence[Exporter]) -> None:
    """What cannot be honoured is refused before anything is built."""
    for each in exporters:
        kind = "image" if each.type in _IMAGE else "archive" if each.type in _ARCHIVE else "files"
        if each.type not in _IMAGE | _ARCHIVE | {"tar", "local"}:
            raise Unsupported(f"the exporter {each.type!r} is not known; image, oci, docker, tar and local are")
        for key, value in each.attributes.items():
            if key not in _KNOWN[kind]:
                raise Unsupported(f"the exporter's option {key}={value} is not supported by this builder")
        _check_values(each)


def _check_values(exporter: Exporter) -> None:
    wanted = exporter.attributes
    if exporter.type == "image" and _switched("push", wanted.get("push", "false")):
        raise Unsupported(_PUSHING)
    for key in _DOES.keys() & wanted.keys():
        does, why = _DOES[key]
        if _switched(key, wanted[key]) is not does:
            raise Unsupported(f"the exporter's option {key}={wanted[key]} cannot be followed: {why}")
    if wanted.get("compression", "uncompressed") != "uncompressed":
        raise Unsupported(f"the exporter's option compression={wanted['compression']} cannot be followed: {_LAYERS}")
    if wanted.get("dangling-name-prefix"):
        raise Unsupported("the exporter's option dangling-name-prefix cannot be followed: give the result a name")
    if exporter.type in _ARCHIVE and wanted.get("tar", "true").lower() in ("false", "0", "f"):
        raise Unsupported("an image layout as a directory (tar=false) cannot be sent; take the archive")


async def export(job: Job, outcome: Outcome, exporters: Sequence[Exporter]) -> dict[str, str]:
    """Make the result and hand it on; what clients are told of it."""
    wish = outcome.build.options.provenance
    if wish is not None and not wish.images_only and any(each.type in ("tar", "local") for each in exporters):
        raise Unsupported("files have no provenance beside them; build an image, or with --provenance=false")
    await job.evaluate(outcome)
    found: dict[str, str] = {}
    for number, each in enumerate(exporters):
        if each.type in _IMAGE:
            found |= await _to_images(job, outcome, each)
        elif each.type in _ARCHIVE:
            found |= await _to_archive(job, outcome, each, number)
        else:
            await _to_client(job, outcome, each, number)
    return found


async def share(job: Job, outcome: Outcome) -> dict[str, str]:
    """Put the finished steps where they are to go; what clients are told of them."""
    if not any(place.kind != "inline" for place in outcome.build.options.cache_to):
        return {}
    loop = asyncio.get_running_loop()
    with job.trace.step("exporting cache") as work:

        def told(message: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(work.pushed, message)

        sent = await outcome.build.share(told)
    if sent is None:
        return {}
    descriptor = {"mediaType": sent.media_type, "digest": sent.digest, "size": sent.size}
    return {"cache.manifest": json.dumps(descriptor)}


def _names(attributes: Mapping[str, str]) -> list[str]:
    return full_names(name for name in attributes.get("name", "").split(",") if name)


async def _to_images(job: Job, outcome: Outcome, exporter: Exporter) -> dict[str, str]:
    names = _names(exporter.attributes)
    with job.trace.step("exporting to image") as work:
        work.progress("exporting layers", 0)
        image = await outcome.build.image(names)
        work.progress("exporting layers", 0, done=True)
        work.progress(f"writing image {image.id}", 0, done=True)
        for name in names:
            work.progress(f"naming to {name}", 0, done=True)
    return described(image, names)


def described(image: Image, names: list[str]) -> dict[str, str]:
    """What clients are told of an image. Its digest is the one that names it in the store, as Docker's own tells."""
    target = image.target
    descriptor = {"mediaType": target.media_type, "digest": target.digest, "size": target.size}
    found = {
        "containerimage.digest": image.id,
        "containerimage.config.digest": image.id,
        "containerimage.descriptor": base64.b64encode(json.dumps(descriptor).encode()).decode(),
    }
    return found | ({"image.name": ",".join(names)} if names else {})


async def _to_archive(job: Job, outcome: Outcome, exporter: Exporter, number: int) -> dict[str, str]:
    """The image as one file; it stays in the store only if it was there."""
    names = _names(exporter.attributes)
    with job.trace.step(f"exporting to {exporter.type} image format") as work:
        async with outcome.build.archived(names) as (image, pieces):
            told = described(image, names)
            told["containerimage.digest"] = image.target.digest
            metadata = {f"exporter-md-{key}": [value] for key, value in told.items()}
            await _send(job, number, pieces, metadata, work.progress)
    return told


async def _to_client(job: Job, outcome: Outcome, exporter: Exporter, number: int) -> None:
    service = job.service
    split = len(outcome.build.plans) > 1 and exporter.attributes.get("platform-split", "true").lower() != "false"
    trees = {
        str(platform).replace("/", "_") if split else "": (outcome.build.chain(plan), plan.epoch)
        for platform, plan in zip(outcome.build.platforms, outcome.build.plans, strict=True)
    }
    if exporter.type == "tar":
        if len(trees) > 1:
            raise Unsupported("a tar archive of several platforms is not made; build for one, or use type=local")
        with job.trace.step("exporting to client tarball") as work:
            pieces = service.context.executors.stream(service.workshop.pack(*next(iter(trees.values()))))
            await _send(job, number, pieces, {}, work.progress)
        return
    session = await job.find_session()
    if session is None:
        raise InvalidArgument("the build has no session that files could be sent to")
    with job.trace.step("exporting to client directory") as work:
        await filesend.send(session, {_ID: [str(number)]}, service, trees, work.progress)


async def _send(
    job: Job, number: int, pieces: AsyncIterator[bytes], metadata: dict[str, list[str]], told: filesend.Told
) -> None:
    """One file for the client, in pieces."""
    session = await job.find_session()
    if session is None:
        raise InvalidArgument("the build has no session that a file could be sent to")
    sent = 0
    try:
        async with session.client.call(SEND, {_ID: [str(number)], **metadata}) as call:
            async for piece in pieces:
                for start in range(0, len(piece), _CHUNK):
                    await call.send(BytesMessage(data=bytes(piece[start : start + _CHUNK])))
                sent += len(piece)
                told("sending tarball", sent)
            await call.end()
            await _until_end(call)
        told("sending tarball", sent, done=True)
    except RpcError as error:
        if error.code == Code.ALREADY_EXISTS:
            return  # the client has what it wanted
        raise Unavailable(f"the client does not take the result: {error.message}") from error


async def _until_end(call: Asked) -> None:
    while await call.receive(Empty) is not None:
        pass


def _switched(key: str, text: str) -> bool:
    """Whether an option is on; without a value it is. Raises InvalidArgument."""
    if text.lower() in ("", "1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"the exporter's option {key}={text} is neither true nor false")
