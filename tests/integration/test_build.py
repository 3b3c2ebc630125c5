"""Builds as clients see them: Docker's own command, docker-py, and what lies in the images."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest

from tests.conftest import BIN, PATIENCE, Daemon, eventually


def context(directory: Path, dockerfile: str, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "Dockerfile").write_text(dockerfile)
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


def build(daemon: Daemon, where: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    daemon.environment["DOCKER_BUILDKIT"] = "0"
    return daemon.docker("build", *words, str(where), check=check)


def output(daemon: Daemon, image: str, *words: str) -> str:
    return daemon.docker("run", "--rm", "--network", "none", image, *words).stdout


def test_stages_copies_and_configuration(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c",
        'ARG BASE=busybox\nFROM $BASE AS one\nENV WHO=world\nRUN echo "hello $WHO" > /out\nWORKDIR /srv/app\n'
        "COPY --chown=worker:2000 --chmod=640 a.txt sub ./\n"
        "FROM one\nCOPY --from=one /srv/app /copied/\nEXPOSE 80/tcp\nUSER worker\nLABEL k=v\n"
        'VOLUME /data\nSTOPSIGNAL SIGINT\nENTRYPOINT ["cat"]\nCMD ["/out"]\n',
        **{"a.txt": "a", "sub__b.txt": "b"},
    )
    told = build(daemon, where, "-t", "stages").stdout
    assert "Step 1/14 : FROM $BASE AS one" in told and "Successfully tagged stages:latest" in told
    assert output(daemon, "stages") == "hello world\n"
    listed = daemon.docker(
        "run", "--rm", "--entrypoint", "stat", "stages", "-c", "%u %g %a %n", "/copied/a.txt", "/copied/b.txt"
    )
    assert listed.stdout == "1000 2000 640 /copied/a.txt\n1000 2000 640 /copied/b.txt\n"
    found = json.loads(daemon.docker("image", "inspect", "stages").stdout)[0]
    config = found["Config"]
    assert config["User"] == "worker" and config["WorkingDir"] == "/srv/app" and config["Labels"] == {"k": "v"}
    assert config["ExposedPorts"] == {"80/tcp": {}} and config["Volumes"] == {"/data": {}}
    assert config["Entrypoint"] == ["cat"] and config["Cmd"] == ["/out"] and config["StopSignal"] == "SIGINT"
    assert len(found["RootFS"]["Layers"]) == 5


def test_an_unchanged_build_runs_nothing_and_gives_the_same_image(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY . /x\nRUN cat /x/f > /y\n", f="one", unrelated="u")
    first = build(daemon, where, "-q").stdout
    again = build(daemon, where, "-t", "again").stdout
    assert again.count("Using cache") == 2
    assert build(daemon, where, "-q").stdout == first
    (where / "f").touch()
    assert build(daemon, where, "-q").stdout == first  # times do not count
    (where / "f").write_text("two")
    changed = build(daemon, where, "-t", "again").stdout
    assert "Using cache" not in changed and output(daemon, "again", "cat", "/y") == "two"


def test_only_what_is_copied_counts(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY used /x\n", used="1", other="1")
    build(daemon, where, "-q")
    (where / "other").write_text("2")
    assert "Using cache" in build(daemon, where).stdout


def test_unused_stages_are_not_run(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox AS broken\nRUN false\nFROM busybox\nRUN true\n")
    build(daemon, where)
    failed = build(daemon, where, "--target", "broken", check=False)
    assert failed.returncode and "The command '/bin/sh -c false' returned a non-zero code: 1" in failed.stderr


def test_a_failed_build_leaves_no_image_and_keeps_its_finished_steps(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo kept > /kept\nRUN exit 7\n")
    before = daemon.docker("images", "-aq").stdout
    failed = build(daemon, where, "-t", "never", check=False)
    assert failed.returncode == 7
    assert daemon.docker("images", "-aq").stdout == before
    context(where, "FROM busybox\nRUN echo kept > /kept\nRUN true\n")
    assert "Using cache" in build(daemon, where).stdout


def test_errors_of_the_file_are_the_requests(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUNN x\n")
    failed = build(daemon, where, check=False)
    assert (
        "dockerfile parse error on line 2, column 1: unknown instruction: RUNN (did you mean RUN?)" in failed.stderr
    )


def test_docker_ends_with_the_programs_code_or_1(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN exit 7\n")
    assert build(daemon, where, check=False).returncode == 7
    other = build(daemon, where, "--network", "no-such-network", check=False)
    assert other.returncode == 1 and "no-such-network" in other.stderr
    refused = build(daemon, where, "--security-opt", "seccomp=unconfined", check=False)
    assert refused.returncode and "security options" in refused.stderr


def test_limits_and_names_for_steps(daemon: Daemon, tmp_path: Path) -> None:
    said = "RUN grep 1.2.3.4 /etc/hosts; ulimit -n; df /dev/shm | tail -1; cat /proc/self/cpuset\n"
    words = ("--add-host", "foo:1.2.3.4", "--ulimit", "nofile=100:100", "--shm-size", "32m", "--memory", "100m")
    more = ("--cpuset-cpus", "0", "--cpuset-mems", "0", "--cpu-shares", "100", "--cgroup-parent", "/below-cove")
    told = build(daemon, context(tmp_path / "c", f"FROM busybox\n{said}"), "--no-cache", *words, *more).stdout
    assert "1.2.3.4\tfoo" in told and "\n100\n" in told and " 32768 " in told


def test_links_on_the_way_to_a_destination(daemon: Daemon, tmp_path: Path) -> None:
    """A link to nothing: what it names is made. An archive's links are resolved below where it is unpacked."""
    where = context(
        tmp_path / "c",
        "FROM busybox\nRUN mkdir /q && ln -s /new/place /dangling && ln -s ../up /q/rel\n"
        "COPY a.txt /dangling/sub/\nCOPY a.txt /q/rel/\nADD up.tar /unpacked/\n"
        "RUN cat /new/place/sub/a.txt /up/a.txt /unpacked/etc/file; ls /etc/file\n",
        **{"a.txt": "a"},
    )
    with tarfile.open(where / "up.tar", "w") as archive:
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        archive.addfile(link)
        file = tarfile.TarInfo("up/etc/file")
        file.size = 1
        archive.addfile(file, io.BytesIO(b"b"))
    told = build(daemon, where, check=False)
    assert "aab" in told.stdout and "/etc/file: No such file" in told.stdout + told.stderr


def test_copies_beside_and_onto_what_lies_there(daemon: Daemon, tmp_path: Path) -> None:
    """In directories of layers below, in those of the step's own, and in both at once."""
    where = context(
        tmp_path / "c",
        "FROM busybox\n"
        "RUN mkdir -p /x/sub /y && echo old > /x/a && echo kept > /x/k && echo old > /x/sub/b && ln -s /y /x/there "
        "&& echo gone > /x/gone && chown 7:8 /x && chmod 2775 /x\n"
        "RUN rm /x/gone\n"
        "COPY tree /x/\nCOPY tree second /y/\nCOPY tree second /new/\nCOPY tree/a tree/sub/b /x/there/d/\n",
        tree__a="a",
        tree__gone="back",
        tree__sub__b="b",
        tree__sub__deep__c="c",
        tree__there__e="e",
        second__a="second",
        second__sub__deep__c="second c",
    )
    os.link(where / "tree/a", where / "tree/sub/hard")
    os.symlink("a", where / "tree/soft")
    os.chmod(where / "tree/sub", 0o2750)
    image = daemon.cove("build", "-q", str(where)).stdout.strip()
    script = "find /x /y /new -type f | sort | while read f; do echo $f $(cat $f) $(stat -c %U:%G:%a:%h $f); done"
    files = dict(
        line.split(" ", 1) for line in daemon.cove("run", "--rm", image, "sh", "-c", script).stdout.splitlines()
    )
    root = "root:root:644:"
    assert files == {
        "/x/a": f"a {root}2",
        "/x/gone": f"back {root}1",
        "/x/k": f"kept {root}1",
        "/x/sub/b": f"b {root}1",
        "/x/sub/deep/c": f"c {root}1",
        "/x/sub/hard": f"a {root}2",
        **{f"{each}/a": f"second {root}1" for each in ("/y", "/new")},
        **{f"{each}/gone": f"back {root}1" for each in ("/y", "/new")},
        **{f"{each}/sub/b": f"b {root}1" for each in ("/y", "/new")},
        **{f"{each}/sub/deep/c": f"second c {root}1" for each in ("/y", "/new")},
        **{f"{each}/sub/hard": f"a {root}1" for each in ("/y", "/new")},
        "/new/there/e": f"e {root}1",
        "/y/there/e": f"e {root}1",
        "/y/e": f"e {root}1",
        "/y/d/a": f"a {root}1",
        "/y/d/b": f"b {root}1",
    }
    modes = daemon.cove("run", "--rm", image, "stat", "-c", "%n %g %a", "/x", "/x/sub", "/y/sub", "/new/sub", "/y/d")
    assert modes.stdout.splitlines() == [
        "/x 8 2775",
        "/x/sub 0 2750",
        "/y/sub 0 755",
        "/new/sub 0 755",
        "/y/d 0 755",
    ]


def test_parents_are_kept_as_they_are_below_each_pivot(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c",
        "FROM busybox\nCOPY --parents a/b*/./c/**/x ./d/y none*/z /to/\nCOPY --parents none* /empty/\n"
        "RUN cd /to && find . -type f | sort && stat -c %a d && ls -d /empty\n",
        a__b1__c__x="1",
        a__b2__c__e__x="2",
        d__y="3",
    )
    (where / "d").chmod(0o711)
    assert "./c/e/x\n./c/x\n./d/y\n711\n/empty\n" in build(daemon, where, "--no-cache").stdout


def test_a_pattern_without_matches_is_nothing_to_copy(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY a.txt lock* no[ne]* /to/\nRUN ls /to\n", **{"a.txt": "a"})
    assert "\na.txt\n" in build(daemon, where, "--no-cache").stdout
    (where / "Dockerfile").write_text("FROM busybox\nCOPY */b.txt one/* /to/\nRUN cat /to/b.txt\n")
    for name in ("one", "two"):
        (where / name).mkdir()
    (where / "two/b.txt").write_text("b of two")
    assert "b of two" in build(daemon, where, "--no-cache").stdout
    (where / "Dockerfile").write_text("FROM busybox\nCOPY a.txt lock /to/\n")
    assert '"/lock": not found' in build(daemon, where, check=False).stderr


def test_a_built_image_can_be_saved_and_loaded(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN mkdir /d && ln /bin/busybox /d/hard && rm -r /root\n")
    build(own_daemon, where, "-t", "saved")
    own_daemon.docker("save", "-o", str(tmp_path / "image.tar"), "saved")
    own_daemon.docker("rmi", "saved")
    own_daemon.docker("builder", "prune", "-af")
    own_daemon.docker("load", "-i", str(tmp_path / "image.tar"))
    assert "hard" in output(own_daemon, "saved", "ls", "/d")
    assert "root" not in output(own_daemon, "saved", "ls", "/").split()


def test_the_cache_outlives_the_daemon(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo once > /once\n")
    first = build(own_daemon, where, "-q").stdout
    own_daemon.kill()
    own_daemon.start()
    assert build(own_daemon, where, "-q").stdout == first


def test_a_context_that_was_seen_before_is_unpacked_when_a_step_needs_it(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY d /d\nRUN --mount=target=/m cat /m/d/f > /g\n", d__f="one")
    build(own_daemon, where, "-q", "-t", "seen")
    own_daemon.cove("rmi", "seen")
    own_daemon.cove("builder", "prune", "-f")
    assert "Using cache" not in build(own_daemon, where, "-t", "seen").stdout
    assert output(own_daemon, "seen", "cat", "/d/f", "/g") == "oneone"
    assert build(own_daemon, where, "-t", "seen").stdout.count("Using cache") == 2
    (where / "d/f").write_text("two")
    assert "Using cache" not in build(own_daemon, where, "-t", "seen").stdout
    assert output(own_daemon, "seen", "cat", "/d/f", "/g") == "twotwo"


def test_docker_py_builds(daemon: Daemon) -> None:
    client = docker.DockerClient(base_url=daemon.host)
    file = io.BytesIO(b"FROM busybox\nARG who\nRUN echo hi $who > /hi\nCMD cat /hi\n")
    image, log = client.images.build(fileobj=file, tag="py", buildargs={"who": "py"}, rm=True, labels={"l": "1"})
    assert image.labels == {"l": "1"} and any("Successfully built" in str(line.get("stream")) for line in log)
    assert client.containers.run("py", remove=True) == b"hi py\n"
    script = b"FROM busybox\nENV FROM_CACHE=1\nRUN true\n"
    for source, times in (("py", 0), ("py", 2), ("nowhere", 0)):
        _, log = client.images.build(fileobj=io.BytesIO(script), cache_from=[source])
        assert sum("Using cache" in str(line.get("stream")) for line in log) == times
    with pytest.raises(docker.errors.BuildError, match="non-zero code: 3"):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 3\n"))


def test_a_context_whose_last_block_is_not_filled_up(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path, "", f="of the directory")
    daemon.environment["DOCKER_BUILDKIT"] = "0"  # a client that adds the file to the context itself
    daemon.docker("build", "-t", "stdin", "-f", "-", str(where), input="FROM busybox\nCOPY f /f\n")
    assert output(daemon, "stdin", "cat", "/f") == "of the directory"
    saved = subprocess.run(
        ["docker", "-H", daemon.host, "save", "stdin"], capture_output=True, check=True
    ).stdout.rstrip(b"\0")
    assert docker.DockerClient(base_url=daemon.host).images.load(saved)


def test_a_tar_with_links_stays_inside(daemon: Daemon) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        content = b"FROM busybox\nCOPY up /x\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../../../../etc/shadow"
        tar.addfile(link)
    client = docker.APIClient(base_url=daemon.host)
    lines = list(client.build(fileobj=io.BytesIO(raw.getvalue()), custom_context=True, decode=True))
    assert '"/up": not found' in lines[-1]["error"]


def test_identical_steps_of_builds_at_once_run_once(daemon: Daemon, tmp_path: Path) -> None:
    line = "RUN --mount=type=cache,id=counted,target=/c echo x >> /c/n && sleep 1 && wc -l < /c/n\n"
    where = context(tmp_path / "c", f"FROM busybox\n{line}")
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda name: daemon.cove("build", "-t", name, str(where)).stderr, "abc"))
    assert all(" 1\n" in each or "CACHED" in each for each in told)
    images = daemon.cove("inspect", "a", "b", "c", "-f", "{{.Id}}").stdout.split()
    assert len(set(images)) == 1


def test_an_interrupted_build_leaves_nothing(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo kept > /kept\nRUN touch /tmp/x && sleep 60\n")
    environment = os.environ | {"COVE_HOST": own_daemon.host}
    with subprocess.Popen(
        [BIN / "cove", "build", str(where)], env=environment, stderr=subprocess.PIPE, text=True
    ) as client:
        assert client.stderr is not None
        for line in client.stderr:
            if "sleep 60" in line:
                break
        places = own_daemon.data / "containers", own_daemon.run / "containers"
        assert eventually(lambda: all(any(place.iterdir()) for place in places)), "it is under way"
        client.kill()
    assert eventually(lambda: not any(each for place in places for each in place.iterdir()))
    context(where, "FROM busybox\nRUN echo kept > /kept\nRUN true\n")
    assert "CACHED" in own_daemon.cove("build", str(where)).stderr


def test_a_killed_daemon_forgets_the_step_and_its_secret(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN --mount=type=secret,id=s sleep 60\n")
    (tmp_path / "s").write_text("left-behind")
    environment = os.environ | {"COVE_HOST": own_daemon.host}
    words = [BIN / "cove", "build", "--secret", f"id=s,src={tmp_path}/s", str(where)]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        for line in client.stderr:
            if "sleep 60" in line:
                break
        time.sleep(0.5)
        own_daemon.kill()
        client.wait(60 * PATIENCE)
    own_daemon.start()
    assert not any((own_daemon.data / "containers").iterdir())
    left = [*Path("/dev/shm").glob("cove-*-secret-*/secret"), *own_daemon.run.glob("*secret*/secret")]
    assert not [each for each in left if "left-behind" in each.read_text()]


def test_steps_on_a_network_and_in_a_containers(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("network", "create", "works")
    daemon.docker("run", "-d", "--name", "site", "--network", "works", "busybox", "httpd", "-f", "-h", "/etc")
    try:
        for network, host in (("works", "site"), ("container:site", "127.0.0.1")):
            where = context(tmp_path / host, f"FROM busybox\nRUN wget -O /fetched http://{host}/passwd\n")
            build(daemon, where, "--network", network, "-t", "fetched")
            assert output(daemon, "fetched", "cat", "/fetched").startswith("root:")
        told = build(daemon, where, "--network", "container:nobody", "--no-cache", check=False)
        assert told.returncode and "No such container: nobody" in told.stdout + told.stderr
    finally:
        daemon.docker("rm", "-f", "site")
        daemon.docker("network", "rm", "works")


def test_contexts_small_and_large_leave_nothing(own_daemon: Daemon, tmp_path: Path) -> None:
    """A small context lies in memory, one that becomes larger than it looks on disk: both are gone afterwards."""
    lines = "FROM busybox\nRUN --mount=type=bind,target=/c /c/run\nUSER 1000\nRUN --mount=type=bind,target=/c ls /c\n"
    where = context(tmp_path / "c", lines, run="#!/bin/sh\nwc -c < /c/large\n")
    (where / "run").chmod(0o755)
    for size in (10, 40 << 20):
        with open(where / "large", "wb") as file:
            file.truncate(size)
        told = own_daemon.cove("build", "--no-cache", "--progress", "plain", str(where)).stderr
        assert f" {size}\n" in told and " large\n" in told
    context(where, "FROM busybox\nRUN exit 3\n")
    for _ in range(6):
        build(own_daemon, where, check=False)
    own_daemon.stop()
    left = [*own_daemon.run.glob("*secret*"), *(own_daemon.root / "data/tmp").glob("build-*")]
    assert not left
