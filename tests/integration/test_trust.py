"""Signatures and statements that belong to images: fetched, verified, asked for by a policy, sent along."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from cove.image.distribution.attached import tag_of
from cove.image.trust.attachments import COSIGN_SIGNATURE, COSIGN_TAGS
from cove.image.trust.claims import ANNOTATION, PAYLOAD
from cove.oci import image
from cove.oci.reference import Reference
from tests.conftest import Daemon, new_daemon
from tests.integration.distribution_world import descriptor, make_image, real_registry
from tests.integration.scripted_registry import Client

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")

SBOM = "application/spdx+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"


class Signer:
    """A key pair; `sign` makes what cosign makes."""

    def __init__(self, directory: Path, kind: str = "ecdsa") -> None:
        self.private: Any = {
            "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ecdsa-384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate,
            "rsa": lambda: rsa.generate_private_key(65537, 2048),
        }[kind]()
        public = self.private.public_key()
        self.path = directory / f"{kind}-{id(self)}.pub"
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.path.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
        self.fingerprint = hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()

    def sign(self, data: bytes) -> str:
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            larger = self.private.curve.key_size > 256
            made = self.private.sign(data, ec.ECDSA(hashes.SHA384() if larger else hashes.SHA256()))
        elif isinstance(self.private, rsa.RSAPrivateKey):
            made = self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        else:
            made = self.private.sign(data)
        return base64.b64encode(made).decode()


class Publisher:
    """Puts images and what is attached to them into a registry."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.client = Client()

    def image(self, path: str, content: bytes) -> tuple[str, str]:
        name = f"{self.host}/{path}"
        digest = make_image(self.client.world, name, [content])
        self.client.push(name)
        return name, digest

    def signature(self, name: str, digest: str, signer: Signer, *, signs: str = "", subject: str = "") -> None:
        """By cosign's tag, or as a manifest that refers to `subject`."""
        said = {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": signs or digest},
            "type": "cosign container image signature",
        }
        payload = json.dumps({"critical": said, "optional": None}).encode()
        notes = {ANNOTATION: signer.sign(payload)}
        self.attach(name, digest, payload, PAYLOAD, COSIGN_SIGNATURE if subject else "", notes, subject)

    def bundle(self, name: str, digest: str, signer: Signer, predicate: str = SIGNED, of: str = "") -> None:
        """As cosign 3 does it: a statement in an envelope, in a bundle, in a manifest that refers to the image."""
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": (of or digest).partition(":")[2]}}],
            "predicateType": predicate,
            "predicate": {},
        }
        payload = json.dumps(statement).encode()
        kind = b"application/vnd.in-toto+json"
        signed = b" ".join([b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload])
        made = {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": kind.decode(),
                "signatures": [{"sig": signer.sign(signed)}],
            },
        }
        self.attach(name, digest, json.dumps(made).encode(), BUNDLE, BUNDLE, {}, digest)

    def attach(
        self, name: str, digest: str, blob: bytes, kind: str, artifact: str, notes: dict[str, str], subject: str
    ) -> str:
        config = b"{}"
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": image.OCI_MANIFEST,
            "config": descriptor(image.OCI_EMPTY if subject else image.OCI_CONFIG, config),
            "layers": [descriptor(kind, blob, annotations=notes)],
        }
        if subject:
            manifest |= {
                "artifactType": artifact,
                "subject": descriptor(image.OCI_MANIFEST, b"") | {"digest": subject},
            }
        raw = json.dumps(manifest).encode()
        repository = self.client.distribution._origin(Reference.parse(name), None, threading.Event())
        for data in (config, blob):
            upload = repository.begin(_digest(data))
            assert upload is not None
            url = f"{upload.location}&digest={_digest(data)}"
            urllib3.request("PUT", url, body=data, headers={"Content-Type": "application/octet-stream"})
        if not subject:
            repository.put_manifest(tag_of(digest, artifact), raw, image.OCI_MANIFEST)
            return _digest(raw)
        repository.put_manifest(_digest(raw), raw, image.OCI_MANIFEST)
        entry = descriptor(image.OCI_MANIFEST, raw, artifactType=artifact)
        index = json.dumps({"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": [entry]}).encode()
        repository.put_manifest(subject.replace(":", "-"), index, image.OCI_INDEX)
        return _digest(raw)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield Publisher(host)


@pytest.mark.parametrize("kind", ["ecdsa", "ecdsa-384", "ed25519", "rsa"])
def test_a_bundle_by_the_key_is_found_and_no_other(
    daemon: Daemon, publisher: Publisher, tmp_path: Path, kind: str
) -> None:
    signer, stranger = Signer(tmp_path, kind), Signer(tmp_path)
    name, digest = publisher.image(f"bundled/{kind}:1", kind.encode())
    publisher.bundle(name, digest, signer)
    assert signer.fingerprint in daemon.cove("image", "verify", "--key", str(signer.path), name).stdout
    assert daemon.cove("image", "verify", "--key", str(stranger.path), name, check=False).returncode


def test_a_statement_of_something_else_is_no_signature(daemon: Daemon, publisher: Publisher, tmp_path: Path) -> None:
    """That the key's owner said how the image was made does not mean that he wants it to run."""
    signer = Signer(tmp_path)
    name, digest = publisher.image("provenance/app:1", b"provenance")
    publisher.bundle(name, digest, signer, predicate="https://slsa.dev/provenance/v1")
    assert daemon.cove("image", "verify", "--key", str(signer.path), name, check=False).returncode
    name, digest = publisher.image("provenance/other:1", b"other one")
    publisher.bundle(name, digest, signer, of="sha256:" + "0" * 64)
    assert daemon.cove("image", "verify", "--key", str(signer.path), name, check=False).returncode


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
def test_a_signature_by_the_key_is_found_and_no_other(
    daemon: Daemon, publisher: Publisher, tmp_path: Path, kind: str
) -> None:
    signer, stranger = Signer(tmp_path, kind), Signer(tmp_path)
    name, digest = publisher.image(f"signed/{kind}:1", kind.encode())
    publisher.signature(name, digest, signer)
    shown = daemon.cove("image", "verify", "--key", str(signer.path), name).stdout
    assert digest in shown and signer.fingerprint in shown and name in shown
    refused = daemon.cove("image", "verify", "--key", str(stranger.path), name, check=False)
    assert refused.returncode and "has no signature of the given keys" in refused.stderr
    bad = tmp_path / "bad.pub"
    bad.write_text("no key")
    assert "no public key" in daemon.cove("image", "verify", "--key", str(bad), name, check=False).stderr


def test_a_signature_of_something_else_counts_for_nothing(
    daemon: Daemon, publisher: Publisher, tmp_path: Path
) -> None:
    signer = Signer(tmp_path)
    _, other = publisher.image("moved/other:1", b"other")
    name, digest = publisher.image("moved/app:1", b"moved")
    publisher.signature(name, digest, signer, signs=other)
    assert daemon.cove("image", "verify", "--key", str(signer.path), name, check=False).returncode


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Daemon, Path]]:
    """A daemon with a policy file of its own."""
    policy, config = tmp_path / "policy.toml", tmp_path / "daemon.toml"
    config.write_text(f'policy = "{policy}"\n')
    daemon = new_daemon("--config", str(config))
    daemon.start()
    try:
        yield daemon, policy
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def test_a_policy_lets_only_signed_images_in(
    guarded: tuple[Daemon, Path], publisher: Publisher, tmp_path: Path, archive: Path
) -> None:
    daemon, policy = guarded
    signer = Signer(tmp_path)
    signed, digest = publisher.image("prod/signed:1", b"signed")
    publisher.signature(signed, digest, signer)
    unsigned, _ = publisher.image("prod/unsigned:1", b"unsigned")
    policy.write_text(
        f"""
        [[image]]
        prefix = "{publisher.host}/prod"
        keys = ["{signer.path}"]
        [[image]]
        prefix = "evil.example"
        refuse = "nobody knows them"
        """
    )
    daemon.cove("pull", "-q", signed)
    assert signer.fingerprint in daemon.cove("image", "verify", signed).stdout, "the policy's keys"
    refused = daemon.cove("pull", unsigned, check=False)
    assert refused.returncode and "has no signature of a key that counts" in refused.stderr
    assert daemon.cove("images", "-q", unsigned).stdout == "", "nothing is named"
    daemon.cove("import", str(archive), f"{publisher.host}/prod/loaded:1")
    started = daemon.cove("run", "--rm", f"{publisher.host}/prod/loaded:1", "true", check=False)
    assert started.returncode == 125 and "has no signature of a key that counts" in started.stderr
    daemon.cove("import", str(archive), "free:1")
    daemon.cove("run", "--rm", "free:1", "true")
    assert "nobody knows them" in daemon.cove("pull", "evil.example/x", check=False).stderr
    policy.write_text("[[image]]\nprefx = 'x'\n")
    broken = daemon.cove("run", "--rm", "free:1", "true", check=False)
    assert broken.returncode == 125 and "makes no sense, so that no image may be used" in broken.stderr
    policy.unlink()
    daemon.cove("pull", "-q", unsigned)


def test_statements_are_kept_listed_and_sent_along(daemon: Daemon, publisher: Publisher, tmp_path: Path) -> None:
    name, digest = publisher.image("stated/app:1", b"stated")
    sbom = publisher.attach(name, digest, b'{"packages": []}', SBOM, SBOM, {}, digest)
    daemon.cove("pull", "-q", name)
    listed = daemon.cove("image", "attachments", name, "--format", "{{.Type}} {{.Digest}} {{.Subject}}").stdout
    assert listed.split() == [SBOM, sbom, digest]
    copy = f"{publisher.host}/copied/app:1"
    daemon.cove("tag", name, copy)
    assert f"Attached {SBOM}" in daemon.cove("push", copy).stdout
    daemon.cove("rmi", name, copy)
    blobs = {path.name for path in (daemon.data / "image/blobs/sha256").iterdir()}
    assert sbom.partition(":")[2] not in blobs, "what was attached goes with the image"
    daemon.cove("pull", "-q", copy)
    assert sbom in daemon.cove("image", "attachments", copy).stdout
    daemon.cove("rmi", copy)


def test_what_cosign_ties_by_tags_is_kept_listed_and_sent_along(
    daemon: Daemon, publisher: Publisher, tmp_path: Path
) -> None:
    name, digest = publisher.image("tagged/app:1", b"tagged")
    publisher.signature(name, digest, Signer(tmp_path))
    kinds = {suffix: kind for kind, suffix in COSIGN_TAGS.items()}
    att = publisher.attach(name, digest, b"{}", "application/vnd.dsse.envelope.v1+json", kinds["att"], {}, "")
    sbom = publisher.attach(name, digest, b"[]", "text/spdx+json", kinds["sbom"], {}, "")
    copy = f"{publisher.host}/tagged/copy:1"
    for each in (name, copy):
        daemon.cove("pull", "-q", each)
        listed = daemon.cove("image", "attachments", each, "--format", "{{.Type}} {{.Digest}}").stdout.split()
        assert set(listed) >= {kinds["sig"], kinds["att"], att, kinds["sbom"], sbom} and len(listed) == 6
        if each == name:
            daemon.cove("tag", name, copy)
            daemon.cove("push", copy)
        daemon.cove("rmi", *({name, copy} if each == name else {copy}))
