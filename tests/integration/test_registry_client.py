"""Pulls through mirrors and rewrites, on after a break, past limits and lies; whose certificates are believed."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cove.errors import Forbidden, InvalidArgument, NotFound, Unavailable
from cove.image.content import ContentStore
from cove.image.distribution import Credentials, Distribution, Policy
from cove.image.images import Images
from cove.image.layers import Layers
from cove.oci.reference import Reference
from cove.paths import DataRoot
from tests.conftest import free_port
from tests.integration.distribution_world import World, noise
from tests.integration.scripted_registry import Answer, Client, reply, server, serving


def policy(file: Path, text: str = "", **more: object) -> Policy:
    file.write_text(text)
    return Policy(backoff=0.01, longest_wait=1, read_timeout=60, registries=file, certificates=(), **more)  # type: ignore[arg-type]


def biggest(world: World) -> str:
    return max(world.blobs, key=lambda digest: len(world.blobs[digest]))


# ── mirrors and rewrites ──────────────────────────────────────────────────────────────────────────


def test_mirrors_are_asked_in_order_and_then_the_registry(tmp_path: Path) -> None:
    world = serving([b"one"])
    gone = f"127.0.0.1:{free_port()}"
    with server(World()) as (empty, empty_saw), server(world) as (full, full_saw), server(world) as (own, own_saw):
        rules = f"""
            [[registry]]
            prefix = "{own}/team"
            mirrors = ["{gone}/x", "{empty}", "{full}/cache/{{registry}}"]
        """
        client = Client(policy(tmp_path / "registries.toml", rules))
        client.pull(f"{own}/team/app")
        assert any(path.startswith("/v2/app/manifests") for path, _ in empty_saw)
        assert any(path == f"/v2/cache/{own}/app/manifests/latest" for path, _ in full_saw)
        assert not own_saw, "a mirror had it"
        client.pull(f"{own}/other/app")
        assert own_saw, "another prefix"
        (tmp_path / "registries.toml").write_text("")
        before = len(full_saw)
        client.pull(f"{own}/team/app")
        assert len(full_saw) == before, "the file is read again when it changed"


def test_any_registry_is_rewritten_blocked_or_left_to_its_mirrors(tmp_path: Path) -> None:
    world = serving([b"one"])
    with server(world) as (cache, seen):
        rules = f"""
            [[registry]]
            prefix = "*"
            mirrors = ["{cache}/{{registry}}"]
            mirrors_only = true
            [[registry]]
            prefix = "old.invalid/team"
            location = "{cache}/new"
            [[registry]]
            prefix = "evil.invalid"
            blocked = "the security team forbids it"
        """
        client = Client(policy(tmp_path / "registries.toml", rules))
        client.pull("quay.invalid/a/b")
        client.pull("busybox")
        client.pull("old.invalid/team/app")
        paths = [path for path, _ in seen]
        assert "/v2/quay.invalid/a/b/manifests/latest" in paths
        assert "/v2/docker.io/library/busybox/manifests/latest" in paths
        assert "/v2/new/app/manifests/latest" in paths
        assert set(client.world.named) >= {"quay.invalid/a/b:latest", "docker.io/library/busybox:latest"}
        with pytest.raises(Forbidden, match="security team forbids"):
            client.pull("evil.invalid/app")


def test_a_mirror_that_lies_or_breaks_is_left_for_the_next_place(tmp_path: Path) -> None:
    world = serving([noise(1 << 20)])
    big = biggest(world)
    wanted: list[str | None] = []

    def lie(handler: BaseHTTPRequestHandler) -> bool:
        return handler.path.endswith(big) and reply(handler, 200, b"x" * len(world.blobs[big]))

    def half(handler: BaseHTTPRequestHandler) -> bool:
        if not handler.path.endswith(big):
            return False
        handler.close_connection = True
        return reply(handler, 200, world.blobs[big][:1000], {"Content-Length": str(len(world.blobs[big]))})

    def note(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path.endswith(big):
            wanted.append(handler.headers.get("Range"))
        return False

    for trouble in (lie, half):
        with server(world, trouble) as (mirror, _), server(world, note) as (own, _):
            rules = f'[[registry]]\nprefix = "{own}"\nmirrors = ["{mirror}"]'
            client = Client(policy(tmp_path / "registries.toml", rules))
            client.pull(f"{own}/app")
            assert client.world.blobs[big] == world.blobs[big]
    assert wanted == [None, "bytes=1000-"]


def test_credentials_go_to_the_registry_and_the_administrators_to_the_mirror(tmp_path: Path) -> None:
    world = serving([b"one"])
    mine = Credentials(username="me", password="mine")

    def basic(handler: BaseHTTPRequestHandler) -> bool:
        challenge = {"WWW-Authenticate": 'Basic realm="x"'}
        return "Authorization" not in handler.headers and reply(handler, 401, b"", challenge)

    with server(world, basic) as (mirror, mirror_saw), server(world, basic) as (own, own_saw):
        rules = f'[[registry]]\nprefix = "{own}"\nmirrors = ["{mirror}"]\n'
        Client(policy(tmp_path / "registries.toml", rules)).pull(f"{own}/app", credentials=mine)
        assert {auth for _, auth in mirror_saw} == {None}
        assert {auth for path, auth in own_saw if path != "/v2/"} == {mine.basic}

        (tmp_path / "password").write_text("theirs\n")
        rules += f'[host."{mirror}"]\nusername = "puller"\npassword_file = "{tmp_path}/password"\n'
        Client(policy(tmp_path / "registries.toml", rules)).pull(f"{own}/app", credentials=mine)
        theirs = Credentials(username="puller", password="theirs").basic
        assert {auth for path, auth in mirror_saw if path.endswith("latest")} == {None, theirs}
        assert mine.basic not in {auth for _, auth in mirror_saw}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[registry]]\nmirrors = []", "prefix"),
        ('[[registry]]\nprefix = "a"\nmirors = ["b"]', "mirors"),
        ('[[registry]]\nprefix = "a"\nmirrors = ["https://b"]', "write HOST"),
        ('[host."a"]\nclient_key = "k"', "without its key"),
        ("nonsense", "refused"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Client(policy(tmp_path / "registries.toml", text)).pull("127.0.0.1:1/app")


# ── certificates ──────────────────────────────────────────────────────────────────────────────────


def test_a_registry_that_wants_a_client_certificate_gets_it(tmp_path: Path) -> None:
    class Strict(Policy):
        def accepts_insecure(self, host: str) -> bool:
            return False

    key, certificate = tmp_path / "key", tmp_path / "cert"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)

    def asking(context: ssl.SSLContext) -> None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)

    with server(serving([b"one"]), tls=(certificate, key), configure=asking) as (host, _):
        place = tmp_path / "certs.d" / host
        place.mkdir(parents=True)
        strict = Strict(certificates=(tmp_path / "certs.d",), attempts=1)
        shutil.copy(certificate, place / "ca.crt")
        with pytest.raises(Unavailable):
            Client(strict).pull(f"{host}/app")
        shutil.copy(certificate, place / "client.cert")
        with pytest.raises(InvalidArgument, match=r"certificates for the registry .* cannot be used"):
            Client(strict).pull(f"{host}/app")
        shutil.copy(key, place / "client.key")
        Client(strict).pull(f"{host}/app")

        rules = f"""
            [host."{host}"]
            ca = "{certificate}"
            client_certificate = "{certificate}"
            client_key = "{key}"
        """
        (tmp_path / "registries.toml").write_text(rules)
        Client(Strict(certificates=(), registries=tmp_path / "registries.toml")).pull(f"{host}/app")


# ── breaks, limits, lies ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[tuple[Distribution, DataRoot, Images]]:
    yield opened(tmp_path)


def opened(root: Path) -> tuple[Distribution, DataRoot, Images]:
    """A store as a daemon opens it."""
    data = DataRoot(root)
    content = ContentStore(data.image)
    layers = Layers(data, content)
    images = Images(data, content, layers.size)
    return Distribution(content, images, layers, Policy(attempts=2, backoff=0.01, certificates=())), data, images


@pytest.mark.root
def test_a_pull_that_broke_off_goes_on_after_a_restart(tmp_path: Path) -> None:
    world = serving([noise(3 << 20), b"two"])
    big = biggest(world)
    ranges: list[str | None] = []
    broken = True

    def break_off(handler: BaseHTTPRequestHandler) -> bool:
        if not handler.path.endswith(big):
            return False
        wanted, data = handler.headers.get("Range"), world.blobs[big]
        ranges.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        end = min(start + (1 << 20), len(data)) if broken else len(data)
        handler.close_connection = True
        told = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        if broken and start:
            return True  # nothing more comes
        length = {"Content-Length": str(len(data) - start)}
        return reply(handler, 206 if start else 200, data[start:end], {**length, **told})

    with server(world, break_off) as (host, _):
        distribution, data, _ = opened(tmp_path)
        with pytest.raises(Unavailable, match="broke"):
            distribution.pull(Reference.parse(f"{host}/app"), progress=lambda _: None)
        (partial,) = (data.image / "partial").iterdir()
        assert partial.stat().st_size == 1 << 20
        assert not [path for path in data.layers.iterdir() if path.is_dir() and path.name.startswith(".")]

        broken = False
        ranges.clear()
        distribution, data, images = opened(tmp_path)
        stored = distribution.pull(Reference.parse(f"{host}/app"), progress=lambda _: None)
        assert ranges == [f"bytes={1 << 20}-"], "only the rest was asked for"
        assert not list((data.image / "partial").iterdir())
        assert images.content.read(big) == world.blobs[big]
        assert (data.layer(stored.chain_ids[0]) / "file0").read_bytes() == noise(3 << 20)


@pytest.mark.root
def test_a_damaged_half_is_thrown_away(tmp_path: Path) -> None:
    world = serving([noise(1 << 20)])
    big = biggest(world)
    with server(world) as (host, _):
        distribution, data, images = opened(tmp_path)
        (data.image / "partial" / big.replace(":", "-")).write_bytes(bytes(1000))
        distribution.pull(Reference.parse(f"{host}/app"), progress=lambda _: None)
        assert images.content.read(big) == world.blobs[big]


def test_a_rate_limit_is_told_in_words() -> None:
    limits = {"Retry-After": "7200", "RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
    forever: Answer = lambda h: "/manifests/" in h.path and reply(h, 429, b"", limits)  # noqa: E731
    with server(serving([b"one"]), forever) as (host, _), pytest.raises(Unavailable) as refused:
        Client().pull(f"{host}/app")
    assert "its limit is 100 in 6 hours; try again in 2 hours, or log in" in refused.value.message


def test_lies_about_length_size_and_place_end_in_one_sentence() -> None:
    world = serving([noise(1 << 18)])
    big = biggest(world)
    size = len(world.blobs[big])
    longer: Answer = lambda h: h.path.endswith(big) and reply(h, 200, world.blobs[big] + bytes(size))  # noqa: E731
    huge: Answer = lambda h: "/manifests/" in h.path and reply(h, 200, b"{" + b" " * (5 << 20))  # noqa: E731
    circle: Answer = lambda h: "/manifests/" in h.path and reply(h, 307, b"", {"Location": h.path})  # noqa: E731
    plain: Answer = lambda h: "/manifests/" in h.path and reply(h, 307, b"", {"Location": "ftp://x/"})  # noqa: E731
    for trouble, words in (
        (longer, f"announces {2 * size} bytes"),
        (huge, "more than 4 MiB"),
        (circle, "redirects in circles"),
        (plain, "not encrypted"),
    ):
        client = Client()
        with server(world, trouble) as (host, _), pytest.raises(Unavailable, match=words):
            client.pull(f"{host}/app")
        assert big not in client.world.blobs and client.world.named == {}


def test_what_is_no_image_is_refused() -> None:
    world = serving([b"one"])
    manifest = world.blobs[world.named["tag:latest"]]
    config = b'"mediaType": "application/vnd.oci.image.config.v1+json"'
    assert config in manifest
    other = manifest.replace(config, b'"mediaType": "application/vnd.example.thing"')
    world.named["tag:latest"] = world.put(other)
    with (
        server(world) as (host, _),
        pytest.raises(Exception, match="is not a container image"),
    ):
        Client().pull(f"{host}/app")
    with server(world) as (host, _), pytest.raises(NotFound, match="manifest unknown"):
        Client().pull(f"{host}/app:other")
