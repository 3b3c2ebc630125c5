"""Signatures of images, in the forms that cosign makes with a key (`cove.image.trust.claims`): whether they hold.

Keys are PEM: ECDSA (with SHA-256, or the hash of the curve's size), Ed25519 or RSA (PKCS #1 v1.5, SHA-256). The
library that verifies them is loaded only when there is a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from cove.errors import CoveError, InvalidArgument
from cove.image.content import ContentStore
from cove.image.trust.claims import Claim, claims, is_signature
from cove.oci import image as oci
from cove.oci.image import Descriptor, Manifest

_MAX_PAYLOAD = 1 << 20
_MOST = 100


class Signature(msgspec.Struct, frozen=True):
    """A signature that holds: who signed (the key's fingerprint) and what the signer called the image."""

    key: str
    identity: str


class Key(msgspec.Struct, frozen=True):
    """A public key; `fingerprint` is the SHA-256 of its DER form."""

    fingerprint: str
    public: Any


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
    for claim in _claims(content, attached):
        if claim.subject == subject:
            found += [Signature(key.fingerprint, claim.identity) for key in keys if _holds(key, claim)]
    return list(dict.fromkeys(found))


def _claims(content: ContentStore, attached: Iterable[Descriptor]) -> list[Claim]:
    """What is damaged or of another form claims nothing."""
    found: list[Claim] = []
    for each in attached:
        try:
            manifest = oci.decode_manifest(content.read(each.digest))
            for layer in manifest.layers if isinstance(manifest, Manifest) else ():
                if is_signature(layer.media_type) and layer.size <= _MAX_PAYLOAD and len(found) < _MOST:
                    found += claims(layer, content.read(layer.digest))
        except CoveError:
            continue
    return found


def _holds(key: Key, claim: Claim) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    public, signature, signed = key.public, claim.signature, claim.signed
    if isinstance(public, ec.EllipticCurvePublicKey):
        larger = [hashes.SHA384()] if public.key_size == 384 else [hashes.SHA512()] if public.key_size > 384 else []
        ways: list[tuple[Any, ...]] = [(ec.ECDSA(each),) for each in (hashes.SHA256(), *larger)]
    elif isinstance(public, ed25519.Ed25519PublicKey):
        ways = [()]
    elif isinstance(public, rsa.RSAPublicKey):
        ways = [(padding.PKCS1v15(), hashes.SHA256())]
    else:
        return False
    for way in ways:
        try:
            public.verify(signature, signed, *way)
        except InvalidSignature:
            continue
        return True
    return False
