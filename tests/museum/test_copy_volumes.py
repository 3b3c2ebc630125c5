"""Exhibits of `cp`: links to the host, the container's own programs, swapped volumes; with twins."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.conftest import PATIENCE, Daemon
from tests.museum.images import interpreter, libraries
from tests.museum.test_copy_race import _SWAPPER

pytestmark = pytest.mark.root

_IMAGE = "busybox:latest"
_PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("the host's")
    yield directory
    assert os.listdir(directory) == ["secret"]
    assert (directory / "secret").read_text() == "the host's"


@pytest.fixture
def container(daemon: Daemon) -> Iterator[str]:
    identity = daemon.cove("run", "-d", _IMAGE, "sleep", "600").stdout.strip()
    yield identity
    daemon.cove("rm", "-f", identity)


# ── CVE-2019-10152: a link in the container that leads to the host ────────────────────────────────


@pytest.mark.parametrize("runs", [True, False])
def test_a_link_to_the_host_leads_nowhere(
    daemon: Daemon, container: str, outside: Path, tmp_path: Path, runs: bool
) -> None:
    up = "../" * 20
    daemon.cove("exec", container, "ln", "-s", str(outside), "/absolute")
    daemon.cove("exec", container, "ln", "-s", f"{up}{outside}", "/climbing")
    if not runs:
        daemon.cove("kill", container)
    (tmp_path / "payload").write_text("written")
    for link in ("absolute", "climbing"):
        read = daemon.cove("cp", f"{container}:/{link}/secret", str(tmp_path / "copied"), check=False)
        assert read.returncode and not (tmp_path / "copied").exists()
        daemon.cove("cp", str(tmp_path / "payload"), f"{container}:/{link}/written", check=False)
        daemon.cove("cp", str(tmp_path / "payload"), f"{container}:/{link}/secret", check=False)


def test_twin_a_link_inside_is_followed(daemon: Daemon, container: str, tmp_path: Path) -> None:
    daemon.cove("exec", container, "sh", "-c", "mkdir /real && ln -s /real /link")
    (tmp_path / "payload").write_text("written")
    daemon.cove("cp", str(tmp_path / "payload"), f"{container}:/link/there")
    assert daemon.cove("exec", container, "cat", "/real/there").stdout == "written"


# ── CVE-2026-41567: programs of the container's own unpack what is copied ─────────────────────────


def _copied(how: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(how)
        info.size = len(how)
        archive.addfile(info, io.BytesIO(how.encode()))
    return bytes(_PACKERS[how](buffer.getvalue()))


def test_no_program_of_the_container_unpacks(daemon: Daemon, container: str) -> None:
    """The twin is in it: what comes compressed is unpacked all the same."""
    trap = "#!/bin/sh\necho $0 >>/caught\ncat\n"
    names = "gzip pigz unpigz igzip bzip2 pbzip2 xz unxz zstd unzstd zstdcat tar"
    daemon.cove(
        "exec", "-i", container, "sh", "-c",
        "cat >/trap && chmod 755 /trap && mkdir -p /usr/bin /usr/local/bin /sbin && "
        f"for name in {names}; do for at in bin usr/bin usr/local/bin sbin; do ln -sf /trap /$at/$name; done; done",
        input=trap,
    )  # fmt: skip
    for how in _PACKERS:
        words = ["curl", "-sS", "--fail", "--unix-socket", daemon.host.removeprefix("unix://"), "-T", "-"]
        address = f"http://localhost/v1.41/containers/{container}/archive?path=/tmp"
        subprocess.run([*words, address], input=_copied(how), check=True, timeout=60 * PATIENCE)
        assert daemon.cove("exec", container, "cat", f"/tmp/{how}").stdout == how
    assert daemon.cove("exec", container, "ls", "/caught", check=False).returncode


# ── CVE-2026-42306: the place of a volume is swapped for a link during a copy ─────────────────────


def test_a_swapped_place_of_a_volume_is_never_the_hosts(
    daemon: Daemon, archive: Path, tmp_path: Path, outside: Path
) -> None:
    """The container exchanges the directory above its volume with a link, as fast as it can, while `cp` looks."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "of-the-volume").touch()
    program = tmp_path / "program"
    for name, content in libraries(interpreter()):
        path = program / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else b"")
    identity = daemon.cove("run", "-d", "-v", f"{volume}:/work/target/volume", _IMAGE, "sleep", "600").stdout.strip()
    try:
        daemon.cove("exec", identity, "ln", "-s", f"{'../' * 20}{outside}", "/work/link")
        daemon.cove("exec", identity, "touch", "/go")
        root = f"/proc/{daemon.cove('inspect', '-f', '{{.State.Pid}}', identity).stdout.strip()}/root"
        swapper = subprocess.Popen([interpreter(), "-c", _SWAPPER, root], stdout=subprocess.PIPE)
        assert swapper.stdout is not None and swapper.stdout.readline()
        try:
            (tmp_path / "payload").write_text("written")
            for _ in range(8):
                daemon.cove("cp", str(tmp_path / "payload"), f"{identity}:/work/target/volume/new", check=False)
                daemon.cove("cp", f"{identity}:/work/target/volume/secret", str(tmp_path / "got"), check=False)
        finally:
            daemon.cove("exec", identity, "rm", "/go")
            swapper.wait()
            swapper.stdout.close()
        assert not (tmp_path / "got").exists()
        assert {path.name for path in volume.iterdir()} <= {"of-the-volume", "new"}
    finally:
        daemon.cove("rm", "-f", identity)


def test_twin_a_volume_is_reached_in_a_stopped_container(daemon: Daemon, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    identity = daemon.cove("create", "-v", f"{volume}:/work", _IMAGE, "true").stdout.strip()
    try:
        (tmp_path / "payload").write_text("written")
        daemon.cove("cp", str(tmp_path / "payload"), f"{identity}:/work/there")
        assert (volume / "there").read_text() == "written"
    finally:
        daemon.cove("rm", "-f", identity)
