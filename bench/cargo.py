"""The images that are moved, and the registries they come from and go to.

    debian            Debian with nginx, 187 MB, out of its own packages
    forty             40 layers of 25 small files
    fifty-thousand    50,000 small files in one layer

They are made once and kept in `KEPT` as OCI layouts; a registry is filled from there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

KEPT = Path("/var/tmp/cove-bench-images")
NAMES = ("debian", "forty", "fifty-thousand")


class Registry:
    """Debian's docker-registry in a network namespace of its own, which engines are put into as well."""

    def __init__(self, root: Path, port: int) -> None:
        self._root = root / f"registry-{port}"
        self._root.mkdir()
        self.data = self._root / "data"
        self.data.mkdir()
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, beside: int = 0) -> int:
        """Its pid; `beside` is a process whose network it shares."""
        settings = self._root / "config.yml"
        # No cache of what is there: it would not notice that `empty` takes blobs away.
        settings.write_text(
            f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{self.host}'}}\n"
            f"storage: {{filesystem: {{rootdirectory: '{self.data}'}}}}\n"
        )
        network = ["nsenter", f"--net=/proc/{beside}/ns/net"] if beside else ["unshare", "--net"]
        words = [
            *network,
            "sh",
            "-c",
            'ip link set lo up; exec "$@"',
            "sh",
            "docker-registry",
            "serve",
            str(settings),
        ]
        log = (self._root / "log").open("wb")
        self._process = subprocess.Popen(words, stdout=log, stderr=log)
        probe = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "sh", "-c", "ss -Hltn"]
        for _ in range(200):
            if f":{self.port} " in subprocess.run(probe, capture_output=True, text=True).stdout:
                return self._process.pid
            time.sleep(0.05)
        raise RuntimeError(f"docker-registry does not answer: {(self._root / 'log').read_text()[-400:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def empty(self) -> None:
        """Forget what was pushed."""
        shutil.rmtree(self.data / "docker", ignore_errors=True)


def made() -> None:
    """Make the images that are not there yet."""
    layers = {"debian": _debian, "forty": _forty, "fifty-thousand": _many}
    for name in NAMES:
        if not (KEPT / name / "index.json").exists():
            print(f"  making the image {name} (once, in {KEPT})", flush=True)
            shutil.rmtree(KEPT / name, ignore_errors=True)
            _Layout(KEPT / name).write(layers[name]())


def fill(registry: Registry, inside: list[str]) -> None:
    """Put all images into the registry; `inside` is what runs a program where the registry is."""
    for name in NAMES:
        target = f"docker://{registry.host}/{name}:latest"
        words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{KEPT / name}:latest", target]
        subprocess.run([*inside, *words], check=True)


def root_archive(name: str) -> Path:
    """The first layer of an image as a plain archive: what `import` takes."""
    path = KEPT / f"{name}.tar"
    if not path.exists():
        index = json.loads((KEPT / name / "index.json").read_text())
        manifest = json.loads(_blob(KEPT / name, index["manifests"][0]["digest"]).read_text())
        with gzip.open(_blob(KEPT / name, manifest["layers"][0]["digest"])) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    return path


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


class _Layout:
    """An OCI image layout that is being written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "blobs/sha256").mkdir(parents=True)

    def write(self, archives: Iterator[bytes]) -> None:
        layers, diff_ids = [], []
        for archive in archives:
            diff_ids.append(f"sha256:{hashlib.sha256(archive).hexdigest()}")
            packed = gzip.compress(archive, 6, mtime=0)
            layers.append(self._put(packed, "application/vnd.oci.image.layer.v1.tar+gzip"))
        configuration = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._put(json.dumps(configuration).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        }
        named = self._put(json.dumps(manifest).encode(), manifest["mediaType"])
        named["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        (self._root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self._root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))

    def _put(self, data: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        _blob(self._root, digest).write_bytes(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}


def _debian() -> Iterator[bytes]:
    words = ["mmdebstrap", "--variant=minbase", "--include=nginx", "--quiet", "bookworm", "-"]
    yield subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout


def _forty() -> Iterator[bytes]:
    for layer in range(40):
        yield _archive([f"srv/layer-{layer:02}/file-{number:02}" for number in range(25)], layer)


def _many() -> Iterator[bytes]:
    yield _archive([f"srv/{number // 100:03}/file-{number:05}" for number in range(50_000)], 99)


def _archive(names: list[str], seed: int) -> bytes:
    """Files of some hundred bytes to 4 KiB, their contents as compressible as source code."""
    chance = random.Random(seed)
    words = [f"{chance.getrandbits(40):x}" for _ in range(512)]
    buffer = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            for at in range(1, name.count("/") + 1):
                directory = "/".join(name.split("/")[:at])
                if directory not in made:
                    made.add(directory)
                    entry = tarfile.TarInfo(directory)
                    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                    archive.addfile(entry)
            data = " ".join(chance.choices(words, k=chance.randint(20, 370))).encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_700_000_000
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
