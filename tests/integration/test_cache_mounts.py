"""What `RUN --mount=type=cache` keeps: shared, locked and private, written down and taken to another daemon."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.conftest import Daemon, below, eventually, stocked
from tests.integration.test_build import context

_FILL = """FROM busybox
RUN --mount=type=cache,id=kept,uid=7,gid=8,mode=2750,target=/c mkdir -p /c/d/e && echo text > /c/d/f && \
    chown 33:44 /c/d/f && chmod 4711 /c/d/f && ln /c/d/f /c/hard && ln -s d/f /c/soft && mkfifo /c/fifo && \
    truncate -s 100M /c/sparse && touch -d '1990-01-02 03:04:05' /c/d/e
"""
_LOOK = """FROM busybox
ARG N
RUN --mount=type=cache,id=kept,uid=7,gid=8,mode=2750,target=/c \
    cd /c && find . ! -name spot | sort | xargs stat -c '%n %F %a %u:%g %Y %h %s' && cat hard && readlink soft
"""


@pytest.fixture(scope="module")
def other(archive: Path) -> Iterator[Daemon]:
    """A daemon of the module's own."""
    with stocked(archive) as daemon:
        yield daemon


def seen(daemon: Daemon, where: Path) -> str:
    """What a step sees in the cache."""
    context(where, _LOOK)
    words = ("build", "--no-cache", "--progress", "json", str(where))
    told = [json.loads(line) for line in daemon.cove(*words).stdout.splitlines()]
    return "".join(each.get("data", "") for each in told)


def content(daemon: Daemon, name: str) -> Path:
    """Where the daemon keeps a mount's files."""
    (found,) = [each.parent for each in daemon.data.glob("build/*/id") if each.read_text() == name]
    return found / "content"


def test_a_cache_mount_goes_to_another_daemon_as_it_is(daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", _FILL)
    daemon.cove("build", "-q", "--no-cache", str(where))
    os.setxattr(content(daemon, "kept") / "d/f", "user.told", b"by an attribute")
    before = seen(daemon, where)
    assert "./d/f regular file 4711 33:44" in before and ". directory 2750 7:8" in before
    file = tmp_path / "kept.tar"
    daemon.cove("builder", "export", "kept", "-o", str(file))
    assert file.stat().st_size < 1 << 20  # holes stay holes
    subprocess.run(["tar", "-tf", str(file)], check=True, capture_output=True)  # and anybody reads it
    with open(file, "rb") as archive:
        assert other.cove("builder", "import", stdin=archive).stdout == "kept\n"
    assert seen(other, where) == before
    assert os.getxattr(content(other, "kept") / "d/f", "user.told") == b"by an attribute"
    assert (content(other, "kept") / "sparse").stat().st_blocks == 0
    again = tmp_path / "again.tar"
    other.cove("builder", "export", "kept", "-o", str(again))
    assert again.read_bytes() == file.read_bytes()


def test_an_import_takes_the_place_of_what_was_there(daemon: Daemon, tmp_path: Path) -> None:
    line = "RUN --mount=type=cache,id=replaced,target=/c {} && ls /c\n"
    where = context(tmp_path / "c", "FROM busybox\n" + line.format("touch /c/old"))
    daemon.cove("build", "-q", "--no-cache", str(where))
    raw = subprocess.run(["tar", "-c", "-C", "/etc", "hostname"], capture_output=True, check=True).stdout
    (tmp_path / "own.tar").write_bytes(raw)
    daemon.cove("builder", "import", "-i", str(tmp_path / "own.tar"), "replaced")
    context(where, "FROM busybox\n" + line.format("true"))
    told = daemon.cove("build", "--no-cache", "--progress", "plain", str(where)).stderr
    assert " hostname\n" in told and " old\n" not in told
    nameless = daemon.cove("builder", "import", "-i", str(tmp_path / "own.tar"), check=False)
    assert nameless.returncode and "give the id of the mount" in nameless.stderr


def test_an_archive_that_leads_outside_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("way/escaped"))
    (tmp_path / "evil.tar").write_bytes(raw.getvalue())
    daemon.cove("builder", "import", "-i", str(tmp_path / "evil.tar"), "evil", check=False)
    (tmp_path / "cut.tar").write_bytes(raw.getvalue()[:700])
    broken = daemon.cove("builder", "import", "-i", str(tmp_path / "cut.tar"), "cut", check=False)
    assert broken.returncode and "cut" not in daemon.cove("builder", "mounts").stdout.split()
    assert not (tmp_path / "escaped").exists()


def test_who_is_meant(daemon: Daemon, tmp_path: Path) -> None:
    lines = "".join(f"RUN --mount=type=cache,id=twice,uid={uid},target=/c true\n" for uid in (0, 5))
    daemon.cove("build", "-q", "--no-cache", str(context(tmp_path / "c", f"FROM busybox\n{lines}")))
    vague = daemon.cove("builder", "export", "twice", "-o", str(tmp_path / "t"), check=False)
    assert vague.returncode and "name one of" in vague.stderr
    rows = [line.split() for line in daemon.cove("builder", "mounts").stdout.splitlines()]
    owned = {row[2]: row[0] for row in rows if row[1] == "twice"}
    daemon.cove("builder", "export", owned["5:0"], "-o", str(tmp_path / "t"))
    with tarfile.open(tmp_path / "t") as tar:
        assert tar.getmembers()[0].uid == 5 and '"uid":5' in tar.pax_headers["comment"]
    unknown = daemon.cove("builder", "export", "nobody", "-o", str(tmp_path / "u"), check=False)
    assert unknown.returncode and "cove builder mounts" in unknown.stderr and not (tmp_path / "u").exists()


def test_an_export_is_one_moment(daemon: Daemon, tmp_path: Path) -> None:
    """A step that is at work in a cache ends before it is written down."""
    line = "RUN --mount=type=cache,id=moment,target=/c touch /c/begun && sleep 2 && touch /c/ended\n"
    where = context(tmp_path / "c", f"FROM busybox\n{line}")
    build = threading.Thread(target=daemon.cove, args=("build", "-q", "--no-cache", str(where)))
    build.start()
    assert eventually(lambda: any(path.name == "begun" for path in below(daemon.data / "build")), 60, pause=0.01)
    daemon.cove("builder", "export", "moment", "-o", str(tmp_path / "m.tar"))
    build.join()
    with tarfile.open(tmp_path / "m.tar") as tar:
        assert {"./begun", "./ended"} <= set(tar.getnames())


def test_steps_that_lock_two_caches_never_wait_for_each_other(daemon: Daemon, tmp_path: Path) -> None:
    mounts = [f"--mount=type=cache,sharing=locked,id=lock-{name},target=/{name}" for name in "ab"]
    stages = "".join(
        f"FROM busybox AS s{number}\nRUN {' '.join(order)} sleep 0.2 && echo {number} > /done\n"
        for number, order in enumerate([mounts, mounts[::-1], mounts, mounts[::-1]])
    )
    twice = f"RUN {mounts[0]} {mounts[0].replace('target=/a', 'target=/again')} touch /a/seen && ls /again\n"
    last = "".join(f"COPY --from=s{number} /done /{number}\n" for number in range(4))
    where = context(tmp_path / "c", f"{stages}FROM busybox\n{twice}{last}")
    daemon.cove("build", "-q", "--no-cache", str(where))


def test_the_api_lists_them(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN --mount=type=cache,target=/listed echo 1 > /listed/f\n")
    daemon.cove("build", "-q", "--no-cache", str(where))
    client = docker.APIClient(base_url=daemon.host)
    found = {each["Name"]: each for each in client.get(f"{client.base_url}/cove/build/mounts").json()}
    kept = {each["ID"] for each in client.df()["BuildCache"] if each["Type"] == "exec.cachemount"}
    assert found["/listed"]["Owner"] == "0:0" and found["/listed"]["Id"] in kept


def test_a_mount_that_a_step_has_is_not_pruned(own_daemon: Daemon, tmp_path: Path) -> None:
    wait = "touch /c/here; until [ -e /c/go ]; do sleep 0.05; done; echo done > /c/end"
    context(tmp_path, f"FROM busybox\nRUN --mount=type=cache,id=busy,target=/c {wait}\n")
    told: list[subprocess.CompletedProcess[str]] = []
    building = threading.Thread(target=lambda: told.append(own_daemon.cove("build", str(tmp_path), check=False)))
    building.start()
    assert eventually(lambda: list(own_daemon.data.glob("build/*/content/here")))
    own_daemon.cove("builder", "prune", "-af")
    (content(own_daemon, "busy") / "go").touch()
    building.join()
    assert told[0].returncode == 0, told[0].stderr
    assert (content(own_daemon, "busy") / "end").read_text() == "done\n"
    own_daemon.cove("builder", "prune", "-af")
    assert not list(own_daemon.data.glob("build/*/id"))
