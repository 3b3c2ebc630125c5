"""Signatures of images, in the form that cosign makes with a key.

An attached manifest has one layer for each signature: a payload ("simple signing") and, as its annotation
`dev.cosignproject.cosign/signature`, the signature of the payload's bytes in base64.

    {"critical": {"identity": {"docker-reference": "registry/app"},
                  "image": {"docker-manifest-digest": "sha256:…"},
                  "type": "cosign container image signature"}, "optional": {…}}

Keys are PEM: ECDSA (SHA-256), Ed25519 or RSA (PKCS #1 v1.5, SHA-256). The library that verifies them is loaded
only when there is a key.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from cove.errors import CoveError, InvalidArgument
from cove.image.content import ContentStore
from cove.oci import image as oci
from cove.oci.image import Descriptor, Manifest

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
_TYPES = frozenset({"cosign container image signature", "atomic container signature"})
_MAX_PAYLOAD = 1 << 20
_MOST = 100


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that holds: who signed (the key's fingerprint) and what the signer called the image."""

    key: str
    identity: str


@dataclass(frozen=True, slots=True)
class Key:
    """A public key; `fingerprint` is the SHA-256 of its DER form."""

    fingerprint: str
    public: Any


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


def read_key(pem: bytes, name: str) -> Key:
    """The public key in `pem`; InvalidArgument calls it `name`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        public = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"the key {name} is no public key in PEM form: {error}") from error
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Key(hashlib.sha256(der).hexdigest(), public)


def verified(
    content: ContentStore, subject: str, attached: Iterable[Descriptor], keys: Iterable[Key]
) -> list[Signature]:
    """The signatures of `subject` among its attachments that one of the keys made."""
    keys = list(keys)
    found: list[Signature] = []
    for payload, signature in _signatures(content, attached):
        said = _said(payload)
        if said is None or said.image.digest != subject:
            continue
        found += [
            Signature(key.fingerprint, said.identity.reference) for key in keys if _holds(key, payload, signature)
        ]
    return list(dict.fromkeys(found))


def _signatures(content: ContentStore, attached: Iterable[Descriptor]) -> list[tuple[bytes, bytes]]:
    """(payload, signature) pairs; what is damaged or of another form is no signature."""
    found: list[tuple[bytes, bytes]] = []
    for each in attached:
        try:
            manifest = oci.decode_manifest(content.read(each.digest))
            for layer in manifest.layers if isinstance(manifest, Manifest) else ():
                text = layer.annotations.get(ANNOTATION, "")
                if layer.media_type == PAYLOAD and text and layer.size <= _MAX_PAYLOAD and len(found) < _MOST:
                    found.append((content.read(layer.digest), b64decode(text, validate=True)))
        except (CoveError, binascii.Error):
            continue
    return found


def _said(payload: bytes) -> _Critical | None:
    try:
        said = msgspec.json.decode(payload, type=_Payload).critical
    except msgspec.DecodeError:
        return None
    return said if said.type in _TYPES else None


def _holds(key: Key, payload: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    try:
        if isinstance(key.public, ec.EllipticCurvePublicKey):
            key.public.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key.public, ed25519.Ed25519PublicKey):
            key.public.verify(signature, payload)
        elif isinstance(key.public, rsa.RSAPublicKey):
            key.public.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        else:
            return False
    except InvalidSignature:
        return False
    return True
