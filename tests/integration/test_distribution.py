"""Pull and push against Debian's docker-registry and against registries that lie, break off or limit."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cove.errors import CoveError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from cove.image.content import ContentStore
from cove.image.distribution import Credentials, Distribution, Policy
from cove.image.images import Images
from cove.image.layers import Layers
from cove.image.travel import loading, saving
from cove.oci import image
from cove.oci.platform import Platform
from cove.oci.reference import Reference
from cove.paths import DataRoot
from tests.conftest import eventually, free_port
from tests.integration.distribution_world import descriptor, make_image, noise, real_registry
from tests.integration.scripted_registry import QUICK, Answer, Client, reply, server, serving

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)


def images_in(root: Path) -> tuple[Images, Layers]:
    """The images and unpacked layers of a data root."""
    data = DataRoot(root)
    content = ContentStore(data.image)
    layers = Layers(data, content)
    return Images(data, content, layer_size=layers.size), layers


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


# ── a real registry ───────────────────────────────────────────────────────────────────────────────


@needs_registry
def test_push_then_pull_elsewhere_and_again(registry: str) -> None:
    here, there = Client(), Client()
    digest = make_image(here.world, f"{registry}/a/app:v1", [noise(3 << 20, n) for n in range(5)])
    assert here.push(f"{registry}/a/app:v1") == digest
    assert here.statuses.count("Pushed") == 5 and here.messages[-1]["aux"]["Digest"] == digest
    assert f"v1: digest: {digest}" in here.statuses[-2]

    there.pull(f"{registry}/a/app:v1")
    assert there.messages[0] == {"status": "Pulling from a/app", "id": "v1"}
    assert there.statuses.count("Pull complete") == 5 and "Downloading" in there.statuses
    assert there.statuses[-2:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {registry}/a/app:v1"]
    assert len(there.world.unpacked) == 5 and there.world.named[f"{registry}/a/app@{digest}"] == digest
    assert there.world.blobs == here.world.blobs

    there.messages.clear()
    there.pull(f"{registry}/a/app:v1")
    assert there.statuses.count("Already exists") == 5
    assert there.statuses[-1] == f"Status: Image is up to date for {registry}/a/app:v1"
    there.pull(f"{registry}/a/app@{digest}")

    here.messages.clear()
    here.push(f"{registry}/a/app:v1")
    assert here.statuses.count("Layer already exists") == 5
    here.messages.clear()
    here.world.register(digest, [f"{registry}/b/copy:v2"])
    here.push(f"{registry}/b/copy:v2")
    assert here.statuses.count("Mounted from a/app") == 5


@needs_registry
@pytest.mark.root
def test_with_images_on_disk(registry: str, tmp_path: Path) -> None:
    name = f"{registry}/disk/app:v1"
    made, said = Client(), list[dict[str, Any]]()
    make_image(made.world, name, [noise(200_000), b"two"])
    made.push(name)
    images, layers = images_in(tmp_path / "a")
    distribution = Distribution(images.content, images, layers, QUICK)
    stored = distribution.pull(Reference.parse(name), progress=said.append)
    assert stored.id == made.world.get(name).id == images.get(name).id
    assert images.get(name).names == (name,) and len(images.get(name).repo_digests) == 1
    again = distribution.pull(Reference.parse(images.get(name).repo_digests[0]), progress=said.append)
    assert again.names == (name,)
    images.tag(name, f"{registry}/disk/copy:v2")
    distribution.push(Reference.parse(f"{registry}/disk/copy:v2"), progress=said.append)
    assert [m.get("status") for m in said].count("Mounted from disk/app") == 2
    assert images.get(name).names == (f"{registry}/disk/app:v1", f"{registry}/disk/copy:v2")
    saved = saving.save(images.content, images, [name, f"{registry}/disk/copy"])
    (other, unpacked), spool = images_in(tmp_path / "b"), tmp_path / "spool"
    spool.mkdir()
    loading.load(other.content, other, unpacked, saved, spool, said.append)
    assert other.get(stored.id).names == images.get(name).names
    for stack in (layers.stack(stored.chain_ids[-1]), unpacked.stack(stored.chain_ids[-1])):
        assert [(stack[1] / "file0").stat().st_size, (stack[0] / "file1").read_bytes()] == [200_000, b"two"]


@needs_registry
def test_platform_is_chosen_from_an_index(registry: str) -> None:
    client = Client()
    manifests = []
    for architecture in ("arm64", "amd64"):
        digest = make_image(
            client.world, f"{registry}/multi:{architecture}", [architecture.encode()], architecture=architecture
        )
        client.push(f"{registry}/multi:{architecture}")
        raw = client.world.read(digest)
        manifests.append(descriptor(image.OCI_MANIFEST, raw, platform={"os": "linux", "architecture": architecture}))
    index = json.dumps({"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": manifests}).encode()
    repository = client.distribution._origin(Reference.parse(f"{registry}/multi"), None, threading.Event())
    repository.put_manifest("latest", index, image.OCI_INDEX)

    stored = client.pull(f"{registry}/multi", platform=Platform.parse("linux/arm64"))
    assert stored.config.architecture == "arm64"
    with pytest.raises(NotFound, match=r"no matching manifest for linux/s390x .* offers linux/amd64, linux/arm64"):
        client.pull(f"{registry}/multi", platform=Platform.parse("linux/s390x"))
    with pytest.raises(NotFound, match="does not match the specified platform"):
        client.pull(f"{registry}/multi:arm64", platform=Platform.parse("linux/amd64"))


@needs_registry
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("options", [["--format", "v2s2"], ["--dest-compress-format", "zstd"]])
def test_what_skopeo_pushed(registry: str, options: list[str], tmp_path: Path) -> None:
    here, there = Client(), Client()
    make_image(here.world, "app:v1", [b"one", b"two"])
    saved = tmp_path / "saved.tar"
    saved.write_bytes(b"".join(saving.save(here.world, here.world, ["app:v1"])))
    name = f"{registry}/by/skopeo{len(options[1])}:v1"
    command = ["skopeo", "--insecure-policy", "--tmpdir", str(tmp_path), "copy", "--dest-tls-verify=false", *options]
    subprocess.run([*command, f"oci-archive:{saved}:v1", f"docker://{name}"], check=True, capture_output=True)
    there.pull(name)
    assert there.statuses.count("Pull complete") == 2
    assert there.distribution.tags(Reference.parse(name)) == ("v1",)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_only_a_trusted_certificate_is_believed(tmp_path: Path) -> None:
    class Strict(Policy):
        def accepts_insecure(self, host: str) -> bool:
            return False

    key, certificate = tmp_path / "key", tmp_path / "cert"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with server(serving([b"one"]), tls=(certificate, key)) as (host, _):
        with pytest.raises(Unavailable, match=r"cannot trust the registry .*self-signed certificate"):
            Client(Strict()).pull(f"{host}/app")
        (tmp_path / host).mkdir()
        shutil.copy(certificate, tmp_path / host / "ca.crt")
        Client(Strict(certificates=(tmp_path,))).pull(f"{host}/app")
        Client().pull(f"{host}/app")
    with server(serving([b"one"])) as (host, _), pytest.raises(Unavailable, match="not speak TLS"):
        Client(Strict()).pull(f"{host}/app")


@needs_registry
def test_absent_names_and_servers(registry: str) -> None:
    client = Client()
    with pytest.raises(NotFound, match=f"manifest for {registry}/no:latest not found: manifest unknown"):
        client.pull(f"{registry}/no")
    with pytest.raises(Unavailable, match="connection refused; check its address"):
        client.pull(f"127.0.0.1:{free_port()}/no")
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: no"):
        client.push("no")
    assert client.messages == []


@needs_registry
def test_basic_credentials(tmp_path: Path) -> None:
    # bcrypt of "secret", cost 5
    entry = subprocess.run(
        [
            sys.executable,
            "-c",
            "import crypt;print(crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=32)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not entry.startswith("$2"):
        pytest.skip("this libcrypt has no bcrypt to make a password file with")
    with real_registry(tmp_path, f"me:{entry}\n") as host:
        client = Client()
        make_image(client.world, f"{host}/app", [b"x"])
        good = Credentials(username="me", password="secret", server_address=host)
        assert client.distribution.login(good) == "Login Succeeded"
        with pytest.raises(Unauthorized, match="login attempt"):
            client.distribution.login(
                Credentials(username="me", password="wrong", server_address=f"http://{host}/v2/")
            )
        with pytest.raises(Forbidden, match="push access denied"):
            client.push(f"{host}/app")
        client.push(f"{host}/app", credentials=good)
        with pytest.raises(
            NotFound, match=r"pull access denied for .*/app, repository does not exist or may require"
        ):
            client.pull(f"{host}/app")
        client.pull(f"{host}/app", credentials=good)


# ── a lying registry ──────────────────────────────────────────────────────────────────────────────


def test_a_wrong_digest_is_never_stored() -> None:
    world = serving([b"one"])

    def lie(handler: BaseHTTPRequestHandler) -> bool:
        _, kind, digest = handler.path.rpartition("/blobs/")
        return bool(kind) and reply(handler, 200, b"x" * len(world.blobs[digest]))

    client = Client()
    with server(world, lie) as (host, _), pytest.raises(Unavailable, match="something else than sha256"):
        client.pull(f"{host}/app")
    assert client.world.blobs == {} and client.world.named == {}


def test_a_wrong_manifest_and_an_ambiguous_one_are_refused() -> None:
    world = serving([b"one"])
    digest = world.named["tag:latest"]
    lie: Answer = lambda h: digest in h.path and reply(h, 200, b"{}")  # noqa: E731
    with server(world, lie) as (host, _), pytest.raises(Unavailable, match="nothing of it was kept"):
        Client().pull(f"{host}/app@{digest}")
    both = json.dumps({**json.loads(world.blobs[digest]), "manifests": []}).encode()
    world.named["tag:latest"] = world.put(both)
    with server(world) as (host, _), pytest.raises(InvalidArgument, match="ambiguous"):
        Client().pull(f"{host}/app")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(ranges: bool) -> None:
    world = serving([noise(1 << 20)])
    big = max(world.blobs, key=lambda digest: len(world.blobs[digest]))
    breaks: list[str | None] = []

    def break_off(handler: BaseHTTPRequestHandler) -> bool:
        if not handler.path.endswith(big):
            return False
        wanted = handler.headers.get("Range")
        breaks.append(wanted)
        data = world.blobs[big]
        start = int(wanted[6:-1]) if wanted and ranges else 0
        partial = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.send_response(206 if start else 200)
        for name, value in {"Content-Length": str(len(data) - start), **partial}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data[start : start + 300_000 * len(breaks)])
        handler.close_connection = True
        return True

    client = Client()
    with server(world, break_off) as (host, _):
        client.pull(f"{host}/app")
    assert client.world.blobs[big] == world.blobs[big]
    assert breaks[0] is None and len(breaks) > 2 and breaks[1] == "bytes=300000-"


def test_an_endless_breaker_is_given_up() -> None:
    world = serving([noise(1 << 20)])

    def nothing(handler: BaseHTTPRequestHandler) -> bool:
        if "/blobs/" not in handler.path or len(world.blobs[handler.path.rpartition("/")[2]]) < 1 << 20:
            return False
        handler.close_connection = True
        return reply(handler, 200, b"abc", {"Content-Length": str(1 << 20)})

    with (
        server(world, nothing) as (host, _),
        pytest.raises(Unavailable, match=r"broke off after 1?[0-9] of .* bytes"),
    ):
        Client().pull(f"{host}/app")


def test_retry_after_is_honoured_and_bounded() -> None:
    world = serving([b"one"])
    refused: list[float] = []

    def limit(handler: BaseHTTPRequestHandler, wait: str = "1") -> bool:
        if "/blobs/" in handler.path and len(refused) < 1:
            refused.append(time.monotonic())
            return reply(handler, 429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', {"Retry-After": wait})
        return False

    client = Client()
    with server(world, limit) as (host, _):
        client.pull(f"{host}/app")
    assert time.monotonic() - refused[0] >= 1
    forever: Answer = lambda h: "/blobs/" in h.path and reply(h, 429, b"", {"Retry-After": "86400"})  # noqa: E731
    with server(world, forever) as (host, _), pytest.raises(Unavailable, match="allows no more requests"):
        Client().pull(f"{host}/app")


def test_credentials_stay_with_the_registry() -> None:
    world = serving([b"one"])
    challenge = {"WWW-Authenticate": 'Bearer realm="https://evil.invalid/token",service="x"'}
    secret = Credentials(username="me", password="secret")

    def store(handler: BaseHTTPRequestHandler) -> bool:
        return False

    with server(world, store) as (elsewhere, elsewhere_saw):

        def front(handler: BaseHTTPRequestHandler) -> bool:
            if handler.path.startswith("/token"):
                return reply(handler, 200, b'{"token": "t0ken"}')
            if handler.headers.get("Authorization") != "Bearer t0ken":
                realm = f'Bearer realm="http://{handler.headers["Host"]}/token",service="x"'
                return reply(handler, 401, b"", {"WWW-Authenticate": realm})
            if "/blobs/" in handler.path:
                return reply(handler, 307, b"", {"Location": f"http://{elsewhere}{handler.path}"})
            return False

        with server(world, front) as (host, host_saw):
            Client().pull(f"{host}/app", credentials=secret)
        assert any(path.startswith("/token") and "pull" in path and auth == secret.basic for path, auth in host_saw)
        assert len(elsewhere_saw) == 2 and all(auth is None for _, auth in elsewhere_saw)

    with server(world, lambda h: reply(h, 401, b"", challenge)) as (stranger, stranger_saw):

        def redirect(handler: BaseHTTPRequestHandler) -> bool:
            there = {"Location": f"http://{stranger}{handler.path}"}
            return "/blobs/" in handler.path and reply(handler, 307, b"", there)

        with server(world, redirect) as (host, _), pytest.raises(CoveError, match="denied"):
            Client().pull(f"{host}/app", credentials=secret)
        assert all(auth is None for _, auth in stranger_saw) and len(stranger_saw) == 1


PATIENCE_AT_AN_END = Policy(
    backoff=0.01, longest_wait=0.1, read_timeout=0.5, stall_timeout=0.5, attempts=2, certificates=()
)


@pytest.mark.parametrize("way", ["says nothing", "trickles"])
@pytest.mark.parametrize("part", ["head", "manifest", "layer"])
def test_a_registry_that_keeps_one_waiting_is_left_with_a_sentence(part: str, way: str) -> None:
    world = serving([noise(1 << 18)])
    big = max(world.blobs, key=lambda digest: len(world.blobs[digest]))
    ended = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> bool:
        if not (handler.path.endswith(big) if part == "layer" else "/manifests/" in handler.path):
            return False
        if part == "head":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(world.blobs[big])))
            handler.end_headers()
        with contextlib.suppress(OSError):
            while not ended.wait(0.05):
                handler.wfile.write(b"x" if way == "trickles" else b"")
        handler.close_connection = True
        return True

    with server(world, wait) as (host, _):
        try:
            with pytest.raises(Unavailable) as refused:
                Client(PATIENCE_AT_AN_END).pull(f"{host}/app")
        finally:
            ended.set()
    assert host in refused.value.message and "\n" not in refused.value.message


def test_a_web_page_is_no_manifest() -> None:
    world = serving([noise(1000)])

    def page(handler: BaseHTTPRequestHandler) -> bool:
        return "/manifests/" in handler.path and reply(handler, 200, b"<html>", {"Content-Type": "text/html"})

    def mistyped(handler: BaseHTTPRequestHandler) -> bool:
        data = world.blobs[world.named["tag:latest"]]
        return "/manifests/" in handler.path and reply(handler, 200, data, {"Content-Type": "text/html; charset=x"})

    for answer in (page, mistyped):
        with server(world, answer) as (host, _), pytest.raises(Unavailable, match=f"{host} answers with something"):
            Client().pull(f"{host}/app")


def test_two_pulls_share_one_download_and_a_cancelled_one_ends() -> None:
    world = serving([noise(1 << 18)])
    big = max(world.blobs, key=lambda digest: len(world.blobs[digest]))

    client = Client()

    def slow(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path.endswith(big):
            assert eventually(lambda: client.statuses.count("Pulling fs layer") == 3), "all of them want it"
        return False

    with server(world, slow) as (host, seen):
        threads = [threading.Thread(target=client.pull, args=(f"{host}/app",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(path.endswith(big) for path, _ in seen) == 1 and client.statuses.count("Pull complete") == 3

    cancel = threading.Event()

    def cancelling(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path.endswith(big):
            cancel.set()
        return False

    fresh = Client()
    with server(world, cancelling) as (host, _), pytest.raises(Unavailable, match="cancelled"):
        fresh.pull(f"{host}/app", cancel=cancel)
    assert fresh.world.named == {}
