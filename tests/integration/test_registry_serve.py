"""`cove registry serve` beyond the specification: who may do what, how much, for how long, and who sees it."""

from __future__ import annotations

import base64
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, Daemon, eventually
from tests.integration.distribution_world import layer_tar, noise
from tests.integration.registry_world import OCI_INDEX, OCI_MANIFEST, Serving, descriptor, digest_of, serving


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    file = tmp_path / "htpasswd"
    command = [BIN / "cove", "registry", "passwd", "--password-stdin", file, "me"]
    subprocess.run(command, input=b"secret\n", check=True, capture_output=True)
    return file


@pytest.fixture
def open_registry(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture(scope="module")
def shared_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("shared")) as registry:
        yield registry


# ── who ───────────────────────────────────────────────────────────────────────────────────────────


def test_passwords_are_asked_for(tmp_path: Path, passwords: Path) -> None:
    with serving(tmp_path / "registry", "--htpasswd", str(passwords)) as registry:
        stranger = registry.get("/v2/")
        assert stranger.status == 401 and stranger.headers["www-authenticate"].startswith("Basic realm=")
        assert registry.get("/").status == registry.get("/metrics").status == 401
        registry.headers = basic("me", "wrong")
        assert registry.get("/v2/").status == 401
        registry.headers = basic("nobody", "secret")
        assert registry.get("/v2/").status == 401
        registry.headers = basic("me", "secret")
        assert registry.get("/v2/").status == registry.get("/").status == 200
        registry.push_image("mine/app", "v1", [b"x"])
        assert registry.metric("cove_registry_refused_logins_total") == 2
        passwords.write_text("")  # who is taken out is out at once
        assert registry.get("/v2/").status == 401


def test_a_password_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weak").write_text("me:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
    command = [BIN / "cove", "registry", "serve", "--listen", "127.0.0.1:0", "--root", tmp_path, "--htpasswd"]
    done = subprocess.run([*command, tmp_path / "weak"], capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 1 and "Line 1" in done.stderr and "bcrypt" in done.stderr


def test_tokens_give_what_was_asked_for_and_no_more(tmp_path: Path, passwords: Path) -> None:
    with serving(tmp_path / "registry", "--htpasswd", str(passwords), "--anonymous-pull") as registry:
        challenge = registry.call("POST", "/v2/mine/app/blobs/uploads/").headers["www-authenticate"]
        assert (
            f'realm="http://{registry.host}/token"' in challenge
            and 'scope="repository:mine/app:pull,push"' in challenge
        )

        def token(scope: str, **headers: str) -> dict[str, str]:
            answer = registry.call("GET", f"/token?service=cove-registry&scope={scope}", **headers)
            assert answer.status == 200, answer.body
            return {"Authorization": f"Bearer {answer.json['token']}"}

        mine = token("repository:mine/app:pull,push", **basic("me", "secret"))
        registry.headers = mine
        registry.push_image("mine/app", "v1", [b"x"])
        assert registry.call("DELETE", "/v2/mine/app/manifests/v1").status == 401  # was not asked for
        assert registry.call("POST", "/v2/other/app/blobs/uploads/").status == 401
        registry.headers = token("repository:mine/app:pull,push,delete")  # by nobody: pulls only
        assert registry.get("/v2/mine/app/manifests/v1").status == 200
        assert registry.call("POST", "/v2/mine/app/blobs/uploads/").status == 401
        assert registry.call("DELETE", "/v2/mine/app/manifests/v1").status == 401
        forged = mine["Authorization"].split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
        for bad in (f"Bearer {none}.{forged[1]}.", f"Bearer {'.'.join(forged[:2])[7:]}.AAAA"):
            registry.headers = {"Authorization": bad}
            assert registry.get("/v2/mine/app/manifests/v1").status == 401
        registry.headers = {}
        assert registry.call("GET", "/token", **basic("me", "wrong")).status == 401
        assert registry.get("/").status == 200  # who may pull may look


def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=r"
    words += f" -keyout {key} -out {certificate}"
    subprocess.run(
        ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True
    )
    context = ssl.create_default_context(cafile=str(certificate))
    with serving(tmp_path / "r", "--tls-cert", str(certificate), "--tls-key", str(key), tls=context) as registry:
        data = noise(3 << 20)
        digest = registry.push_blob("secure/app", data)
        assert registry.get(f"/v2/secure/app/blobs/{digest}").body == data


# ── how much ──────────────────────────────────────────────────────────────────────────────────────


def test_quotas(tmp_path: Path) -> None:
    with serving(tmp_path / "registry", "--quota", "300k", "--repository-quota", "200k") as registry:
        registry.push_blob("a/app", noise(150_000, 1))
        small = noise(100_000, 2)
        refused = registry.call("POST", f"/v2/a/app/blobs/uploads/?digest={digest_of(small)}", small)
        assert refused.status == 403 and refused.code == "DENIED" and "a/app" in refused.json["errors"][0]["message"]
        large = noise(200_000, 3)
        refused = registry.call("POST", f"/v2/b/app/blobs/uploads/?digest={digest_of(large)}", large)
        assert refused.status == 403 and "this registry" in refused.json["errors"][0]["message"]
        assert registry.call("DELETE", f"/v2/a/app/blobs/{digest_of(noise(150_000, 1))}").status == 202
        assert eventually(lambda: registry.metric("cove_registry_stored_bytes") == 0)
        registry.push_blob("b/app", large)


def test_read_only(tmp_path: Path) -> None:
    with serving(tmp_path / "registry") as registry:
        digest, raw = registry.push_image("app", "v1", [b"x"])
    with serving(tmp_path / "registry", "--read-only") as registry:
        assert registry.get("/v2/app/manifests/v1").body == raw
        for method, path in (
            ("POST", "/v2/app/blobs/uploads/"),
            ("PUT", "/v2/app/manifests/v2"),
            ("DELETE", f"/v2/app/manifests/{digest}"),
            ("DELETE", f"/v2/app/blobs/{digest_of(b'x')}"),
        ):
            assert registry.call(method, path).status == 405


# ── what is lost and what is not ──────────────────────────────────────────────────────────────────


def test_a_blob_is_stored_once_and_goes_with_its_last_user(open_registry: Serving) -> None:
    layer = noise(50_000)
    one, _ = open_registry.push_image("one/app", "v1", [layer])
    two, _ = open_registry.push_image("two/app", "v1", [layer])
    assert one == two and len(open_registry.blobs()) == 3
    collections = open_registry.metric("cove_registry_collections_total")
    open_registry.call("DELETE", f"/v2/one/app/manifests/{one}")
    assert eventually(lambda: open_registry.metric("cove_registry_collections_total") > collections)
    assert open_registry.get(f"/v2/two/app/blobs/{digest_of(layer)}").body == layer
    assert open_registry.get(f"/v2/one/app/blobs/{digest_of(layer)}").status == 404
    open_registry.call("DELETE", "/v2/two/app/manifests/v1")
    assert open_registry.get(f"/v2/two/app/manifests/{two}").status == 200  # only a tag went
    open_registry.call("DELETE", f"/v2/two/app/manifests/{two}")


def test_garbage_goes_while_pushes_are_under_way(tmp_path: Path) -> None:
    """Deletions trigger collections all the time; no push that meanwhile succeeds may miss anything."""
    with serving(tmp_path / "registry", "--gc-interval", "0.05s") as registry:
        failures: list[str] = []

        def churn(number: int) -> None:
            shared = noise(30_000, 99)
            for turn in range(12):
                own = noise(20_000, number * 100 + turn)
                digest, _ = registry.push_image(f"churn/{number}", f"t{turn}", [shared, own])
                pulled = [
                    registry.get(f"/v2/churn/{number}/blobs/{digest_of(layer)}").body for layer in (shared, own)
                ]
                failures.extend([f"{number}: a layer of turn {turn} was lost"] * (pulled != [shared, own]))
                registry.call("DELETE", f"/v2/churn/{number}/manifests/{digest}")

        threads = [threading.Thread(target=churn, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert registry.metric("cove_registry_collections_total") > 0
        assert "Traceback" not in registry.log()


def test_uploads_that_broke_off_go_on_or_go_away(open_registry: Serving) -> None:
    data = noise(400_000)
    place = open_registry.call("POST", "/v2/app/blobs/uploads/").headers["location"]
    with socket.create_connection(("127.0.0.1", open_registry.port)) as client:
        client.sendall(f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n".encode() + data[:1000])
        time.sleep(0.1)
    assert eventually(lambda: open_registry.get(place).status == 204)
    reached = int(open_registry.get(place).headers["range"].partition("-")[2])
    start = reached + 1 if reached else 0
    assert open_registry.call("PUT", f"{place}?digest={digest_of(data)}", data[start:]).status == 201
    open_registry.call("PATCH", open_registry.call("POST", "/v2/app/blobs/uploads/").headers["location"], data)
    uploads = open_registry.root / "data" / "uploads"
    assert len(list(uploads.iterdir())) == 1
    open_registry.stop(signal.SIGKILL)
    open_registry.start()
    assert not list(uploads.iterdir())
    assert open_registry.get(f"/v2/app/blobs/{digest_of(data)}").body == data
    assert open_registry.metric("cove_registry_stored_bytes") == len(data)


def test_a_damaged_manifest_is_never_sent(shared_registry: Serving) -> None:
    digest, raw = shared_registry.push_image("app", "v1", [b"x"])
    blob = shared_registry.root / "data" / "blobs" / "sha256" / digest.partition(":")[2]
    blob.write_bytes(raw.replace(b"config", b"konfig", 1))
    assert shared_registry.get("/v2/app/manifests/v1").status == 500


def test_memory_stays_small_whatever_a_blob_weighs(shared_registry: Serving) -> None:
    assert shared_registry.process is not None
    status = Path(f"/proc/{shared_registry.process.pid}/status")

    def peak() -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))

    before = peak()
    data = bytes(96 << 20)
    digest = shared_registry.push_blob("app", data)
    assert len(shared_registry.get(f"/v2/app/blobs/{digest}").body) == len(data)
    assert peak() - before < 24 << 10


# ── a cache of others ─────────────────────────────────────────────────────────────────────────────


def test_a_cache_fetches_once_and_serves_when_the_other_is_silent(tmp_path: Path) -> None:
    layers = [noise(300_000, 1), noise(300_000, 2)]
    with serving(tmp_path / "upstream") as upstream:
        digest, raw = upstream.push_image("team/app", "v1", layers)
        options = ("--proxy", f"cache=http://{upstream.host}", "--proxy-ttl", "0.3s")
        with serving(tmp_path / "cache", *options) as cache:
            found = cache.get("/v2/cache/team/app/manifests/v1")
            assert found.body == raw and found.headers["docker-content-digest"] == digest
            assert (
                cache.head(f"/v2/cache/team/app/blobs/{digest_of(layers[0])}").headers["content-length"] == "300000"
            )
            answers: list[bytes] = []
            path = f"/v2/cache/team/app/blobs/{digest_of(layers[0])}"
            clients = [threading.Thread(target=lambda: answers.append(cache.get(path).body)) for _ in range(5)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            assert answers == [layers[0]] * 5
            assert cache.metric("cove_registry_proxy_received_bytes") == 300_000
            assert cache.get("/v2/cache/team/app/tags/list").json["tags"] == ["v1"]
            unknown = digest_of(upstream.push_blob("team/app", b"in no manifest").encode())
            assert cache.get(f"/v2/cache/team/app/blobs/{unknown}").status == 404
            assert cache.call("POST", "/v2/cache/team/app/blobs/uploads/").status == 405
            cache.push_image("own/app", "v1", [b"its own"])
            newer, _ = upstream.push_image("team/app", "v1", [b"newer"])
            time.sleep(0.4)
            assert cache.get("/v2/cache/team/app/manifests/v1").headers["docker-content-digest"] == newer
            assert cache.get("/v2/cache/team/none/manifests/v1").status == 404
            upstream.stop()
            time.sleep(0.4)
            assert cache.get("/v2/cache/team/app/manifests/v1").status == 200
            assert cache.get(path).body == layers[0]
            absent = cache.get(f"/v2/cache/team/app/manifests/{digest_of(b'?')}")
            assert absent.status == 503 and "cannot reach" in absent.json["errors"][0]["message"]


def test_what_nobody_asks_the_cache_for_goes(tmp_path: Path) -> None:
    with serving(tmp_path / "upstream") as upstream:
        upstream.push_image("app", "v1", [noise(1000)])
        options = (
            "--proxy",
            f"http://{upstream.host}",
            "--proxy-keep",
            "1s",
            "--gc-interval",
            "0.2s",
            "--gc-grace",
            "0s",
        )
        with serving(tmp_path / "cache", *options) as cache:
            assert cache.get("/v2/app/manifests/v1").status == 200
            assert cache.get(f"/v2/app/blobs/{digest_of(noise(1000))}").body == noise(1000)
            assert eventually(lambda: not cache.blobs())


# ── for people and programs that watch ────────────────────────────────────────────────────────────


def test_the_page_shows_platforms_side_by_side_and_escapes(shared_registry: Serving) -> None:
    children = []
    for system in ("linux", "windows"):
        _, raw = shared_registry.push_image("team/python", "", [noise(5000)], operating_system=system)
        platform = {"os": system, "architecture": "amd64"}
        platform |= {"os.version": "10.0.20348.2227"} if system == "windows" else {}
        children.append(descriptor(OCI_MANIFEST, raw, platform=platform))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    shared_registry.push_manifest("team/python", "3", index)
    evil = "<script>alert(1)</script>"
    shared_registry.push_image("team/evil", "v1", [b"x"], artifactType=evil, annotations={"a": evil})
    front = shared_registry.get("/")
    assert front.status == 200 and front.headers["content-type"] == "text/html; charset=utf-8"
    assert (
        'href="/r/team/python"' in front.body.decode()
        and "default-src 'none'" in front.headers["content-security-policy"]
    )
    assert "team/evil" not in shared_registry.get("/?q=python").body.decode()
    page = shared_registry.get("/r/team/python").body.decode()
    assert page.index("linux/amd64") < page.index("windows/amd64") and "10.0.20348.2227" in page
    assert f"cove pull {shared_registry.host}/team/python:3" in page and "5&nbsp;kB" in page
    assert 'href="#main"' in page and 'id="main"' in page and 'href="/"' in page, "by keyboard, and back"
    assert evil not in shared_registry.get("/r/team/evil").body.decode()
    assert "<script" not in shared_registry.get("/?q=<script>").body.decode()
    assert shared_registry.get("/r/none").status == 404


def test_metrics(open_registry: Serving) -> None:
    open_registry.push_image("app", "v1", [b"x" * 1000])
    open_registry.get(f"/v2/app/blobs/{digest_of(b'x' * 1000)}")
    assert open_registry.metric("cove_registry_repositories") == open_registry.metric("cove_registry_tags") == 1
    assert open_registry.metric("cove_registry_sent_bytes_total") == 1000
    assert open_registry.metric("cove_registry_received_bytes_total") > 1000
    lines = open_registry.get("/metrics").body.decode()
    assert 'cove_registry_requests_total{endpoint="manifests",method="PUT",status="201"} 1' in lines


# ── clients ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_copies_through_it(tmp_path: Path, passwords: Path) -> None:
    with serving(tmp_path / "registry", "--htpasswd", str(passwords), "--token") as registry:
        registry.headers = basic("me", "secret")
        digest, _ = registry.push_image("made/app", "v1", [noise(200_000)])
        skopeo = ["skopeo", "--command-timeout", "30s"]
        source, target = f"docker://{registry.host}/made/app:v1", f"docker://{registry.host}/copied/app:v2"
        secret = ["--src-creds", "me:secret", "--dest-creds", "me:secret"]
        insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run([*skopeo, "copy", "-q", *secret, *insecure, source, f"oci:{tmp_path}/layout:a"], check=True)
        subprocess.run([*skopeo, "copy", "-q", *secret, *insecure, f"oci:{tmp_path}/layout:a", target], check=True)
        across = f"docker://{registry.host}/copied/app:v1"
        subprocess.run([*skopeo, "copy", "-q", *secret, *insecure, source, across], check=True)
        assert registry.head("/v2/copied/app/manifests/v1").headers["docker-content-digest"] == digest
        strange = [*skopeo, "inspect", "--tls-verify=false", "--creds", "me:wrong", target]
        assert subprocess.run(strange, capture_output=True).returncode != 0
        delete = [*skopeo, "delete", "--tls-verify=false", "--creds", "me:secret", target]
        subprocess.run(delete, check=True)
        assert registry.head("/v2/copied/app/manifests/v2").status == 404


def test_cove_and_docker_push_to_it_and_pull_from_it(daemon: Daemon, shared_registry: Serving) -> None:
    for number, client in enumerate((daemon.cove, daemon.docker)):
        name = f"{shared_registry.host}/clients/app:{number}"
        client("tag", "busybox", name)
        pushed = client("push", name).stdout
        client("rmi", name)
        assert f"{number}: digest: sha256:" in pushed
        client("pull", "-q", name)
        assert client("run", "--rm", name, "echo", "here").stdout == "here\n"
        client("rmi", name)


def test_search_finds_names_where_there_is_a_catalogue(daemon: Daemon, shared_registry: Serving) -> None:
    for name in ("found/web", "found/website", "found/other"):
        shared_registry.push_image(name, "v1", [b"x"])
    for client in (daemon.cove, daemon.docker):
        found = client("search", "--format", "{{.Name}}", f"{shared_registry.host}/web").stdout.split()
        assert found == [f"{shared_registry.host}/found/web", f"{shared_registry.host}/found/website"]


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_pushes_to_it_and_pulls_from_it(shared_registry: Serving) -> None:
    shared_registry.push_image("podman/app", "v1", [layer_tar("file", b"content")])
    name = f"{shared_registry.host}/podman/app"
    insecure = "--tls-verify=false"
    with tempfile.TemporaryDirectory() as place:  # podman's own must be short
        podman = ["podman", "--root", f"{place}/r", "--runroot", f"{place}/q", "--storage-driver", "vfs"]
        for words in (
            ["pull", insecure, f"{name}:v1"],
            ["tag", f"{name}:v1", f"{name}:v2"],
            ["push", insecure, f"{name}:v2"],
        ):
            done = subprocess.run([*podman, *words], capture_output=True, text=True, timeout=120 * PATIENCE)
            assert done.returncode == 0, done.stderr
    assert shared_registry.get("/v2/podman/app/tags/list").json["tags"] == ["v1", "v2"]
