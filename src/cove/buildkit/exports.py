"""Where results go: Cove's images, registries, or the client, as an archive or as files.

image, moby ─▶ the image store, under its names           the answer tells digests and names
      push  ─▶ and from there to their registries          with the client's credentials
oci, docker, tar ─▶ one file that the client writes        FileSend, bytes
oci, tar=false ─▶ a layout's directory of the client's     the store "export", blob by blob
local ─▶ a directory of the client's                       FileSend, fsutil's protocol
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from cove.buildkit import exportoptions, filesend
from cove.buildkit.contents import EXPORT, ClientStore
from cove.buildkit.job import Job, Outcome
from cove.buildkit.messages.common import BytesMessage, Empty
from cove.buildkit.messages.control import Exporter
from cove.buildkit.messages.session import SEND
from cove.buildkit.progress import Work
from cove.buildkit.tars import together
from cove.errors import CoveError, InvalidArgument, Unavailable, Unsupported
from cove.grpc.calls import Asked
from cove.grpc.status import Code, RpcError
from cove.image.images import Image
from cove.image.travel.saving import blobs
from cove.oci.reference import Reference

_CHUNK = 64 << 10
_ID = "buildkit-attachable-exporter-id"


async def export(job: Job, outcome: Outcome, exporters: Sequence[Exporter]) -> dict[str, str]:
    """Make the result and hand it on; what clients are told of it."""
    wish = outcome.build.options.provenance
    if wish is not None and not wish.images_only and any(each.type in ("tar", "local") for each in exporters):
        raise Unsupported("files have no provenance beside them; build an image, or with --provenance=false")
    for each in exporters:
        exportoptions.annotated(each).check(indexed=wish is not None or len(outcome.build.plans) > 1)
    await job.evaluate(outcome)
    found: dict[str, str] = {}
    for number, each in enumerate(exporters):
        if each.type in exportoptions.IMAGE:
            found |= await _to_images(job, outcome, each)
        elif each.type in exportoptions.ARCHIVE:
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


async def _to_images(job: Job, outcome: Outcome, exporter: Exporter) -> dict[str, str]:
    names, by_digest = exportoptions.names(exporter), exportoptions.by_digest(exporter)
    given = [] if by_digest else names
    with job.trace.step("exporting to image") as work:
        work.progress("exporting layers", 0)
        image = await outcome.build.image(given, exportoptions.annotated(exporter), exportoptions.form(exporter))
        job.result = image.target
        work.progress("exporting layers", 0, done=True)
        work.progress(f"writing image {image.id}", 0, done=True)
        if exportoptions.canonical(exporter):
            given = [*given, *(Reference.parse(name).with_digest(image.target.digest).full for name in names)]
            image = await job.service.context.executors.disk(_name, job, image, given)
        for name in given:
            work.progress(f"naming to {name}", 0, done=True)
        if exportoptions.pushes(exporter):
            await _push(job, outcome, names, image.target.digest if by_digest else "", work)
    return described(image, names, exporter)


def _name(job: Job, image: Image, names: list[str]) -> Image:
    return job.service.context.store.images.register(image.target.digest, names)


async def _push(job: Job, outcome: Outcome, names: list[str], digest: str, work: Work) -> None:
    """What has these names, to their registries; with a `digest` what has that, without a tag."""
    loop, context = asyncio.get_running_loop(), job.service.context

    def told(message: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(work.pushed, message)

    for name in names:
        reference, cancel = Reference.parse(name), threading.Event()
        call = context.distribution.push_by_digest if digest else context.distribution.push
        push = partial(
            call,
            reference.with_digest(digest) if digest else reference,
            credentials=await outcome.build.bases.credentials(reference),
            progress=told,
            cancel=cancel,
        )
        try:
            await context.executors.bulk(push)
        except CoveError as error:
            raise type(error)(f"failed to push {name}: {error.message}") from error
        finally:
            cancel.set()
        work.progress(f"pushing manifest for {name}", 0, done=True)


def described(image: Image, names: list[str], exporter: Exporter) -> dict[str, str]:
    """What clients are told of an image. Its digest is its id in the store, unless it was sent on, or they would
    rather have the other: that of what its names point at, which an archive and a registry know it by."""
    target = image.target
    descriptor = {"mediaType": target.media_type, "digest": target.digest, "size": target.size}
    sent = exportoptions.pushes(exporter) or exportoptions.switched(exporter, "prefer-image-digest")
    by_id = exporter.type in exportoptions.IMAGE and not sent
    found = {
        "containerimage.digest": image.id if by_id else target.digest,
        "containerimage.config.digest": image.id,
        "containerimage.descriptor": base64.b64encode(json.dumps(descriptor).encode()).decode(),
    }
    return found | ({"image.name": ",".join(names)} if names else {})


async def _to_archive(job: Job, outcome: Outcome, exporter: Exporter, number: int) -> dict[str, str]:
    """The image as one file, or as a directory; it stays in the store only if it was there."""
    names, annotations = exportoptions.names(exporter), exportoptions.annotated(exporter)
    form = exportoptions.form(exporter)
    with job.trace.step(f"exporting to {exporter.type} image format") as work:
        if not exportoptions.switched(exporter, "tar", "true"):
            store = ClientStore(job.service.context, job.find_session, EXPORT)
            async with outcome.build.imaged(annotations, form) as image:
                for blob in blobs(job.service.context.store.content, image):
                    await store.write(blob)
                    work.progress(f"sending {blob.digest[:19]}", blob.size, blob.size, done=True)
                return described(image, names, exporter)
        async with outcome.build.archived(names, annotations, form) as (image, pieces):
            told = described(image, names, exporter)
            metadata = {f"exporter-md-{key}": [value] for key, value in told.items()}
            await _send(job, number, pieces, metadata, work.progress)
    return told


async def _to_client(job: Job, outcome: Outcome, exporter: Exporter, number: int) -> None:
    service = job.service
    split = len(outcome.build.plans) > 1 and exportoptions.switched(exporter, "platform-split", "true")
    trees = {
        str(platform).replace("/", "_") if split else "": (outcome.build.chain(plan), plan.epoch)
        for platform, plan in zip(outcome.build.platforms, outcome.build.plans, strict=True)
    }
    if exporter.type == "tar":
        with job.trace.step("exporting to client tarball") as work:
            packs = {name: partial(service.workshop.pack, *tree) for name, tree in trees.items()}
            whole = together(packs) if split else next(iter(packs.values()))()
            pieces = service.context.executors.stream(whole)
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
