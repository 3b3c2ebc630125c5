"""Backups of containers: exact, consistent, to a file and to registries, onto another daemon; faults on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, Daemon, below, eventually, free_port, new_daemon
from tests.integration.distribution_world import real_registry
from tests.integration.registry_world import Serving

pytestmark = pytest.mark.root

_MAKE = (
    "test -e /root/other && exec sleep 600; "
    "cd /data; chown 70:71 .; chmod 1770 .; "
    "mkdir -m 750 d; echo text > d/file; chown 1000:2000 d/file; chmod 4711 d/file; ln d/file hard; "
    "ln -s d/file soft; truncate -s 8388608 holes; mkfifo pipe; echo sized > /sized/s; echo anonymous > /anon/a; "
    "rm -r /var/lib /etc/group; mkdir -m 1777 /var/lib; echo new > /var/lib/new; echo x > /root/kept; "
    "ln /root/kept /root/other; exec sleep 600"
)
_SHOW = (
    "cd /data; stat -c '%n %F %a %u %g %h' . d soft pipe; stat -c '%n %F %a %u %g %s %h %Y' d/file hard holes; "
    "cat hard /sized/s /anon/a; ls -A /var/lib; stat -c '%a' /var/lib; ls /etc/group; stat -c '%h %i' /root/kept "
    "/root/other | sort -u | wc -l; hostname; echo $WORD"
)
_RUN = (
    "run", "-d", "--name", "app", "-e", "WORD=word", "--hostname", "its-name", "--label", "a=b", "-m", "64m",
    "-v", "data:/data", "-v", "sized:/sized", "-v", "/anon", "busybox", "sh", "-c", _MAKE,
)  # fmt: skip


@pytest.fixture
def other() -> Iterator[Daemon]:
    """Another host, as it were: a daemon with nothing in it."""
    daemon = new_daemon()
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def _has(daemon: Daemon, path: str) -> bool:
    """Whether a file is there in the container "app"."""
    return not daemon.cove("exec", "app", "test", "-e", path, check=False).returncode


def _clean(daemon: Daemon) -> None:
    daemon.cove("rm", "-fv", "app", "again", check=False)
    daemon.cove("volume", "rm", "-f", "data", "sized", "data2", "sized2", check=False)


@pytest.fixture
def app(daemon: Daemon) -> Iterator[str]:
    """What the running container "app" shows of itself."""
    daemon.cove("volume", "create", "--opt", "size=16m", "--label", "kind=sized", "sized")
    daemon.cove(*_RUN)
    try:
        assert eventually(lambda: _has(daemon, "/root/other"))
        root = Path(f"/proc/{daemon.cove('inspect', '-f', '{{.State.Pid}}', 'app').stdout.strip()}/root")
        os.setxattr(root / "data/d/file", "user.colour", b"red")
        yield daemon.cove("exec", "app", "sh", "-c", _SHOW, check=False).stdout
    finally:
        _clean(daemon)


def _blobs(daemon: Daemon) -> set[str]:
    return {path.name for path in (daemon.data / "image/blobs/sha256").iterdir()}


def _seen(daemon: Daemon, name: str) -> str:
    daemon.cove("start", name)
    root = Path(f"/proc/{daemon.cove('inspect', '-f', '{{.State.Pid}}', name).stdout.strip()}/root")
    assert os.getxattr(root / "data/d/file", "user.colour") == b"red"
    assert (root / "data/holes").stat().st_blocks * 512 < 1 << 20
    return daemon.cove("exec", name, "sh", "-c", _SHOW, check=False).stdout


def test_a_container_moves_to_another_host(daemon: Daemon, other: Daemon, app: str, tmp_path: Path) -> None:
    assert (
        ". directory 1770 70 71" in app
        and "d/file regular file 4711 1000 2000 5 2" in app
        and "sized\nanonymous\nnew\n1777\n" in app
    )
    before, archive = _blobs(daemon), tmp_path / "app.tar"
    daemon.cove("backup", "-o", str(archive), "app")
    assert daemon.cove("inspect", "-f", "{{.State.Status}}", "app").stdout.strip() == "running"
    assert _blobs(daemon) == before

    with tarfile.open(archive) as tar:
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
    assert index["manifests"][0]["artifactType"] == "application/vnd.cove.container.backup.v1"

    made = other.cove("restore", str(archive)).stdout.strip()
    shown = json.loads(other.cove("inspect", "app").stdout)[0]
    assert shown["Id"] == made and shown["State"]["Status"] == "created"
    assert shown["HostConfig"]["Memory"] == 64 << 20 and shown["Config"]["Labels"]["a"] == "b"
    assert _seen(other, "app") == app
    assert other.cove("volume", "inspect", "-f", "{{json .Labels}}", "sized").stdout.strip() == '{"kind":"sized"}'
    assert other.cove("diff", "app").stdout == daemon.cove("diff", "app").stdout
    other.cove("rm", "-fv", "app")
    other.cove("volume", "rm", "data", "sized")
    assert len(other.cove("volume", "ls", "-q").stdout.split()) == 0


def test_beside_the_original(daemon: Daemon, app: str, tmp_path: Path) -> None:
    archive = str(tmp_path / "app.tar")
    daemon.cove("stop", "-t", "0", "app")
    daemon.cove("backup", "-o", archive, "app")
    for words, complaint in (
        ((), 'The container name "/app" is already in use'),
        (("--name", "again"), "a volume with the name data exists already, used by app"),
        (("--name", "again", "--volume", "nothing=x1"), "the backup has no volume nothing"),
    ):
        refused = daemon.cove("restore", *words, archive, check=False)
        assert refused.returncode == 1 and complaint in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    volumes = daemon.cove("volume", "ls", "-q").stdout
    assert daemon.cove("ps", "-aq").stdout.count("\n") == 1 and volumes.count("\n") == 3
    daemon.cove("restore", "--name", "again", "--volume", "data=data2", "--volume", "sized=sized2", archive)
    assert _seen(daemon, "again") == app
    assert json.loads(daemon.cove("inspect", "-f", "{{json .HostConfig.Binds}}", "again").stdout) == [
        "data2:/data",
        "sized2:/sized",
    ]


def test_through_docker_registry(daemon: Daemon, other: Daemon, app: str, tmp_path: Path) -> None:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with real_registry(tmp_path) as host:
        _through(f"{host}/backups/app:1", daemon, other, app)


def test_through_a_registry_of_ours(daemon: Daemon, other: Daemon, app: str, tmp_path: Path) -> None:
    registry = Serving(tmp_path, free_port())
    registry.start()
    try:
        _through(f"{registry.host}/backups/app:1", daemon, other, app)
    finally:
        registry.stop()


def _through(name: str, daemon: Daemon, other: Daemon, app: str) -> None:
    pushed = daemon.cove("backup", "--push", name, "app").stdout
    assert "digest: sha256:" in pushed
    refused = other.docker("pull", name, check=False)
    assert refused.returncode and "not a container image" in refused.stderr
    other.cove("restore", name)
    assert _seen(other, "app") == app
    missing = other.cove("restore", f"{name}9", check=False)
    assert missing.returncode == 1 and len(missing.stderr.strip().splitlines()) == 1
    other.cove("rm", "-fv", "app")


def test_what_is_missing_there_is_said(daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    archive = str(tmp_path / "app.tar")
    daemon.cove("network", "create", "backend")
    try:
        daemon.cove("create", "--name", "app", "--network", "backend", "-v", f"{tmp_path}/gone:/b", "busybox", "true")
        daemon.cove("backup", "--no-image", "-o", archive, "app")
        refused = other.cove("restore", "--trust", archive, check=False)
        assert "stands on the image busybox" in refused.stderr and refused.returncode == 1
        daemon.cove("backup", "-o", archive, "app")
        refused = other.cove("restore", "--trust", archive, check=False)
        assert "network backend not found" in refused.stderr and refused.returncode == 1
        assert other.cove("ps", "-aq").stdout == ""
        other.cove("network", "create", "backend")
        other.cove("restore", "--trust", archive)
        assert "backend" in other.cove("inspect", "-f", "{{json .NetworkSettings.Networks}}", "app").stdout
        other.cove("rm", "app")
        other.cove("network", "rm", "backend")
    finally:
        daemon.cove("rm", "-f", "app", check=False)
        daemon.cove("network", "rm", "backend")
    for nonsense in (b"", b"no archive", bytes(10240)):
        (tmp_path / "odd").write_bytes(nonsense)
        refused = other.cove("restore", str(tmp_path / "odd"), check=False)
        assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1


def test_without_volumes(daemon: Daemon, app: str, tmp_path: Path) -> None:
    archive = str(tmp_path / "app.tar")
    daemon.cove("backup", "--no-volumes", "-o", archive, "app")
    daemon.cove("restore", "--name", "again", archive)
    daemon.cove("rm", "-fv", "app")
    assert "data:/data" in daemon.cove("inspect", "-f", "{{json .HostConfig.Binds}}", "again").stdout


def _nothing_is_there(daemon: Daemon) -> None:
    assert daemon.cove("ps", "-aq").stdout == "" and daemon.cove("volume", "ls", "-q").stdout == ""
    assert daemon.cove("images", "-aq").stdout == ""
    for directory in ("volumes", "containers", "tmp", "image/ingest"):
        assert not list((daemon.data / directory).iterdir()), directory


def _layer(archive: Path, volume: str) -> tarfile.TarInfo:
    """Where in a backup the content of a volume lies, of its changes for ""."""
    with tarfile.open(archive) as tar:
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
        path = "blobs/" + index["manifests"][0]["digest"].replace(":", "/")
        layers = json.loads(tar.extractfile(path).read())["layers"]  # type: ignore[union-attr]
        wanted = next(each for each in layers if each.get("annotations", {}).get("cove.volume", "") == volume)
        if not volume:
            wanted = next(each for each in layers if "changes" in each["mediaType"])
        return tar.getmember("blobs/" + wanted["digest"].replace(":", "/"))


@pytest.mark.parametrize("part", ["", "data", "cut"])
def test_of_a_damaged_backup_nothing_stays(
    daemon: Daemon, other: Daemon, app: str, tmp_path: Path, part: str
) -> None:
    archive = tmp_path / "app.tar"
    daemon.cove("exec", "app", "dd", "if=/dev/urandom", "of=/data/noise", "bs=1k", "count=2000")
    daemon.cove("exec", "app", "dd", "if=/dev/urandom", "of=/root/noise", "bs=1k", "count=2000")
    daemon.cove("backup", "-o", str(archive), "app")
    content = bytearray(archive.read_bytes())
    if part == "cut":
        del content[-900_000:]
    else:
        found = _layer(archive, part)
        content[found.offset_data + found.size // 2] ^= 1
    archive.write_bytes(content)
    refused = other.cove("restore", str(archive), check=False)
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1
    assert "cut off" in refused.stderr or "damaged" in refused.stderr, refused.stderr
    _nothing_is_there(other)


def test_what_two_volumes_share_comes_once(daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    both = ("-v", "one:/one", "-v", "two:/two")
    write = "echo same > /one/f; touch -d @1 /one/f /one; cp -p /one/f /two; touch -d @1 /two"
    daemon.cove("run", "--name", "app", *both, "busybox", "sh", "-c", write)
    try:
        daemon.cove("backup", "-o", str(tmp_path / "app.tar"), "app")
        assert _layer(tmp_path / "app.tar", "one").name == _layer(tmp_path / "app.tar", "two").name
        other.cove("restore", str(tmp_path / "app.tar"))
        shown = other.cove("run", "--rm", "--volumes-from", "app", "busybox", "cat", "/one/f", "/two/f").stdout
        assert shown == "same\nsame\n"
    finally:
        daemon.cove("rm", "-f", "app")
        daemon.cove("volume", "rm", "one", "two")


def test_a_sender_that_goes_away(daemon: Daemon, other: Daemon, app: str, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    daemon.cove("exec", "app", "dd", "if=/dev/urandom", "of=/data/noise", "bs=1M", "count=30")
    daemon.cove("backup", "-o", str(archive), "app")
    environment = os.environ | {"COVE_HOST": other.host}
    sending = subprocess.Popen([BIN / "cove", "restore", "-"], env=environment, stdin=subprocess.PIPE)
    assert sending.stdin is not None
    with archive.open("rb") as file:
        sending.stdin.write(file.read(archive.stat().st_size - (2 << 20)))
    sending.stdin.flush()
    _until_written(other.data / "volumes")
    sending.kill()
    sending.wait()
    eventually(lambda: not list((other.data / "volumes").iterdir()))
    _nothing_is_there(other)


def test_one_moment_of_a_writer(daemon: Daemon, tmp_path: Path) -> None:
    write = "i=0; while :; do i=$((i+1)); echo $i > /v/t; mv /v/t /v/a; echo $i > /t; mv /t /b; done"
    daemon.cove("run", "-d", "--name", "app", "-v", "data:/v", "busybox", "sh", "-c", write)
    try:
        assert eventually(lambda: _has(daemon, "/b"))
        daemon.cove("backup", "-o", str(tmp_path / "app.tar"), "app")
        daemon.cove("restore", "--name", "again", "--volume", "data=data2", str(tmp_path / "app.tar"))
        for path in ("/v/a", "/b"):
            daemon.cove("cp", f"again:{path}", str(tmp_path / path.rpartition("/")[2]))
        assert int((tmp_path / "a").read_text()) - int((tmp_path / "b").read_text()) in (0, 1)
        assert daemon.cove("inspect", "-f", "{{.State.Status}}", "app").stdout.strip() == "running"
    finally:
        _clean(daemon)


def test_a_daemon_killed_meanwhile(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon, archive = own_daemon, tmp_path / "app.tar"
    small = ("-v", "another:/a", "-v", "/anonymous")
    fill = (
        "dd if=/dev/urandom of=/data/big bs=1M count=120 2>/dev/null; while :; do date > /data/now; sleep 0.1; done"
    )
    daemon.cove("run", "-d", "--name", "app", "-v", "data:/data", *small, "busybox", "sh", "-c", fill)
    assert eventually(lambda: _has(daemon, "/data/now"))
    before = _blobs(daemon)
    environment = os.environ | {"COVE_HOST": daemon.host}
    taking = subprocess.Popen([BIN / "cove", "backup", "-o", archive, "app"], env=environment, stderr=subprocess.PIPE)
    _until_written(daemon.data / "image/ingest")
    daemon.kill()
    assert taking.wait(60 * PATIENCE) and not archive.exists()
    daemon.start()
    assert daemon.cove("inspect", "-f", "{{.State.Status}}", "app").stdout.strip() == "running"
    time_of = ("exec", "app", "stat", "-c", "%Y", "/data/now")
    seen = daemon.cove(*time_of).stdout
    assert eventually(lambda: daemon.cove(*time_of).stdout != seen), "the container does not stand still for ever"
    assert _blobs(daemon) == before

    daemon.cove("backup", "-o", str(archive), "app")
    daemon.cove("rm", "-f", "app")
    daemon.cove("volume", "rm", "data", "another")
    daemon.cove("volume", "prune", "-f")
    restoring = subprocess.Popen([BIN / "cove", "restore", archive], env=environment, stderr=subprocess.PIPE)
    _until_written(daemon.data / "volumes")
    daemon.kill()
    assert restoring.wait(60 * PATIENCE)
    daemon.start()
    assert daemon.cove("ps", "-aq").stdout == "" and daemon.cove("volume", "ls", "-q").stdout == ""
    assert not list((daemon.data / "volumes").iterdir()) and not list((daemon.data / "containers").iterdir())
    assert _blobs(daemon) == before


def _until_written(directory: Path) -> None:
    """Until something below has more than a MiB."""
    assert eventually(lambda: any(map(_is_large, below(directory))), pause=0.005), "nothing was written"


def _is_large(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return path.is_file() and path.stat().st_size > 1 << 20
    return False


def test_an_image_that_is_only_named_comes_from_its_registry(daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    registry = Serving(tmp_path, free_port())
    registry.start()
    name, archive = f"{registry.host}/base:1", str(tmp_path / "app.tar")
    try:
        daemon.cove("tag", "busybox", name)
        daemon.cove("push", name)
        daemon.cove("create", "--name", "app", name, "cat", "/etc/passwd")
        daemon.cove("backup", "--no-image", "-o", archive, "app")
        assert Path(archive).stat().st_size < 100_000
        other.cove("restore", archive)
        assert "worker" in other.cove("start", "-a", "app").stdout
        digest = daemon.cove("image", "inspect", "-f", "{{index .RepoDigests 0}}", name).stdout.strip()
        assert digest == other.cove("image", "inspect", "-f", "{{index .RepoDigests 0}}", digest).stdout.strip()
    finally:
        registry.stop()
        daemon.cove("rm", "-f", "app", check=False)
        daemon.cove("rmi", name, check=False)


def test_an_image_that_was_removed(daemon: Daemon, other: Daemon, archive: Path, tmp_path: Path) -> None:
    saved = str(tmp_path / "app.tar")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo text > /file && rm -r /var && mkdir /var\n")
    daemon.cove("build", "-t", "doomed", str(tmp_path))
    daemon.cove("create", "--name", "app", "doomed", "sh", "-c", "cat /file /etc/passwd; ls -A /var")
    shown = daemon.cove("start", "-a", "app").stdout
    try:
        daemon.cove("rmi", "-f", "doomed")
        before = daemon.cove("images", "-aq").stdout
        refused = daemon.cove("backup", "--no-image", "-o", saved, "app", check=False)
        assert refused.returncode == 1 and "leave out --no-image" in refused.stderr
        daemon.cove("backup", "-o", saved, "app")
        assert daemon.cove("images", "-aq").stdout == before
        daemon.cove("commit", "app", "again")
        assert daemon.cove("run", "--rm", "again").stdout == shown
    finally:
        daemon.cove("rm", "-f", "app")
        daemon.cove("rmi", "again", check=False)
    other.cove("restore", saved)
    assert other.cove("start", "-a", "app").stdout == shown


def test_what_reaches_the_host_is_granted_in_words(daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    saved, shared = str(tmp_path / "app.tar"), tmp_path / "shared"
    shared.mkdir()
    words = ("--privileged", "--pid", "host", "-v", f"{shared}:/shared", "--device", "/dev/null:/dev/nothing")
    daemon.cove("create", "--name", "reaching", *words, "busybox", "true")
    try:
        daemon.cove("backup", "-o", saved, "reaching")
    finally:
        daemon.cove("rm", "-f", "reaching")
    refused = other.cove("restore", saved, check=False)
    for each in ("privileged", "host's PID namespace", f"the host's {shared}", "/dev/null", "--trust"):
        assert each in refused.stderr
    assert not other.cove("ps", "-aq", "--filter", "name=reaching").stdout
    other.cove("restore", "--trust", saved)
    assert other.cove("inspect", "-f", "{{.HostConfig.Privileged}}", "reaching").stdout == "true\n"
    other.cove("rm", "-f", "reaching")
