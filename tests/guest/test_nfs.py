"""Volumes of a server: `--opt type=nfs`, with the kernel's own server in the same machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.guest.inside import only_inside, run

pytestmark = [pytest.mark.root, only_inside]


@pytest.fixture(scope="module")
def exported() -> Iterator[Path]:
    """A directory that this machine exports to itself, with NFS version 4, whose first seconds are short."""
    directory, settings = Path("/var/exported"), Path("/etc/nfs.conf.d/short.conf")
    directory.mkdir()
    directory.chmod(0o777)
    Path("/etc/exports").write_text(f"{directory} *(rw,no_root_squash,no_subtree_check,insecure,fsid=1)\n")
    settings.write_text("[nfsd]\ngrace-time=10\nlease-time=10\n")
    run("systemctl", "start", "nfs-server.service")
    yield directory
    services = ("nfs-server", "nfs-mountd", "nfs-idmapd", "nfsdcld", "rpc-statd", "rpcbind")
    run("systemctl", "stop", "rpcbind.socket", *(f"{name}.service" for name in services))
    run("systemctl", "stop", "proc-fs-nfsd.mount", "run-rpc_pipefs.mount")
    settings.unlink()
    shutil.rmtree(directory)


@pytest.fixture
def volume(daemon: Daemon, exported: Path) -> Iterator[str]:
    words = ("--opt=type=nfs", "--opt=o=addr=localhost,nfsvers=4.2,rw", f"--opt=device=:{exported}")
    daemon.docker("volume", "create", *words, "shared")
    yield "shared"
    daemon.docker("volume", "rm", "shared")


@pytest.mark.parametrize("network", ["bridge", "none", "host"])
def test_a_share_is_reached_from_the_hosts_network_whatever_the_containers_is(
    daemon: Daemon, volume: str, exported: Path, network: str
) -> None:
    words = ("run", "--rm", "--network", network, "-v", f"{volume}:/data", "busybox", "sh", "-c")
    daemon.docker(*words, f"echo from {network} > /data/{network}; chown 1000:2000 /data/{network}")
    there = exported / network
    assert there.read_text() == f"from {network}\n"
    assert (there.stat().st_uid, there.stat().st_gid) == (1000, 2000)
    there.write_text("from the server\n")
    assert daemon.docker(*words, f"cat /data/{network}").stdout == "from the server\n"
    assert " nfs4 " in daemon.docker(*words, "grep /data /proc/mounts").stdout
    assert " nfs" not in Path("/proc/mounts").read_text().replace(" nfsd ", ""), "nothing is mounted on the host"


def test_read_only_and_a_part_of_it(daemon: Daemon, volume: str, exported: Path) -> None:
    (exported / "part").mkdir()
    (exported / "part/file").write_text("in part\n")
    refused = daemon.docker("run", "--rm", "-v", f"{volume}:/data:ro", "busybox", "touch", "/data/x", check=False)
    assert "Read-only file system" in refused.stderr and not (exported / "x").exists()
    mount = f"type=volume,src={volume},dst=/data,volume-subpath=part"
    shown = daemon.docker("run", "--rm", "--mount", mount, "busybox", "cat", "/data/file", check=False)
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15):
        assert shown.stdout == "in part\n"
    else:
        assert "a part of such a mount ('part') needs kernel 6.15" in shown.stderr


def test_the_content_of_an_image_is_never_copied_to_a_server(daemon: Daemon, volume: str, exported: Path) -> None:
    daemon.docker("run", "--rm", "-v", f"{volume}:/bin/..data", "busybox", "true")
    daemon.docker("run", "--rm", "-v", f"{volume}:/etc", "busybox", "true", check=False)
    assert not (exported / "passwd").exists()


def test_volumes_inline_and_what_is_not_exported(daemon: Daemon, exported: Path) -> None:
    (exported / "greeting").write_text("hello\n")

    def inline(place: str) -> str:
        options = (f"volume-opt=device=:{place}", '"volume-opt=o=addr=127.0.0.1,nfsvers=4"')
        return ",".join(("type=volume,dst=/data,volume-driver=local,volume-opt=type=nfs", *options))

    shown = daemon.docker("run", "--rm", "--mount", inline(str(exported)), "busybox", "cat", "/data/greeting")
    assert shown.stdout == "hello\n"
    refused = daemon.docker("run", "--rm", "--mount", inline("/nowhere"), "busybox", "true", check=False)
    assert refused.returncode
    assert "cannot mount :/nowhere at /data: " in refused.stderr
    assert "(no such file or directory)" in refused.stderr
