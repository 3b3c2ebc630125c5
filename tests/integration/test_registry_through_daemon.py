"""Images to and from a registry as people and programs do it: cove, docker and docker-py against one daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.conftest import Daemon
from tests.integration.distribution_world import real_registry

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def test_all_tags_go_and_come(daemon: Daemon, registry: str) -> None:
    for tag in ("v1", "v2", "v3"):
        daemon.cove("tag", "busybox", f"{registry}/team/app:{tag}")
    pushed = daemon.cove("push", "--all-tags", f"{registry}/team/app").stdout
    assert all(f"{tag}: digest: sha256:" in pushed for tag in ("v1", "v2", "v3"))
    daemon.cove("rmi", *(f"{registry}/team/app:{tag}" for tag in ("v1", "v2", "v3")))
    pulled = daemon.docker("pull", "--all-tags", f"{registry}/team/app").stdout
    assert pulled.count("Status: ") == 3
    tags = daemon.cove("images", f"{registry}/team/app", "--format", "{{.Tag}}").stdout.split()
    assert sorted(tags) == ["v1", "v2", "v3"]
    daemon.cove("rmi", *(f"{registry}/team/app:{tag}" for tag in tags))
    daemon.cove("pull", "-q", "-a", f"{registry}/team/app")
    assert daemon.cove("images", "-q", f"{registry}/team/app").stdout.split()
    daemon.cove("rmi", *(f"{registry}/team/app:{tag}" for tag in tags))


def test_docker_py_sees_bars_and_what_the_registry_has(daemon: Daemon, registry: str) -> None:
    client = docker.DockerClient(base_url=daemon.host)
    image = client.images.get("busybox")
    for name in ("base", "app"):
        image.tag(f"{registry}/py/{name}", "v1")
    client.api.push(f"{registry}/py/base", "v1")
    sent = [json.loads(line) for line in client.api.push(f"{registry}/py/app", "v1").splitlines()]
    assert sent[-1]["aux"]["Tag"] == "v1" and any("Mounted" in message.get("status", "") for message in sent)
    data = client.images.get_registry_data(f"{registry}/py/app:v1")
    assert data.id == sent[-1]["aux"]["Digest"] and data.has_platform("linux/amd64")
    client.images.remove(f"{registry}/py/app:v1")
    got = list(client.api.pull(f"{registry}/py/app", "v1", stream=True, decode=True))
    assert got[-1]["status"].startswith("Status: ")
    client.images.remove(f"{registry}/py/app:v1")
    client.images.remove(f"{registry}/py/base:v1")
    with pytest.raises(docker.errors.NotFound):
        client.images.get_registry_data(f"{registry}/py/none")
    client.close()


def test_docker_manifest_inspect(daemon: Daemon, registry: str) -> None:
    daemon.cove("tag", "busybox", f"{registry}/inspected:1")
    daemon.cove("push", "-q", f"{registry}/inspected:1")
    daemon.cove("rmi", f"{registry}/inspected:1")
    shown = json.loads(daemon.docker("manifest", "inspect", "--insecure", f"{registry}/inspected:1").stdout)
    assert shown["schemaVersion"] == 2 and len(shown["layers"]) == 1


def test_passwords_are_asked_of_a_helper_and_never_by_the_daemon(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = "import crypt;print(crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=32)))"
    entry = subprocess.run(["/usr/bin/python3", "-c", make], capture_output=True, text=True).stdout.strip()
    if not entry.startswith("$2"):
        pytest.skip("this machine's python3 has no bcrypt to make a password file with")
    helper = tmp_path / "bin" / "docker-credential-kept"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\ncat > "$0.asked"\necho \'{"Username": "me", "Secret": "secret"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    monkeypatch.setenv("COVE_CONFIG", str(tmp_path / "cove"))
    with real_registry(tmp_path, f"me:{entry}\n") as host:
        daemon.cove("tag", "busybox", f"{host}/app:1")
        try:
            refused = daemon.cove("push", f"{host}/app:1", check=False)
            assert refused.returncode and "push access denied" in refused.stderr
            config = Path(daemon.environment["DOCKER_CONFIG"]) / "config.json"
            config.parent.mkdir(exist_ok=True)
            config.write_text(json.dumps({"credHelpers": {host: "kept"}}))
            assert "digest: sha256:" in daemon.cove("push", f"{host}/app:1").stdout
            assert Path(f"{helper}.asked").read_text() == host
            config.unlink()
            wrong = daemon.cove("login", "-u", "me", "-p", "wrong", host, check=False)
            assert wrong.returncode and "401" not in wrong.stderr and "login attempt" in wrong.stderr
            assert (
                "Login Succeeded" in daemon.cove("login", "-u", "me", "--password-stdin", host, input="secret").stdout
            )
            assert "digest: sha256:" in daemon.cove("push", f"{host}/app:1").stdout
            daemon.cove("logout", host)
            assert daemon.cove("push", f"{host}/app:1", check=False).returncode
            logged_in = daemon.docker("login", "-u", "me", "--password-stdin", host, input="secret")
            assert "Login Succeeded" in logged_in.stdout
            assert "digest: sha256:" in daemon.docker("push", f"{host}/app:1").stdout
        finally:
            daemon.cove("rmi", f"{host}/app:1")
