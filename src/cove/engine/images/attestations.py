"""What an image's publisher states about it: in-toto statements in the manifests beside a variant's in its index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from cove.engine.context import Context
from cove.engine.images.view import descriptor
from cove.errors import InvalidArgument
from cove.image.images import Image
from cove.image.variants import attested
from cove.oci import image as oci
from cove.oci.platform import Platform
from cove.wire.images import AttestationStatement

_PREDICATE_TYPE = "in-toto.io/predicate-type"


class Attestations:
    """The use case of GET /images/{name}/attestations."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def of(
        self, name: str, *, platform: Platform | None = None, types: Sequence[str] = (), statements: bool = False
    ) -> Sequence[AttestationStatement]:
        """What is stated about one variant of an image, of some `types` of predicates or all; NotFound.

        With `statements`, the statements themselves too.
        """
        return await self._context.executors.disk(self._of, name, platform, types, statements)

    def _of(
        self, name: str, platform: Platform | None, types: Sequence[str], statements: bool
    ) -> Sequence[AttestationStatement]:
        content = self._context.store.content
        found = []
        for layer in self._layers(self._context.images.get(name, platform)):
            kind = layer.annotations.get(_PREDICATE_TYPE, "")
            if not kind or (types and kind not in types):
                continue
            shown = AttestationStatement(descriptor=descriptor(layer), predicate_type=kind)
            if statements:
                shown = msgspec.structs.replace(shown, statement=_json(content.read(layer.digest), layer))
            found.append(shown)
        return found

    def _layers(self, image: Image) -> Iterator[oci.Descriptor]:
        """Of every manifest in the image's index that is about this variant."""
        for offer in image.offers:
            if offer.kind == "attestation" and offer.blobs and attested(offer.descriptor) == image.manifest.digest:
                manifest = oci.decode_manifest(self._context.store.content.read(offer.descriptor.digest))
                assert isinstance(manifest, oci.Manifest)
                yield from manifest.layers


def _json(data: bytes, layer: oci.Descriptor) -> msgspec.Raw:
    """A statement as it lies there; InvalidArgument when it is no JSON object, which would spoil the reply."""
    try:
        msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"the statement {layer.digest} is no JSON object: {error}") from error
    return msgspec.Raw(data)
