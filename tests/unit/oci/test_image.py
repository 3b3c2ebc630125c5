"""Manifests and configurations as they come from strangers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cove.errors import InvalidArgument, Unsupported
from cove.oci import image

DIGEST = "sha256:" + "0" * 64
BLOB = {"mediaType": "x", "digest": DIGEST, "size": 1}


def encode(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def test_manifest_and_index() -> None:
    manifest = image.decode_manifest(encode(config=BLOB, layers=[BLOB], annotations=None), image.OCI_MANIFEST)
    assert isinstance(manifest, image.Manifest) and manifest.layers[0].digest == DIGEST
    platform = {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"}
    index = image.decode_manifest(encode(mediaType=image.DOCKER_INDEX, manifests=[{**BLOB, "platform": platform}]))
    assert isinstance(index, image.Index)
    assert index.manifests[0].platform is not None and index.manifests[0].platform.os_version == "1"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (encode(config=BLOB, layers=[BLOB], manifests=[BLOB]), ""),
        (encode(layers=[BLOB], manifests=[]), image.OCI_INDEX),
        (encode(manifests=[BLOB]), image.OCI_MANIFEST),
        (encode(config=BLOB, mediaType=image.OCI_INDEX), ""),
        (encode(config=BLOB, mediaType=image.DOCKER_MANIFEST), image.OCI_MANIFEST),
        (encode(config={**BLOB, "digest": "../../etc"}), ""),
        (encode(config={**BLOB, "size": -1}), ""),
        (encode(config=BLOB, layers=[BLOB] * 501), ""),
        (b"[" * 100_000, ""),
        (b"[]", ""),
        (b"{", ""),
    ],
)
def test_refused(raw: bytes, sent: str) -> None:
    with pytest.raises(InvalidArgument):
        image.decode_manifest(raw, sent)


def test_schema1_is_refused_in_words() -> None:
    with pytest.raises(Unsupported, match="schema 1"):
        image.decode_manifest(b'{"schemaVersion": 1, "fsLayers": []}')


def test_config_with_nulls_and_dockers_extensions() -> None:
    config = image.decode_config(
        json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "os.version": "5",
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
                "config": {
                    "Entrypoint": None,
                    "Cmd": ["sh"],
                    "Volumes": {"/v": {}},
                    "ArgsEscaped": True,
                    "OnBuild": ["RUN x"],
                    "StopTimeout": 3,
                    "Healthcheck": {"Test": ["CMD", "x"], "StartPeriod": 5},
                    "Unheard": {"of": 1},
                },
                "history": None,
            }
        ).encode()
    )
    run = config.config
    assert (run.entrypoint, run.cmd, run.on_build, run.stop_timeout) == ((), ("sh",), ("RUN x",), 3)
    assert run.healthcheck is not None and run.healthcheck.start_period == 5 and run.args_escaped
    assert str(config.platform) == "linux/amd64" and config.os_version == "5"
