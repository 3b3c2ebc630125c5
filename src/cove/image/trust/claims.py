"""What a signature of an image claims, in the two forms that cosign has.

Simple signing (cosign 1 and 2): a layer is the payload, its annotation `dev.cosignproject.cosign/signature` the
signature of the payload's bytes in base64.

    {"critical": {"identity": {"docker-reference": "registry/app"},
                  "image": {"docker-manifest-digest": "sha256:…"},
                  "type": "cosign container image signature"}, "optional": {…}}

Bundle (cosign 3): a layer of type application/vnd.dev.sigstore.bundle.v0.3+json holds a DSSE envelope, whose
payload is an in-toto statement about the image; the signature is that of the envelope's pre-authentication
encoding. Only a statement that says "signed" counts, not one that says how an image was made.

    {"dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": "…", "signatures": [{"sig": "…"}]}, …}
    {"predicateType": "https://sigstore.dev/cosign/sign/v1", "subject": [{"digest": {"sha256": "…"}}], …}

Nothing here says whether a claim holds: `cove.image.trust.signatures` does.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator

import msgspec

from cove.oci.image import Descriptor

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
BUNDLE = "application/vnd.dev.sigstore.bundle"
"""How the media types of all its versions begin."""
STATEMENT = "application/vnd.in-toto+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"
_TYPES = frozenset({"cosign container image signature", "atomic container signature", SIGNED})
_MOST = 16


class Claim(msgspec.Struct, frozen=True):
    """`signature` is said to be one of the bytes `signed`, which say that `subject` was signed as `identity`."""

    subject: str
    identity: str
    signed: bytes
    signature: bytes


def claims(layer: Descriptor, data: bytes) -> Iterator[Claim]:
    """The claims of one layer of an attached manifest; none when it is damaged, or no signature at all."""
    try:
        if layer.media_type == PAYLOAD:
            yield from _simple(data, layer.annotations.get(ANNOTATION, ""))
        elif layer.media_type.startswith(BUNDLE):
            yield from _bundle(data)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return


def is_signature(media_type: str) -> bool:
    return media_type == PAYLOAD or media_type.startswith(BUNDLE)


class _Image(msgspec.Struct, frozen=True):
    digest: str = msgspec.field(name="docker-manifest-digest")


class _Identity(msgspec.Struct, frozen=True):
    reference: str = msgspec.field(name="docker-reference", default="")


class _Critical(msgspec.Struct, frozen=True):
    image: _Image
    type: str
    identity: _Identity = _Identity()


class _Payload(msgspec.Struct, frozen=True):
    critical: _Critical


def _simple(payload: bytes, signature: str) -> Iterator[Claim]:
    said = msgspec.json.decode(payload, type=_Payload).critical
    if said.type in _TYPES and signature:
        yield Claim(said.image.digest, said.identity.reference, payload, b64decode(signature, validate=True))


class _Signed(msgspec.Struct, frozen=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True):
    payload: str
    signatures: tuple[_Signed, ...]
    payload_type: str = msgspec.field(name="payloadType")


class _Bundle(msgspec.Struct, frozen=True):
    envelope: _Envelope | None = msgspec.field(name="dsseEnvelope", default=None)


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]
    name: str = ""


class _Statement(msgspec.Struct, frozen=True):
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")


def _bundle(data: bytes) -> Iterator[Claim]:
    envelope = msgspec.json.decode(data, type=_Bundle).envelope
    if envelope is None or envelope.payload_type != STATEMENT:
        return
    payload = b64decode(envelope.payload, validate=True)
    statement = msgspec.json.decode(payload, type=_Statement)
    if statement.predicate_type != SIGNED:
        return
    signed = authenticated(envelope.payload_type, payload)
    for signature in envelope.signatures[:_MOST]:
        for subject in statement.subject[:_MOST]:
            for algorithm, digits in subject.digest.items():
                yield Claim(f"{algorithm}:{digits}", subject.name, signed, b64decode(signature.sig, validate=True))


def authenticated(kind: str, payload: bytes) -> bytes:
    """What a DSSE signature is made of (DSSE, "Signature Definition": the pre-authentication encoding)."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)
