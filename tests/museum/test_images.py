"""Exhibits of images: what a registry, an image's configuration or its files could make an engine do; with twins."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cove.errors import CoveError, InvalidArgument, Unavailable
from cove.image.distribution import Credentials
from tests.conftest import Daemon
from tests.integration.scripted_registry import Client, reply, server, serving


@pytest.fixture
def made(daemon: Daemon, archive: Path) -> Iterator[Daemon]:
    """`daemon`; the image called `made` is removed afterwards."""
    yield daemon
    daemon.cove("rmi", "-f", "made", check=False)


# ── CVE-2021-41190: a manifest that is an index as well ───────────────────────────────────────────


def test_an_ambiguous_manifest_is_refused() -> None:
    world = serving([b"one"])
    manifest = json.loads(world.blobs[world.named["tag:latest"]])
    world.named["tag:latest"] = world.put(json.dumps({**manifest, "manifests": []}).encode())
    client = Client()
    with server(world) as (host, _), pytest.raises(InvalidArgument, match="ambiguous"):
        client.pull(f"{host}/app")
    assert client.world.blobs == {}


def test_twin_a_plain_manifest_is_pulled() -> None:
    client = Client()
    with server(serving([b"one"])) as (host, _):
        client.pull(f"{host}/app")
    assert client.world.named


# ── content that is not what its digest says ──────────────────────────────────────────────────────


def test_a_wrong_digest_is_never_stored() -> None:
    world = serving([b"one"])

    def lie(handler: BaseHTTPRequestHandler) -> bool:
        _, kind, digest = handler.path.rpartition("/blobs/")
        return bool(kind) and reply(handler, 200, bytes(len(world.blobs[digest])))

    client = Client()
    with server(world, lie) as (host, _), pytest.raises(Unavailable, match="something else than sha256"):
        client.pull(f"{host}/app")
    assert client.world.blobs == {} and client.world.named == {}


# ── CVE-2020-15157, CVE-2024-3727: credentials that go elsewhere ──────────────────────────────────

SECRET = Credentials(username="me", password="secret")


def _asks(handler: BaseHTTPRequestHandler) -> bool:
    return "Authorization" not in handler.headers and reply(
        handler, 401, b"", {"WWW-Authenticate": 'Basic realm="registry"'}
    )


def test_a_redirect_takes_no_credentials_along() -> None:
    world = serving([b"one"])
    with server(world) as (storage, storage_saw):

        def sent_on(handler: BaseHTTPRequestHandler) -> bool:
            there = {"Location": f"http://{storage}{handler.path}"}
            return _asks(handler) or ("/blobs/" in handler.path and reply(handler, 307, b"", there))

        with server(world, sent_on) as (host, _):
            Client().pull(f"{host}/app", credentials=SECRET)
    assert storage_saw and {auth for _, auth in storage_saw} == {None}


def test_a_strangers_challenge_is_not_answered() -> None:
    world = serving([b"one"])
    challenge = {"WWW-Authenticate": 'Basic realm="give it to me"'}
    with server(world, lambda handler: reply(handler, 401, b"", challenge)) as (stranger, stranger_saw):

        def sent_on(handler: BaseHTTPRequestHandler) -> bool:
            there = {"Location": f"http://{stranger}{handler.path}"}
            return "/blobs/" in handler.path and reply(handler, 307, b"", there)

        with server(world, sent_on) as (host, _), pytest.raises(CoveError):
            Client().pull(f"{host}/app", credentials=SECRET)
    assert {auth for _, auth in stranger_saw} == {None}


def test_twin_the_registry_itself_is_answered() -> None:
    with server(serving([b"one"]), _asks) as (host, seen):
        Client().pull(f"{host}/app", credentials=SECRET)
    assert SECRET.basic in {auth for _, auth in seen}


# ── CVE-2022-23648, CVE-2024-9341: volumes of an image that lead to the host ──────────────────────


@pytest.mark.parametrize("volume", ["/../../../../../../etc", "/door/inside"])
def test_a_volume_of_an_image_does_not_show_the_host(made: Daemon, tmp_path: Path, volume: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "inside").mkdir()
    (victim / "inside/secret").write_text("the host's")
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", tree / "bin/busybox"], check=True)
    (tree / "door").symlink_to(victim)
    tar = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True).stdout
    made.cove("import", "--change", f'VOLUME ["{volume}"]', "-", "made", input=tar, text=False)
    done = made.cove("run", "--rm", "made", "/bin/busybox", "find", "/", "-xdev", "-name", "secret", check=False)
    assert "secret" not in done.stdout
    hostname = Path("/etc/hostname").read_text().strip()
    shown = made.cove("run", "--rm", "made", "/bin/busybox", "cat", "/etc/machine-id", "/etc/shadow", check=False)
    assert shown.stdout == "" or (hostname and hostname not in shown.stdout)
    assert (victim / "inside/secret").read_text() == "the host's"
    assert sorted(path.name for path in victim.rglob("*")) == ["inside", "secret"], "nothing was written there"


def test_twin_a_volume_begins_with_the_images_files(made: Daemon, archive: Path) -> None:
    made.cove("import", "--change", "VOLUME /etc", str(archive), "made")
    done = made.cove("run", "--rm", "made", "sh", "-c", "head -c 4 /etc/passwd; grep -c ' /etc ' /proc/mounts")
    assert done.stdout == "root1\n"


# ── CVE-2021-41091, CVE-2024-25621: set-id programs of images, reached through the data directory ──


def test_nobody_else_enters_the_data_directory(daemon: Daemon) -> None:
    for directory in ("image", "layers", "containers"):
        mode = stat.S_IMODE((daemon.data / directory).stat().st_mode)
        assert mode & 0o007 == 0, f"{directory} is open to others: {mode:o}"
    layer = next(path for path in (daemon.data / "layers").iterdir() if path.is_dir() and path.name != "empty")
    look = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", str(layer)]
    assert subprocess.run(look, capture_output=True).returncode != 0
    run = stat.S_IMODE(daemon.run.stat().st_mode)
    assert run & 0o002 == 0


# ── CVE-2026-53488 and kin: labels of an image that are taken for orders ──────────────────────────


def test_labels_of_an_image_grant_nothing(made: Daemon, archive: Path) -> None:
    labels = ("cove.privileged=true", "security=privileged", "io.kubernetes.container.privileged=true", "userns=host")
    changes = [word for label in labels for word in ("--change", f"LABEL {label}")]
    made.cove("import", *changes, str(archive), "made")
    show = ("grep", "-E", "^(CapEff|CapBnd|Seccomp|NoNewPrivs):", "/proc/self/status")
    plain = made.cove("run", "--rm", "busybox", *show).stdout
    assert made.cove("run", "--rm", "made", *show).stdout == plain


def test_twin_labels_are_shown_and_filter(made: Daemon, archive: Path) -> None:
    made.cove("import", "--change", "LABEL who=me", str(archive), "made")
    assert made.cove("images", "--filter", "label=who=me", "--format", "{{.Repository}}").stdout == "made\n"


# ── CVE-2022-1227: `top` runs the container's own ps ──────────────────────────────────────────────


def test_top_runs_nothing_of_the_images(made: Daemon, archive: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xf", archive], check=True)
    for directory in ("bin", "usr/bin"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
        ps = tree / directory / "ps"
        ps.unlink(missing_ok=True)
        ps.write_text("#!/bin/sh\necho ran > /ran\n")
        ps.chmod(0o755)
    tar = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True).stdout
    made.cove("import", "-", "made", input=tar, text=False)
    made.cove("run", "-d", "--name", "topped", "made", "sleep", "60")
    try:
        assert "sleep 60" in made.cove("top", "topped").stdout, "the twin: processes are listed"
        assert made.cove("exec", "topped", "test", "-e", "/ran", check=False).returncode == 1
    finally:
        made.cove("rm", "-f", "topped")


def test_cp_loads_nothing_of_the_images(made: Daemon, archive: Path, tmp_path: Path) -> None:
    """CVE-2019-14271: libraries that look up users, loaded from inside the container by the one who copies."""
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xf", archive], check=True)
    places = ("lib", "lib64", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
    for place in places:
        (tree / place).mkdir(parents=True, exist_ok=True)
        for library in ("libnss_files.so.2", "libnss_compat.so.2", "libc.so.6", "libgcc_s.so.1"):
            (tree / place / library).write_bytes(b"\x7fELF not a library")
    (tree / "etc/nsswitch.conf").write_text("passwd: files evil\ngroup: files evil\n")
    tar = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True).stdout
    made.cove("import", "-", "made", input=tar, text=False)
    made.cove("create", "--name", "copied", "made", "true")
    try:
        (tmp_path / "file").write_text("content\n")
        made.cove("cp", str(tmp_path / "file"), "copied:/etc/file")
        made.cove("cp", "copied:/etc/file", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "content\n"
        assert os.stat(tmp_path / "back").st_uid == os.getuid()
    finally:
        made.cove("rm", "-f", "copied")
