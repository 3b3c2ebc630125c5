"""Finished steps travel: in the image, through a directory, to another daemon; and several platforms in one build."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.conftest import Daemon, stocked
from tests.integration.test_build import context

_FILE = "FROM busybox\nCOPY f /f\nRUN cat /f > /g && date +%s%N > /when\nENV A=1\nRUN echo last > /last\n"


@pytest.fixture
def other(archive: Path) -> Iterator[Daemon]:
    with stocked(archive) as daemon:
        yield daemon


def test_a_cache_in_a_directory(own_daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", _FILE, f="content")
    kept = f"type=local,dest={tmp_path}/kept"
    own_daemon.cove("build", "-q", "-t", "first", "--cache-to", kept, str(where))
    when = own_daemon.cove("run", "--rm", "first", "cat", "/when").stdout
    # the base must be the same one: images of one archive differ in their times only
    own_daemon.cove("save", "-o", f"{tmp_path}/base.tar", "busybox")
    other.cove("rmi", "busybox")
    other.cove("load", "-i", f"{tmp_path}/base.tar")
    told = other.cove("build", "-t", "second", "--cache-from", f"type=local,src={tmp_path}/kept", str(where)).stderr
    assert told.count("CACHED") == 3
    assert other.cove("run", "--rm", "second", "cat", "/when").stdout == when
    other.cove("save", "-o", f"{tmp_path}/again.tar", "second")
    (where / "f").write_text("changed")
    told = other.cove("build", "-t", "third", "--cache-from", f"type=local,src={tmp_path}/kept", str(where)).stderr
    assert "CACHED" not in told


def test_a_cache_within_the_image(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", _FILE, f="content")
    own_daemon.cove("build", "-q", "-t", "inlined", "--cache-to", "type=inline", str(where))
    own_daemon.cove("build", "-q", "-t", "plain", str(where))
    own_daemon.cove("builder", "prune", "-af")
    assert "CACHED" not in own_daemon.cove("build", "--cache-from", "plain", str(where)).stderr
    own_daemon.cove("builder", "prune", "-af")
    assert own_daemon.cove("build", "--cache-from", "inlined", str(where)).stderr.count("CACHED") == 3


def test_two_daemons_build_the_same_image(own_daemon: Daemon, other: Daemon, tmp_path: Path) -> None:
    """With SOURCE_DATE_EPOCH: the same digest, whoever builds it and whenever."""
    first = "FROM scratch\nCOPY d /d\nADD a.tar /a\nWORKDIR /w/x\nENV A=1\nLABEL b=2\n"
    where = context(tmp_path / "c", first, d__f="1", d__g="2")
    with tarfile.open(where / "a.tar", "w") as tar:
        tar.add(where / "d", "in")
    own_daemon.cove("save", "-o", f"{tmp_path}/base.tar", "busybox")
    other.cove("rmi", "busybox")
    other.cove("load", "-i", f"{tmp_path}/base.tar")
    for file in (first, "FROM busybox\nCOPY d /d\nRUN date > /dev/null; mkdir /made && echo x > /made/x\n"):
        context(where, file)
        os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
        try:
            built = [each.cove("build", "-q", "-t", "same", str(where)).stdout for each in (own_daemon, other)]
        finally:
            del os.environ["SOURCE_DATE_EPOCH"]
        assert built[0] == built[1]
        digests = [docker.APIClient(base_url=each.host).inspect_image("same") for each in (own_daemon, other)]
        assert digests[0]["Id"] == digests[1]["Id"] and digests[0]["Created"].startswith("2023-11-14T22:13:20")


_DATED = """ARG SOURCE_DATE_EPOCH={}
FROM busybox AS made
COPY old new /
RUN mkdir /d && date > /d/never && rm /d/never && echo x > /d/x && ln -s x /d/soft
FROM busybox
COPY --from=made /d /d
COPY --link old new /linked/
ADD a.tar /a
WORKDIR /w
"""


def test_files_as_a_result_have_the_time_that_was_asked_for(
    own_daemon: Daemon, other: Daemon, tmp_path: Path
) -> None:
    """As BuildKit defines it: files that leave the image as files are of that time; in layers, none is later."""
    where = context(tmp_path / "c", _DATED.format(1_600_000_000), old="o", new="n")
    os.utime(where / "old", (1_000_000_000, 1_000_000_000))
    with tarfile.open(where / "a.tar", "w") as tar:
        tar.add(where / "new", "in")
    own_daemon.cove("save", "-o", f"{tmp_path}/base.tar", "busybox")
    other.cove("rmi", "busybox")
    other.cove("load", "-i", f"{tmp_path}/base.tar")
    layouts = []
    for each in (own_daemon, other):
        layouts.append(tmp_path / f"{len(layouts)}.tar")
        words = ("--output", f"type=oci,dest={layouts[-1]},rewrite-timestamp=true")
        each.cove("build", "-q", "-t", "same", *words, str(where))
    assert layouts[0].read_bytes() == layouts[1].read_bytes()
    told = own_daemon.cove("run", "--rm", "same", "stat", "-c", "%Y", "/linked/old", "/linked/new", "/d/x", "/a/in")
    assert told.stdout.split() == ["1000000000", *["1600000000"] * 3]
    own_daemon.cove("build", "-q", "--output", f"type=tar,dest={tmp_path}/out.tar", str(where))
    own_daemon.cove("build", "-q", "--output", f"type=local,dest={tmp_path}/out", str(where))
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {member.mtime for member in tar.getmembers()} == {1_600_000_000}
    found = [path.lstat().st_mtime for path in (tmp_path / "out").rglob("*")]
    assert set(found) == {1_600_000_000.0}
    refused = own_daemon.cove("build", "--output", "type=tar,dest=x,colour=red", str(where), check=False)
    assert refused.returncode and "has no option colour=red" in refused.stderr


def test_several_platforms_become_one_index(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c", "FROM scratch\nARG TARGETARCH\nCOPY f-$TARGETARCH /f\n", **{"f-amd64": "a", "f-arm64": "b"}
    )
    daemon.cove("build", "-q", "-t", "many", "--platform", "linux/amd64", "--platform", "linux/arm64", str(where))
    daemon.cove("save", "-o", f"{tmp_path}/many.tar", "many")
    layout = tmp_path / "layout"
    layout.mkdir()
    shutil.unpack_archive(f"{tmp_path}/many.tar", layout)
    index = json.loads((layout / "index.json").read_text())
    listed = json.loads((layout / "blobs" / index["manifests"][0]["digest"].replace(":", "/")).read_text())
    assert sorted(each["platform"]["architecture"] for each in listed["manifests"]) == ["amd64", "arm64"]


def test_a_platform_without_an_emulator_is_refused_in_words(daemon: Daemon, tmp_path: Path) -> None:
    if list(Path("/proc/sys/fs/binfmt_misc").glob("qemu-*")):
        pytest.skip("this host has emulators registered")
    where = context(tmp_path / "c", "FROM scratch\nCOPY f /f\n", f="x")
    daemon.cove("build", "-q", "-t", "foreign", "--platform", "linux/arm64", str(where))
    context(where, "FROM foreign\nRUN /f\n")
    done = daemon.cove("build", "--platform", "linux/arm64", str(where), check=False)
    assert done.returncode and "qemu-user-static" in done.stderr
