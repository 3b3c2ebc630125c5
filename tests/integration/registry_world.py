"""A registry of ours on a loopback port, and the smallest client that says exactly what it sends."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import BIN, PATIENCE, eventually, free_port

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The distribution API's word for what is wrong."""
        return str(self.json["errors"][0]["code"])


@dataclass
class Serving:
    """`cove registry serve`, and requests to it."""

    root: Path
    port: int
    options: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        log = (self.root / "registry.log").open("ab")
        command = [BIN / "cove", "registry", "serve", "--listen", self.host, "--root", self.root / "data"]
        self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        assert eventually(self._answers), f"the registry does not answer: {self.log()}"

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()
        with contextlib.suppress(OSError):
            return self.get("/healthz").status == 200
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60 * PATIENCE)

    def log(self) -> str:
        return (self.root / "registry.log").read_text()[-4000:]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; `headers` with _ for -."""
        connection: http.client.HTTPConnection
        if self.tls is not None:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=60 * PATIENCE)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60 * PATIENCE)
        with contextlib.closing(connection):
            sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def head(self, path: str, **headers: str) -> Answer:
        return self.call("HEAD", path, **headers)

    def push_blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        answer = self.call("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert answer.status == 201, answer.body
        return digest

    def push_manifest(self, repository: str, which: str, document: dict[str, Any]) -> tuple[str, bytes]:
        """Its digest and bytes."""
        raw = json.dumps(document).encode()
        answer = self.call(
            "PUT", f"/v2/{repository}/manifests/{which or digest_of(raw)}", raw, Content_Type=document["mediaType"]
        )
        assert answer.status == 201, answer.body
        return digest_of(raw), raw

    def push_image(
        self, repository: str, tag: str, layers: list[bytes], *, operating_system: str = "linux", **more: Any
    ) -> tuple[str, bytes]:
        """An image of such layers; its manifest's digest and bytes."""
        config = {
            "os": operating_system,
            "architecture": "amd64",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            **({"os.version": "10.0.20348.2227"} if operating_system == "windows" else {}),
        }
        raw = json.dumps(config).encode()
        for blob in (raw, *layers):
            self.push_blob(repository, blob)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, raw),
            "layers": [descriptor(OCI_LAYER, layer) for layer in layers],
            **more,
        }
        return self.push_manifest(repository, tag, document)

    def blobs(self) -> set[str]:
        """What lies on disk."""
        return {f"sha256:{name}" for name in os.listdir(self.root / "data" / "blobs" / "sha256")}

    def metric(self, name: str) -> float:
        """The sum of a metric's values."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextlib.contextmanager
def serving(root: Path, *options: str, tls: ssl.SSLContext | None = None) -> Iterator[Serving]:
    """A registry that ends with the block."""
    root.mkdir(exist_ok=True)
    registry = Serving(root, free_port(), options, tls)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
