"""Who signed an image, what is attached to it, and whether it may be used."""

from __future__ import annotations

from collections.abc import Sequence

from cove.engine.context import Context
from cove.errors import CoveError, Forbidden, InvalidArgument, NotFound
from cove.image.distribution import Credentials
from cove.image.images import Image
from cove.image.trust.policy import Trust, parse_keys
from cove.image.variants import attested
from cove.oci.reference import Reference
from cove.wire.images import Attachment, SignatureFound


class TrustService:
    """The use cases of `cove image verify` and `attachments`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def verify(self, name: str, keys: Sequence[str], *, auth: str = "") -> Sequence[SignatureFound]:
        """The signatures of an image, here or at its registry, that one of the keys made; Forbidden for none.

        Without keys, those that the policy names for it.
        """
        return await self._context.executors.bulk(self._verify, name, keys, auth)

    def _verify(self, name: str, texts: Sequence[str], auth: str) -> Sequence[SignatureFound]:
        context, reference = self._context, Reference.parse(name)
        credentials = Credentials.from_header(auth) if auth else None
        keys = parse_keys(texts) if texts else context.trust.keys_for(reference) or parse_keys(())
        try:
            digest = context.images.get(name).target.digest
        except NotFound:
            digest = context.distribution.describe(reference, credentials).descriptor.digest
        trouble = ""
        found = context.trust.verify(digest, keys)
        if not found:
            try:
                context.distribution.fetch_attachments(reference, digest, credentials)
            except CoveError as error:
                trouble = f"; {error.message}"
            found = context.trust.verify(digest, keys)
        if not found:
            raise Forbidden(f"{reference.familiar} ({digest}) has no signature of the given keys{trouble}")
        return [SignatureFound(digest=digest, key=each.key, identity=each.identity) for each in found]

    async def attachments(self, name: str) -> Sequence[Attachment]:
        """What is attached to an image here: statements in its index, and manifests that refer to it."""
        return await self._context.executors.disk(self._attachments, name)

    def _attachments(self, name: str) -> Sequence[Attachment]:
        image = self._context.images.get(name)
        found = [
            Attachment(
                digest=offer.descriptor.digest,
                artifact_type=offer.descriptor.annotations.get("in-toto.io/predicate-type", "attestation"),
                subject=attested(offer.descriptor),
                size=sum(blob.size for blob in offer.blobs),
            )
            for offer in image.offers
            if offer.kind == "attestation" and offer.blobs
        ]
        kept = self._context.images.attachments
        for subject in dict.fromkeys((image.target.digest, image.manifest.digest)):
            for each in kept.of(subject):
                size = each.size + sum(blob.size for blob in kept.parts(each.digest))
                found.append(
                    Attachment(digest=each.digest, artifact_type=each.artifact_type, subject=subject, size=size)
                )
        return found


def admit(trust: Trust, called: str, image: Image) -> None:
    """Raise Forbidden unless the policy lets a container be made of `image`, which the user called so."""
    for reference in _names(called, image):
        trust.admit(reference, image.target.digest)


def _names(called: str, image: Image) -> list[Reference]:
    """What the policy is asked about: the user's word if it is a name, else every name of the image."""
    known = {*image.names, *image.repo_digests}
    try:
        reference = Reference.parse(called)
    except InvalidArgument:
        reference = None
    if reference is not None and (reference.familiar in known or reference.digest):
        return [reference]
    return [Reference.parse(name, default_tag="") for name in sorted(known)]
