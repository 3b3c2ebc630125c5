"""`cove build`: its contexts, outputs, secrets, mounts, and what it says."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import Daemon
from tests.integration.test_build import context


def build(daemon: Daemon, *words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    return daemon.cove("build", *words, check=check, **options)


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """The directory by HTTP on this host."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(directory))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_progress_as_plain_lines_and_as_json(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox AS web\nRUN echo said; echo wrong >&2; echo n$((20+3))\n")
    plain = build(daemon, "--no-cache", str(where)).stderr
    assert "[web 2/2] RUN echo said" in plain and " n23\n" in plain and " wrong\n" in plain and "DONE" in plain
    events = [json.loads(line) for line in build(daemon, "--progress=json", str(where)).stdout.splitlines()]
    assert [each["event"] for each in events if each.get("name", "").startswith("[web 2/2]")] == ["cached"]
    assert events[-1]["aux"]["ID"].startswith("sha256:")


def test_explain_names_what_changed(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nARG V=1\nCOPY d /d\nRUN echo $V\n", d__a="1", d__b="1", other="1")
    build(daemon, "-t", "explained", str(where))
    (where / "d/b").write_text("2")
    assert "why: the file d/b changed" in build(daemon, "--explain", "-t", "explained", str(where)).stderr
    told = build(daemon, "--explain", "-t", "explained", "--build-arg", "V=2", str(where)).stderr
    assert "why: the variable V changed from 1 to 2" in told and "CACHED" in told
    (where / "other").write_text("2")
    assert "why" not in build(daemon, "--explain", "-t", "explained", "--build-arg", "V=2", str(where)).stderr


def test_explain_knows_every_cause(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "", d__a="1")

    def why(dockerfile: str, *words: str) -> str:
        (where / "Dockerfile").write_text(dockerfile)
        told = build(own_daemon, "--explain", "-t", "explained", *words, str(where)).stderr
        return "\n".join(line.partition(" why: ")[2] for line in told.splitlines() if " why: " in line)

    copy, run = "COPY d /d\n", "RUN true\n"
    assert why(f"FROM busybox\n{run}{copy}").count("it is new: no build under this name had it before") == 2
    assert why(f"FROM busybox\n{run}{copy}") == ""
    assert why(f"FROM busybox\n{run}COPY d /e\n") == "the instruction was: COPY d /d"
    assert why("FROM busybox\nRUN echo\n") == "the command changed from /bin/sh -c true to /bin/sh -c echo"
    assert why("FROM busybox\nUSER 1\nRUN echo\n") == "its user changed from the default to 1"
    told = why("FROM busybox\nRUN --network=none echo\n")
    assert told == "its network changed from the default to none; its user changed from 1 to the default"
    assert "not to be used" in why("FROM busybox\nRUN --network=none echo\n", "--no-cache")
    own_daemon.cove("builder", "prune", "-af", "--filter", "type=regular")
    assert "it was pruned" in why("FROM busybox\nRUN --network=none echo\n")
    build(own_daemon, "-q", "-t", "base", "-", input="FROM busybox\nENV A=1\nRUN echo 1 > /1\n")
    why(f"FROM base\n{copy}{copy}")
    build(own_daemon, "-q", "-t", "base", "-", input="FROM busybox\nENV A=1\nRUN echo 2 > /1\n")
    told = why(f"FROM base\n{copy}{copy}").splitlines()
    assert told[0] == "the base image base is not the same as before"
    assert told[1] == "the result of the step below, COPY d /d, is not the same as before"


def test_contexts_from_stdin(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY f /f\n", f="from a tar")
    archive = tmp_path / "context.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(where, ".")
    with archive.open("rb") as stdin:
        build(daemon, "-q", "-t", "piped", "-", stdin=stdin)
    assert daemon.cove("run", "--rm", "piped", "cat", "/f").stdout == "from a tar"
    assert build(daemon, "-q", "-", input="FROM busybox\nRUN true\n").stdout.startswith("sha256:")
    (where / "Dockerfile").unlink()
    build(daemon, "-q", "-f", "-", "-t", "piped", str(where), input="FROM busybox\nCOPY f /g\n")
    assert daemon.cove("run", "--rm", "piped", "cat", "/g").stdout == "from a tar"


@pytest.mark.parametrize("form", ["", ":", ":gz", ":bz2", ":xz"])
def test_an_address_as_context(daemon: Daemon, tmp_path: Path, form: str) -> None:
    """A Dockerfile alone, or an archive in any form; by the command, by docker's, and by the API's remote=."""
    lines = "FROM busybox\nRUN echo from a file > /f\n" if not form else "FROM busybox\nCOPY sub/f /f\n"
    where = context(tmp_path / "c", lines, sub__f="from an archive\n")
    (tmp_path / "served").mkdir()
    if form:
        with tarfile.open(tmp_path / "served/it", f"w{form}", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
            tar.add(where, ".")
    else:
        (tmp_path / "served/it").write_text(lines)
    said = "from an archive\n" if form else "from a file\n"
    client = docker.APIClient(base_url=daemon.host)
    with serving(tmp_path / "served") as address:
        for number, made in enumerate(
            (
                lambda tag: build(daemon, "-q", "-t", tag, f"{address}/it"),
                lambda tag: daemon.docker("build", "-t", tag, f"{address}/it"),
                lambda tag: list(client.build(path=f"{address}/it", tag=tag, decode=True)),
            )
        ):
            daemon.environment["DOCKER_BUILDKIT"] = "0"
            made(f"addressed:{number}")
            assert daemon.cove("run", "--rm", f"addressed:{number}", "cat", "/f").stdout == said
            daemon.cove("rmi", f"addressed:{number}")
        gone = build(daemon, f"{address}/nowhere", check=False)
    assert gone.returncode and "404" in gone.stderr


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_git_repository_as_context(daemon: Daemon, tmp_path: Path, form: str) -> None:
    where = context(tmp_path / "repository", "FROM busybox\nCOPY . /x\n", sub__f="in git")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(where)]
    begin = ["init", "-q", "-b", "main", f"--object-format={form}"]
    for words in (begin, ["add", "."], ["commit", "-qm", "one"], ["update-server-info"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "repo.git").symlink_to(where / ".git")
    with serving(tmp_path) as address:
        build(daemon, "-q", "-t", "gitted", f"{address}/repo.git#main")
        words = ("--build-arg", "SOURCE_DATE_EPOCH=context", "-q", "-t", "dated")
        build(daemon, *words, f"{address}/repo.git#main")
        committed = subprocess.run([*git, "show", "-s", "--format=%ct"], check=True, capture_output=True).stdout
        refused = build(daemon, "-q", f"{address}/repo.git#--upload-pack=x", check=False)
    assert "must not begin with a dash" in refused.stderr
    assert daemon.cove("run", "--rm", "gitted", "cat", "/x/sub/f").stdout == "in git"
    assert ".git" not in daemon.cove("run", "--rm", "gitted", "ls", "-a", "/x").stdout.split()
    assert created(daemon, "dated") == int(committed)


def created(daemon: Daemon, name: str) -> float:
    """When an image was made, in seconds."""
    text = json.loads(daemon.cove("image", "inspect", name).stdout)[0]["Created"]
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def test_the_time_of_a_contexts_source(daemon: Daemon, tmp_path: Path) -> None:
    """A server's Last-Modified, or the latest of an archive's files; of a directory, none."""
    where = context(tmp_path / "c", "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /e\n", f="f")
    for number, name in enumerate(("Dockerfile", "f")):
        os.utime(where / name, (1500000000 + number,) * 2)
    (tmp_path / "served").mkdir()
    with tarfile.open(tmp_path / "served/it.tar", "w") as tar:
        tar.add(where, ".")
    os.utime(tmp_path / "served/it.tar", (1600000000,) * 2)
    words = ("--build-arg", "SOURCE_DATE_EPOCH=context", "-q", "-t", "timed")
    with serving(tmp_path / "served") as address:
        build(daemon, *words, f"{address}/it.tar")
    assert created(daemon, "timed") == 1600000000
    assert daemon.cove("run", "--rm", "timed", "cat", "/e").stdout == "1600000000\n"
    build(daemon, *words, str(where))
    assert created(daemon, "timed") > 1700000000
    assert daemon.cove("run", "--rm", "timed", "cat", "/e").stdout == "\n"


def test_annotations_stand_beside_the_image(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM scratch\nCOPY f /f\n", f="f")
    notes = ("--annotation", "a=1", "--annotation", "index,manifest[linux/arm64]:b=2=3")
    platforms = ("--platform", "linux/amd64", "--platform", "linux/arm64")
    output = ("--output", f"type=oci,dest={tmp_path}/o.tar")
    build(daemon, "-q", "-t", "noted", *notes, *platforms, *output, str(where))
    with tarfile.open(tmp_path / "o.tar") as tar:

        def document(digest: str) -> Any:
            return json.load(tar.extractfile(f"blobs/{digest.replace(':', '/')}"))  # type: ignore[arg-type]

        index = document(json.load(tar.extractfile("index.json"))["manifests"][0]["digest"])  # type: ignore[arg-type]
        found = {each["platform"]["architecture"]: document(each["digest"]) for each in index["manifests"]}
    assert index["annotations"] == {"b": "2=3"}
    assert found["amd64"]["annotations"] == {"a": "1"} and found["arm64"]["annotations"] == {"a": "1", "b": "2=3"}
    for words, why in (("index:a=b", "single platform"), ("poem:a=b", "unknown type 'poem'"), ("a", "KEY=VALUE")):
        refused = build(daemon, "--annotation", words, str(where), check=False)
        assert refused.returncode and why in refused.stderr


def test_secrets_are_nowhere_afterwards(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c",
        "FROM busybox\n"
        "RUN --mount=type=secret,id=token,uid=1000,mode=0440 stat -c '%u %a' /run/secrets/token "
        "&& wc -c < /run/secrets/token\n"
        "RUN --mount=type=secret,id=token,env=TOKEN test ${#TOKEN} = 13\n"
        'RUN test ! -e /run/secrets/token && test -z "$TOKEN"\n',
    )
    secret = tmp_path / "token"
    secret.write_text("hush-hush-key")
    told = build(daemon, "-t", "secretive", "--secret", f"id=token,src={secret}", str(where)).stderr
    assert "1000 440" in told and " 13\n" in told and "hush" not in told
    daemon.cove("save", "-o", str(tmp_path / "i.tar"), "secretive")
    assert b"hush-hush" not in (tmp_path / "i.tar").read_bytes()
    assert subprocess.run(["grep", "-rqs", "hush-hush-key", daemon.data, daemon.run]).returncode == 1
    assert "run/secrets" not in daemon.cove("run", "--rm", "secretive", "find", "/", "-path", "/run*").stdout
    missing = where / "Dockerfile"
    missing.write_text("FROM busybox\nRUN --mount=type=secret,id=other,required true\n")
    failed = build(daemon, str(where), check=False)
    assert "secret other: not found" in failed.stderr


def test_cache_mounts_are_kept_between_builds(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c",
        "FROM busybox\nARG N\nRUN --mount=type=cache,id=kept,target=/c echo $N >> /c/log "
        "&& echo lines $(wc -l < /c/log)\n",
    )
    assert "lines 1" in build(daemon, "--build-arg", "N=1", str(where)).stderr
    assert "lines 2" in build(daemon, "--build-arg", "N=2", str(where)).stderr


def test_parallel_stages_run_at_the_same_time(daemon: Daemon, tmp_path: Path) -> None:
    wait = (
        "RUN --mount=type=cache,id=meeting,target=/m touch /m/{0} && "
        "for i in $(seq 100); do test -e /m/{1} && exit 0; usleep 50000; done; exit 1\n"
    )
    where = context(
        tmp_path / "c",
        f"FROM busybox AS a\n{wait.format('a', 'b')}FROM busybox AS b\n{wait.format('b', 'a')}"
        "FROM scratch\nCOPY --from=a /bin/ls /a\nCOPY --from=b /bin/ls /b\n",
    )
    build(daemon, "--no-cache", "-t", "met", str(where))


def test_the_result_as_files(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM scratch\nCOPY d /\n", d__a__f="content")
    build(daemon, "-q", "-o", str(tmp_path / "out"), str(where))
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["a", "f"]
    build(daemon, "-q", "-o", f"type=tar,dest={tmp_path}/out.tar", str(where))
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == ["a", "a/f"]
    build(
        daemon,
        "-q",
        "-t",
        "archived",
        "-o",
        f"type=oci,dest={tmp_path}/oci.tar",
        "--iidfile",
        f"{tmp_path}/iid",
        str(where),
    )
    with tarfile.open(tmp_path / "oci.tar") as tar:
        assert {"index.json", "oci-layout"} <= set(tar.getnames())
    assert (tmp_path / "iid").read_text().startswith("sha256:")


def test_the_same_sources_give_the_same_image(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY f /f\nRUN echo a > /a\nWORKDIR /w\nENV A=1\n", f="1")
    daemon.environment["SOURCE_DATE_EPOCH"] = "1700000000"
    try:
        first = build(daemon, "-q", "--no-cache", str(where)).stdout
        (where / "f").touch()
        assert build(daemon, "-q", "--no-cache", str(where)).stdout == first
    finally:
        del daemon.environment["SOURCE_DATE_EPOCH"]
    shown = json.loads(daemon.cove("inspect", first.strip()).stdout)[0]
    assert shown["Created"] == "2023-11-14T22:13:20Z"


def test_named_contexts(daemon: Daemon, tmp_path: Path) -> None:
    """Directories, images, layouts and archives by name; what no step needs is not fetched."""
    where = context(tmp_path / "c", "FROM base\nCOPY --from=dir . /d\nCOPY --from=web f /w\nCOPY f /m\n", f="main")
    named = context(tmp_path / "named", "FROM scratch\n", f="named", out="left out")
    (named / ".dockerignore").write_text("out\n")
    with tarfile.open(tmp_path / "web.tar.gz", "w:gz") as tar:
        tar.add(named / "f", "f")
    daemon.cove("save", "-o", f"{tmp_path}/base.tar", "busybox")
    shutil.unpack_archive(f"{tmp_path}/base.tar", tmp_path / "layout")
    with serving(tmp_path) as address:
        words = ["-t", "named", "--build-context", f"dir={named}", "--build-context", f"web={address}/web.tar.gz"]
        words += ["--build-context", f"unused={address}/nowhere.tar"]
        for base in ("docker-image://busybox", f"oci-layout://{tmp_path}/layout"):
            build(daemon, *words, "--build-context", f"base={base}", str(where))
            shown = daemon.cove("run", "--rm", "named", "sh", "-c", "cat /d/f /w /m; ls /d").stdout
            assert shown == "namednamedmainDockerfile\nf\n"
        again = build(daemon, *words, "--build-context", "base=docker-image://busybox", str(where)).stderr
        assert again.count("CACHED") == 3
        (named / "f").write_text("changed")
        told = build(daemon, "--explain", *words, "--build-context", "base=docker-image://busybox", str(where)).stderr
        assert "why: the file f changed" in told
    failed = build(daemon, *words, "--build-context", f"base={named}", str(where), check=False)
    assert failed.returncode == 1 and "the build context base is no image" in failed.stderr
    for wrong in ("base=/nowhere", "base", f"base=oci-layout://{named}"):
        assert build(daemon, "--build-context", wrong, str(where), check=False).returncode


def test_checks_by_name(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c", "FROM busybox as x\nMAINTAINER me\nENV PASSWORD=x\nCMD run\nWORKDIR a\nRUN echo $nowhere\n"
    )
    done = build(daemon, "--check", str(where), check=False)
    for rule in (
        "FromAsCasing",
        "MaintainerDeprecated",
        "SecretsUsedInArgOrEnv",
        "JSONArgsRecommended",
        "WorkdirRelativePath",
    ):
        assert f"WARNING: {rule}:" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("wrong", ["NOSUCH thing", "RUN --nosuch=x true", "COPY --from=later /a /b"])
def test_checks_of_what_stands_before_an_error(daemon: Daemon, tmp_path: Path, wrong: str) -> None:
    """As BuildKit tells them: the warnings, then the error; a build tells the error alone."""
    where = context(tmp_path / "c", f"FROM busybox as x\nMAINTAINER me\n{wrong}\nFROM busybox AS later\nFROM x\n")
    done = build(daemon, "--check", str(where), check=False)
    assert "WARNING: FromAsCasing:" in done.stderr and "WARNING: MaintainerDeprecated:" in done.stderr
    assert "on line 3" in done.stderr and done.returncode == 1
    failed = build(daemon, str(where), check=False)
    assert "WARNING" not in failed.stderr and "on line 3" in failed.stderr


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("RUN --security=insecure true", "security.insecure is not allowed"),
        ("RUN --network=host true", "network.host is not allowed"),
        ("COPY nowhere /x", '"/nowhere": not found'),
        ("COPY --from=nosuch:image /x /x", "nosuch"),
        ("ADD --checksum=sha256:00 http://127.0.0.1:9/x /x", "digest"),
    ],
)
def test_refusals_say_why(daemon: Daemon, tmp_path: Path, line: str, reason: str) -> None:
    where = context(tmp_path / "c", f"FROM busybox\n{line}\n")
    failed = build(daemon, str(where), check=False)
    assert failed.returncode == 1 and reason in failed.stderr


def test_pruning_frees_layers(own_daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN head -c 4000000 /dev/zero > /big\n")
    build(own_daemon, "-q", "-t", "big", str(where))
    own_daemon.cove("rmi", "big")
    assert "B" in own_daemon.cove("builder", "prune", "-f").stdout
    assert "CACHED" not in build(own_daemon, str(where)).stderr


def _cached_bytes(daemon: Daemon) -> int:
    usage = docker.APIClient(base_url=daemon.host).df()
    return sum(each["Size"] for each in usage["BuildCache"])


def test_pruning_takes_what_it_says(own_daemon: Daemon, tmp_path: Path) -> None:
    """`system df` and `builder prune` count the same, step by step and to the byte; bounds and filters are kept."""
    big = "head -c 2000000 /dev/urandom"
    mount = "RUN --mount=type=cache,id=kept,target=/c head -c 3000000 /dev/urandom > /c/f\n"
    where = context(tmp_path / "c", f"FROM busybox\nRUN {big} > /1\nRUN {big} > /2\nRUN {big} > /3\n{mount}")
    build(own_daemon, "-q", "-t", "big", str(where))
    client = docker.APIClient(base_url=own_daemon.host)

    def prune(**query: object) -> int:
        before = _cached_bytes(own_daemon)
        answer = client._post(client._url("/build/prune"), params=query).json()
        assert answer["SpaceReclaimed"] == before - _cached_bytes(own_daemon)
        return int(answer["SpaceReclaimed"])

    assert {each["Type"] for each in client.df()["BuildCache"]} == {"regular", "exec.cachemount"}
    assert 3_000_000 < _cached_bytes(own_daemon) < 4_000_000  # the steps' layers are the image's
    own_daemon.cove("rmi", "big")
    whole = _cached_bytes(own_daemon)
    assert 9_000_000 < whole < 10_000_000
    assert prune(**{"reserved-space": whole}) == 0 == prune(**{"min-free-space": 1})
    assert prune(filters=json.dumps({"type": ["exec.cachemount"]})) > 3_000_000
    assert prune(filters=json.dumps({"until": ["1h"]})) == 0
    assert 2_000_000 <= prune(**{"max-used-space": 5_000_000}) < 3_000_000
    told = build(own_daemon, str(where)).stderr
    assert told.count("CACHED") == 2  # what stood on the others went first
    assert prune(all=1) > 3_000_000 and _cached_bytes(own_daemon) == 0


def test_linked_copies_stand_on_nothing(daemon: Daemon, tmp_path: Path) -> None:
    """COPY --link: the same layer on any base, copied once; links of the base are not followed."""
    dockerfile = "ARG BASE=busybox\nFROM busybox AS other\nRUN ln -s /etc /to && echo below > /below\nFROM $BASE\n"
    where = context(tmp_path / "c", f"{dockerfile}COPY --link --chown=7:8 d /to/\n", d__a="linked", d__s__b="2")

    def ended(*words: str) -> dict[str, str]:
        lines = build(daemon, "--progress=json", *words, str(where)).stdout.splitlines()
        told = [json.loads(line) for line in lines]
        return {
            each["name"].split("] ")[-1]: each["event"] for each in told if each.get("event") in ("cached", "done")
        }

    first = ended("-t", "link:1")
    assert first["COPY --link --chown=7:8 d /to/"] == first["LINK COPY --link --chown=7:8 d /to/"] == "done"
    second = ended("-t", "link:2", "--build-arg", "BASE=other")
    assert second["COPY --link --chown=7:8 d /to/"] == "cached"
    assert second["LINK COPY --link --chown=7:8 d /to/"] == "done"
    layers = [
        json.loads(daemon.cove("image", "inspect", name).stdout)[0]["RootFS"]["Layers"]
        for name in ("link:1", "link:2")
    ]
    assert layers[0][-1] == layers[1][-1] and len(layers[1]) == len(layers[0]) + 1
    script = "stat -c '%F %u %g' /to /to/a; cat /to/a /to/s/b /below; ls /etc/a"
    seen = daemon.cove("run", "--rm", "--network", "none", "link:2", "sh", "-c", script, check=False)
    assert "directory 7 8" in seen.stdout and "regular file 7 8" in seen.stdout and "linked2below\n" in seen.stdout
    assert "/etc/a: No such file" in seen.stderr
    archive = tmp_path / "saved.tar"
    daemon.cove("save", "-o", str(archive), "link:2")
    daemon.cove("rmi", "link:1", "link:2")
    daemon.cove("load", "-i", str(archive))
    assert daemon.cove("run", "--rm", "--network", "none", "link:2", "cat", "/to/a").stdout == "linked"
