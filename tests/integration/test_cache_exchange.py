"""Finished steps travel between daemons that share nothing: by registries, directories, images; with each client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, new_daemon
from tests.integration import test_buildkit
from tests.integration.registry_world import OCI_MANIFEST, Serving, descriptor, serving
from tests.integration.test_build import context

_STAGES = """FROM busybox AS made
COPY f /f
RUN cat /f > /g && date +%s%N > /when && mkfifo /pipe && rm /etc/group
RUN --mount=type=cache,target=/c mkdir -p /d/e && ln /g /d/hard && chown 7:8 /d/e && chmod 2711 /d
FROM busybox
COPY --from=made /g /when /pipe /
COPY --link f /linked/
RUN date +%s%N > /last && rm /bin/vi
WORKDIR /w
"""
_ALL = 8
"""All steps; a linked copy is two."""
Build = Callable[..., str]


@pytest.fixture(scope="module")
def pair(archive: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons with the same base image."""
    daemons = (new_daemon(), new_daemon())
    try:
        for each in daemons:
            each.start()
        daemons[0].cove("import", str(archive), "busybox:latest")
        daemons[0].cove("save", "-o", str(daemons[0].root / "base.tar"), "busybox")
        daemons[1].cove("load", "-i", str(daemons[0].root / "base.tar"))
        yield daemons
    finally:
        for each in daemons:
            each.clean()
            shutil.rmtree(each.root, ignore_errors=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "registry") as found:
        yield found


@pytest.fixture(params=["cove", "buildx"])
def build(request: pytest.FixtureRequest) -> Build:
    """A build by one of the clients; what it told."""

    def run(daemon: Daemon, where: Path, *words: str) -> str:
        if request.param == "cove":
            return daemon.cove("build", "--progress", "plain", *words, str(where)).stderr
        done = test_buildkit.buildx(daemon, "build", "--progress=plain", "--provenance=false", *words, str(where))
        assert not done.returncode, done.stderr
        return done.stderr

    return run


def forget(daemon: Daemon, *images: str) -> None:
    """All that builds left, and these images."""
    daemon.cove("rmi", "-f", *images, check=False)
    daemon.cove("builder", "prune", "-af")


@pytest.mark.parametrize("place", ["registry", "local"])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_round_trip(
    pair: tuple[Daemon, Daemon], registry: Serving, build: Build, tmp_path: Path, place: str, mode: str
) -> None:
    """Every step that was put there is taken from there, and the result is the same image."""
    first, second = pair
    where = context(tmp_path / "c", _STAGES, f="content")
    name = f"ref={registry.host}/app:cache" if place == "registry" else f"dest={tmp_path}/kept"
    source = name.replace("dest=", "src=")
    for each in pair:
        forget(each, "made", "taken")
    build(first, where, "-t", "made", "--cache-to", f"type={place},{name},mode={mode}")
    told = build(second, where, "-t", "taken", "--cache-from", f"type={place},{source}")
    assert told.count("CACHED") == _ALL, told  # of the other stage nothing is needed, whatever the mode
    ids = [each.cove("inspect", "-f", "{{.Id}}", name).stdout for each, name in ((first, "made"), (second, "taken"))]
    assert ids[0] == ids[1]
    whole = [
        each.cove("run", "--rm", image, "sh", "-c", "ls -R /w /pipe /linked; cat /g").stdout
        for each, image in ((first, "made"), (second, "taken"))
    ]
    assert whole[0] == whole[1]
    assert "CACHED" not in build(second, context(where, _STAGES, f="other"), "--cache-from", f"type={place},{source}")


def test_what_was_taken_travels_on(pair: tuple[Daemon, Daemon], registry: Serving, tmp_path: Path) -> None:
    """From the registry to a daemon, to another registry's name, to the first daemon that forgot all of it."""
    first, second = pair
    where = context(tmp_path / "c", _STAGES, f="travelling")
    there, on = (f"type=registry,ref={registry.host}/{name}:cache" for name in ("first", "second"))
    first.cove("build", "-q", "-t", "made", "--cache-to", f"{there},mode=max", str(where))
    made = first.cove("inspect", "-f", "{{.Id}}", "made").stdout
    forget(first, "made")
    words = ("-q", "-t", "taken", "--cache-from", there, "--cache-to", f"{on},mode=max")
    second.cove("build", *words, str(where))
    told = first.cove("build", "-t", "made", "--cache-from", on, str(where)).stderr
    assert told.count("CACHED") == _ALL and first.cove("inspect", "-f", "{{.Id}}", "made").stdout == made
    second.cove("push", "taken", check=False)
    second.cove("save", "-o", str(tmp_path / "t.tar"), "taken")  # every layer can be made again


def test_steps_taken_from_elsewhere_are_the_builds_own(
    pair: tuple[Daemon, Daemon], registry: Serving, tmp_path: Path
) -> None:
    """Who does not name the place does not get its steps."""
    first, second = pair
    where = context(tmp_path / "c", _STAGES, f="own")
    there = f"type=registry,ref={registry.host}/app:own"
    first.cove("build", "-q", "--cache-to", f"{there},mode=max", str(where))
    forget(second)
    assert second.cove("build", "--cache-from", there, str(where)).stderr.count("CACHED") == _ALL
    assert "CACHED" not in second.cove("build", str(where)).stderr
    forget(second)


def test_a_cache_within_an_image_at_a_registry(
    pair: tuple[Daemon, Daemon], registry: Serving, build: Build, tmp_path: Path
) -> None:
    first, second = pair
    where = context(tmp_path / "c", "FROM busybox\nCOPY f /f\nRUN date +%s%N > /when\n", f="inlined")
    name = f"{registry.host}/app:inlined"
    for each in pair:
        forget(each, name)
    build(first, where, "-t", name, "--cache-to", "type=inline")
    first.cove("push", name)
    assert build(second, where, "-t", "taken", "--cache-from", name).count("CACHED") == 2
    whens = [
        each.cove("run", "--rm", image, "cat", "/when").stdout for each, image in ((first, name), (second, "taken"))
    ]
    assert whens[0] == whens[1]


def test_dockers_own_command_without_a_plugin(pair: tuple[Daemon, Daemon], registry: Serving, tmp_path: Path) -> None:
    """BUILDKIT_INLINE_CACHE and --cache-from, as docker build has had them since before buildx."""
    first, second = pair
    where = context(tmp_path / "c", "FROM busybox\nCOPY f /f\nRUN date +%s%N > /when\n", f="docker")
    name = f"{registry.host}/app:docker"
    for each in pair:
        forget(each, name)
    test_buildkit.build(first, where, "-t", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1")
    first.docker("push", name)
    again = test_buildkit.build(
        second, where, "-t", "taken", "--cache-from", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1"
    )
    assert again.stderr.count("CACHED") == 2


def test_what_cannot_be_had_is_told_of(daemon: Daemon, own_daemon: Daemon, registry: Serving, tmp_path: Path) -> None:
    """A cache that is not there, one of BuildKit's, a damaged one: the build goes on without it."""
    where = context(tmp_path / "c", "FROM busybox\nRUN echo 1\n")
    config = b'{"layers":[],"records":[]}'
    foreign = descriptor("application/vnd.buildkit.cacheconfig.v0", config)
    registry.push_blob("app", config)
    registry.push_manifest(
        "app", "foreign", {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": foreign, "layers": []}
    )
    for name, why in (("absent", "not"), ("foreign", "BuildKit's own")):
        told = daemon.cove("build", "--no-cache", "--cache-from", f"{registry.host}/app:{name}", str(where)).stderr
        assert f"the cache of {registry.host}/app:{name} is not used" in told and why in told
    daemon.cove("build", "-q", "--no-cache", "--cache-to", f"type=local,dest={tmp_path}/kept", str(where))
    for blob in (tmp_path / "kept/blobs/sha256").iterdir():
        if blob.stat().st_size > 4096 or b'"steps"' in blob.read_bytes():
            blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    broken = own_daemon.cove("build", "--cache-from", f"type=local,src={tmp_path}/kept", str(where), check=False)
    assert broken.returncode and broken.stderr.count("\n") < 3
    told = daemon.cove("build", "--cache-from", f"type=local,src={tmp_path}/nothing", str(where)).stderr
    assert "there is no cache latest in" in told


def test_a_place_that_takes_nothing_fails_the_build_unless_told_otherwise(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo 1\n")
    nobody = "type=registry,ref=127.0.0.1:1/app:cache"
    failed = daemon.cove("build", "--cache-to", nobody, str(where), check=False)
    assert failed.returncode and "cannot put the cache to 127.0.0.1:1/app:cache" in failed.stderr
    daemon.cove("build", "--cache-to", f"{nobody},ignore-error=true", str(where))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("type=gha", "is not possible"),
        ("type=s3,bucket=b", "is not possible"),
        ("type=registry,ref=a/b,compression=zstd", "uncompressed"),
        ("type=registry,ref=a/b,image-manifest=false", "always one manifest"),
        ("type=registry,ref=a/b,mode=all", "neither min nor max"),
        ("type=registry", "needs ref="),
        ("type=inline,mode=max", "has no attribute mode=max"),
        ("type=registry,ref=a/b,colour=red", "has no attribute colour=red"),
    ],
)
def test_what_cannot_be_followed_is_refused(daemon: Daemon, tmp_path: Path, words: str, why: str) -> None:
    where = context(tmp_path / "c", "FROM busybox\n")
    refused = daemon.cove("build", "--cache-to", words, str(where), check=False)
    assert refused.returncode and why in refused.stderr


def test_the_directory_is_a_layout_that_others_read(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo one > /f\n")
    for tag in ("one", "two"):
        daemon.cove("build", "-q", "--cache-to", f"type=local,dest={tmp_path}/kept,tag={tag},mode=max", str(where))
        context(where, "FROM busybox\nRUN echo two > /f\n")
    index = json.loads((tmp_path / "kept/index.json").read_text())
    named = {each["annotations"]["org.opencontainers.image.ref.name"] for each in index["manifests"]}
    assert named == {"one", "two"}
    for entry in index["manifests"]:
        manifest = json.loads((tmp_path / "kept/blobs" / entry["digest"].replace(":", "/")).read_text())
        for blob in (manifest["config"], *manifest["layers"]):
            assert (tmp_path / "kept/blobs" / blob["digest"].replace(":", "/")).stat().st_size == blob["size"]
    daemon.cove("builder", "prune", "-af")
    told = daemon.cove("build", "--cache-from", f"type=local,src={tmp_path}/kept,tag=two", str(where)).stderr
    assert told.count("CACHED") == 1
