"""Exhibits of archives and `cp`: links that lead out, in layers and in running containers; with their twins."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Daemon


def tar_of(path: Path, *members: tarfile.TarInfo, content: bytes = b"owned\n") -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for member in members:
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("form", ["absolute", "dotdot", "through a link", "hard link"])
def test_a_layer_cannot_write_outside(daemon: Daemon, tmp_path: Path, form: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    name = f"{victim}/file"
    members = {
        "absolute": [tarfile.TarInfo(name)],
        "dotdot": [tarfile.TarInfo("../" * 20 + name.lstrip("/"))],
        "through a link": [link("door", str(victim)), tarfile.TarInfo("door/file")],
        "hard link": [link("copy", "../" * 20 + "etc/hostname", tarfile.LNKTYPE)],
    }[form]
    daemon.cove("import", str(tar_of(tmp_path / "layer.tar", *members)), "hostile", check=False)
    try:
        assert list(victim.iterdir()) == []
        done = daemon.cove("run", "--rm", "--pull", "never", "hostile", "/bin/busybox", "cat", "/copy", check=False)
        assert Path("/etc/hostname").read_text() not in done.stdout or form != "hard link"
    finally:
        daemon.cove("rmi", "-f", "hostile", check=False)


def test_twin_links_inside_a_layer_are_kept(daemon: Daemon, tmp_path: Path) -> None:
    members = [
        tarfile.TarInfo("run/file"),
        link("var/run", "/run"),
        link("hard", "run/file", tarfile.LNKTYPE),
    ]
    daemon.cove("import", str(tar_of(tmp_path / "layer.tar", *members)), "linked")
    try:
        done = daemon.cove("run", "--rm", "linked", "/bin/busybox", "cat", "/var/run/file", "/hard")
        assert done.stdout == "owned\nowned\n"
    finally:
        daemon.cove("rmi", "-f", "linked")


@pytest.fixture
def swapper(daemon: Daemon):
    """A container that keeps exchanging a directory for a link to a host path."""
    script = (
        "mkdir -p /work/dir; ln -s /host-secret /work/link; "
        "while :; do mv /work/dir /work/t; mv /work/link /work/dir; "
        "mv /work/dir /work/link; mv /work/t /work/dir; done"
    )
    daemon.cove("run", "-d", "--name", "swapper", "busybox", "sh", "-c", script)
    yield "swapper"
    daemon.cove("rm", "-f", "swapper")


def test_cp_never_follows_a_link_to_the_host(daemon: Daemon, tmp_path: Path, swapper: str) -> None:
    secret = Path("/host-secret")
    assert not secret.exists()
    (tmp_path / "note").write_text("carried\n")
    for _ in range(10):
        daemon.cove("cp", str(tmp_path / "note"), f"{swapper}:/work/dir/", check=False)
        assert not secret.exists()


def test_cp_out_of_an_absolute_link_reads_the_container(daemon: Daemon, tmp_path: Path) -> None:
    daemon.cove("run", "-d", "--name", "links", "busybox", "sh", "-c", "ln -s /etc/hostname /name; sleep 60")
    try:
        inside = daemon.cove("exec", "links", "cat", "/etc/hostname").stdout
        daemon.cove("cp", "-L", "links:/name", str(tmp_path / "name"))
        assert (tmp_path / "name").read_text() == inside
    finally:
        daemon.cove("rm", "-f", "links")


def test_twin_cp_through_a_link_inside_works(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("77\n")
    daemon.cove("run", "-d", "--name", "varrun", "busybox", "sh", "-c", "mkdir /run; ln -s /run /var/run; sleep 60")
    try:
        daemon.cove("exec", "varrun", "sh", "-c", "until test -e /var/run; do :; done")
        daemon.cove("cp", str(tmp_path / "pid"), "varrun:/var/run/pid")
        assert daemon.cove("exec", "varrun", "cat", "/run/pid").stdout == "77\n"
    finally:
        daemon.cove("rm", "-f", "varrun")
