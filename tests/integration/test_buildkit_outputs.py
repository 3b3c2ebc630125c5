"""Where BuildKit's clients have results go: registries, annotations, layouts; and what an outline tells."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.integration.buildkit_world import Control, Failed, File, Session, first, pairs, parts
from tests.integration.registry_world import serving
from tests.integration.test_build import context, output
from tests.integration.test_buildkit import SOLVE, STATUS, ask, buildx

CONTROL = "/moby.buildkit.v1.Control"
_LINES = b"FROM scratch\nCOPY f /f\n"
_ON_BASE = b"FROM busybox\nCOPY f /made\n"


@pytest.fixture
def control(daemon: Daemon) -> Iterator[Control]:
    client = Control(str(daemon.run / "cove.sock"))
    yield client
    client.close()


def solve(
    daemon: Daemon,
    control: Control,
    exporter: dict[str, str],
    ref: str = "",
    lines: bytes = _LINES,
    **options: str,
) -> dict[str, str]:
    """A build of one file, for the image store; what is told of the result."""
    ref = ref or f"out-{os.urandom(4).hex()}"
    files = {"dockerfile": {"Dockerfile": File(lines)}, "context": {"f": File(b"content")}}
    session = Session(str(daemon.run / "cove.sock"), ref, files)
    told = [(7, pair) for pair in pairs({key.replace("__", ":"): value for key, value in options.items()})]
    request = [(1, ref), (3, "moby"), *((4, pair) for pair in pairs(exporter)), (5, ref), (6, "dockerfile.v0")]
    try:
        (answer,) = control.call(SOLVE, [*request, *told])  # type: ignore[list-item]
    finally:
        session.close()
    return {first(pair, 1).decode(): first(pair, 2).decode() for pair in parts(answer, 1)}


def document(daemon: Daemon, digest: str) -> Any:
    return json.loads((daemon.data / "image/blobs/sha256" / digest.partition(":")[2]).read_text())


def descriptor(told: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(told["containerimage.descriptor"]))
    return found


def test_a_result_goes_on_to_a_registry(daemon: Daemon, control: Control, tmp_path: Path) -> None:
    with serving(tmp_path / "registry") as registry:
        name = f"{registry.host}/out/pushed:1"
        told = solve(daemon, control, {"name": name, "push": "true"})
        assert told["image.name"] == name
        daemon.cove("rmi", name)
        daemon.cove("pull", "-q", name)
        assert name in daemon.cove("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    with pytest.raises(Failed, match="failed to push"):
        solve(daemon, control, {"name": "127.0.0.1:1/out/pushed:2", "push": "true"})
    with pytest.raises(Failed, match="a name is needed"):
        solve(daemon, control, {"push": "true"})


def test_a_result_is_told_by_its_id_or_by_what_names_point_at(daemon: Daemon, control: Control) -> None:
    told = solve(daemon, control, {"name": "docker.io/library/told:1"})
    assert told["containerimage.digest"] == told["containerimage.config.digest"]
    rather = solve(daemon, control, {"name": "docker.io/library/told:1", "prefer-image-digest": "true"})
    assert rather["containerimage.digest"] == descriptor(told)["digest"]
    for digest in (told["containerimage.digest"], rather["containerimage.digest"]):
        assert "told:1" in daemon.docker("image", "inspect", "-f", "{{json .RepoTags}}", digest).stdout


_FORMS = [
    ({}, "tar+gzip"),
    ({"compression": "gzip", "compression-level": "9"}, "tar+gzip"),
    ({"compression": "zstd", "compression-level": "19"}, "tar+zstd"),
    ({"compression": "uncompressed"}, "tar"),
]


@pytest.mark.parametrize(("form", "kind"), _FORMS)
def test_what_goes_to_a_registry_is_packed_as_wished(
    daemon: Daemon, own_daemon: Daemon, control: Control, tmp_path: Path, form: dict[str, str], kind: str
) -> None:
    def layers(told: dict[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = document(daemon, descriptor(told)["digest"])["layers"]
        return found

    with serving(tmp_path / "registry") as registry:
        name = f"{registry.host}/out/packed:1"
        wish = {"name": name, "push": "true", **form}
        told = solve(daemon, control, wish, lines=_ON_BASE)
        base, own = layers(told)
        assert own["mediaType"].endswith(f".{kind}") and base["mediaType"].endswith(".tar+gzip")  # as it came
        assert told["containerimage.digest"] == descriptor(told)["digest"]
        assert layers(solve(daemon, control, wish, lines=_ON_BASE)) == [base, own]
        forced = layers(solve(daemon, control, {**wish, "force-compression": "true"}, lines=_ON_BASE))
        assert all(each["mediaType"].endswith(f".{kind}") for each in forced)
        own_daemon.cove("pull", "-q", name)
        assert output(own_daemon, name, "cat", "/made") == "content"


def test_documents_are_of_dockers_types_where_that_is_wished(daemon: Daemon, control: Control) -> None:
    wish = {"name": "docker.io/library/typed:1", "oci-mediatypes": "false", "compression": "gzip"}
    manifest = document(daemon, descriptor(solve(daemon, control, wish, lines=_ON_BASE))["digest"])
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    kinds = [each["mediaType"].rpartition(".rootfs.diff.")[2] for each in manifest["layers"]]
    assert kinds == ["tar.gzip", "tar.gzip"]
    index = document(daemon, descriptor(solve(daemon, control, wish, platform="linux/amd64,linux/arm64"))["digest"])
    assert index["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    stated = descriptor(solve(daemon, control, wish, attest__provenance="mode=min"))
    assert stated["mediaType"] == "application/vnd.oci.image.index.v1+json"  # only OCI's has room for statements


def test_a_result_goes_to_a_registry_by_its_digest_alone(daemon: Daemon, control: Control, tmp_path: Path) -> None:
    with serving(tmp_path / "registry") as registry:
        name = f"{registry.host}/out/digested"
        wish = {"name": name, "push": "true", "push-by-digest": "true", "name-canonical": "true"}
        told = solve(daemon, control, wish)
        digest = told["containerimage.digest"]
        assert digest == descriptor(told)["digest"]
        with urllib.request.urlopen(f"http://{registry.host}/v2/out/digested/manifests/{digest}") as answer:
            assert json.load(answer) == document(daemon, digest)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{registry.host}/v2/out/digested/manifests/latest")
        found = json.loads(daemon.docker("image", "inspect", f"{name}@{digest}").stdout)[0]
        assert f"{name}@{digest}" in found["RepoDigests"]
        assert not [tag for tag in found["RepoTags"] or () if tag.startswith(name)]
        with pytest.raises(Failed, match="has a tag"):
            solve(daemon, control, wish | {"name": f"{name}:1"})


def test_annotations_are_in_the_documents_that_they_are_for(daemon: Daemon, control: Control) -> None:
    keys = {
        "annotation.all": "1",
        "annotation-manifest[linux/arm64].one": "2",
        "annotation-manifest-descriptor[linux/amd64].beside": "3",
        "annotation-index.above": "4",
    }
    told = solve(daemon, control, {"name": "docker.io/library/noted:1", **keys}, platform="linux/amd64,linux/arm64")
    index = document(daemon, descriptor(told)["digest"])
    assert index["annotations"] == {"above": "4"}
    found = {each["platform"]["architecture"]: each for each in index["manifests"]}
    assert found["amd64"]["annotations"] == {"beside": "3"} and "annotations" not in found["arm64"]
    assert document(daemon, found["amd64"]["digest"])["annotations"] == {"all": "1"}
    assert document(daemon, found["arm64"]["digest"])["annotations"] == {"all": "1", "one": "2"}
    with pytest.raises(Failed, match="index annotations not supported for single platform export"):
        solve(daemon, control, {"name": "docker.io/library/noted:2", "annotation-index.above": "4"})


def test_the_same_has_the_same_statement_beside_it(daemon: Daemon, control: Control) -> None:
    wish = {"attest__provenance": "mode=min,inline-only=true"}
    name = {"name": "docker.io/library/stated:6"}
    one, two = (solve(daemon, control, name, **wish) for _ in range(2))
    assert one == two and descriptor(one)["mediaType"].endswith("index.v1+json")
    index = document(daemon, descriptor(one)["digest"])
    (layer,) = document(daemon, index["manifests"][1]["digest"])["layers"]
    assert document(daemon, layer["digest"])["predicateType"] == "https://slsa.dev/provenance/v1"
    other = solve(daemon, control, name, attest__provenance="type=provenance", vcs__revision="abc")
    index = document(daemon, descriptor(other)["digest"])
    (layer,) = document(daemon, index["manifests"][1]["digest"])["layers"]
    asked = document(daemon, layer["digest"])["predicate"]["buildDefinition"]["externalParameters"]["request"]
    assert asked["args"] == {"vcs:revision": "abc"}  # everything is told, unless less is asked for
    with pytest.raises(Failed, match="sbom=false"):
        solve(daemon, control, name, attest__sbom="generator=some/scanner")


def test_an_outline_tells_what_a_target_can_be_told(daemon: Daemon) -> None:
    lines = b"""# kind of what
ARG kind=busy
ARG whole=${kind}box
ARG unused=abc
FROM $whole AS one
# SAID is what is said
ARG SAID=nothing
RUN --mount=type=secret,id=key,required --mount=type=ssh true
FROM busybox AS two
ARG elsewhere
RUN --mount=type=secret,id=elsewhere true
# goal is wanted
FROM scratch AS goal
ARG kind
COPY --from=one /f /
RUN --mount=type=secret,id=last_$kind true
FROM two
"""
    options = (("target", "goal"), ("build-arg:SAID", "it"))
    told = ask(daemon, "frontend.outline", lines, *options)
    found = json.loads(told["result.json"])
    assert (found["name"], found["description"]) == ("goal", "is wanted")
    listed = [(each["name"], each.get("value"), each.get("description")) for each in found["args"]]
    assert listed == [("kind", "busy", "of what"), ("whole", "busybox", None), ("SAID", "it", "is what is said")]
    assert [(each["name"], each.get("required", False)) for each in found["secrets"]] == [
        ("key", True),
        ("last_busy", False),
    ]
    assert [each["name"] for each in found["ssh"]] == ["default"]
    assert found["args"][2]["location"]["ranges"][0]["start"]["line"] == 7
    assert "BUILD ARG   VALUE     DESCRIPTION\nkind        busy      of what\n" in told["result.txt"]


def test_buildx_writes_a_layout_and_builds_on_it(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", _LINES.decode(), f="content")
    output_ = f"type=oci,tar=false,dest={tmp_path / 'out'}"
    done = buildx(daemon, "build", "--output", output_, "-t", "laid", str(where), experimental="0")
    assert not done.returncode, done.stderr
    (entry,) = json.loads((tmp_path / "out/index.json").read_text())["manifests"]
    assert (tmp_path / "out/blobs/sha256" / entry["digest"].partition(":")[2]).exists()
    again = context(tmp_path / "d", "FROM busybox\nCOPY --from=laid /f /f\n")
    daemon.cove("build", "--build-context", f"laid=oci-layout://{tmp_path / 'out'}", "-t", "again", "-q", str(again))
    assert output(daemon, "again", "cat", "/f") == "content"
    before = daemon.docker("images", "-aq").stdout
    on_it = context(tmp_path / "e", "FROM busybox\nCOPY --from=laid /f /f\nFROM laid\nCOPY --from=0 /f /g\n")
    words = ("--build-context", f"laid=oci-layout://{tmp_path / 'out'}:latest", "--provenance=false")
    files = ("--output", f"type=local,dest={tmp_path / 'files'}")
    done = buildx(daemon, "build", *words, *files, str(on_it), experimental="0")
    assert not done.returncode, done.stderr
    assert (tmp_path / "files/f").read_text() == (tmp_path / "files/g").read_text() == "content"
    assert daemon.docker("images", "-aq").stdout == before


def test_builds_are_remembered(daemon: Daemon, control: Control) -> None:
    kept, failed = f"kept-{os.urandom(4).hex()}", f"failed-{os.urandom(4).hex()}"
    wish = {"attest__provenance": "mode=min", "vcs__source": "https://e.example/repo"}
    told = solve(daemon, control, {"name": "docker.io/library/kept:1"}, ref=kept, **wish)
    with pytest.raises(Failed):
        solve(daemon, control, {}, ref=failed, target="nowhere")

    def records(*wanted: tuple[int, int | str]) -> dict[str, bytes]:
        events = control.call(f"{CONTROL}/ListenBuildHistory", [(3, 1), *wanted])
        return {first(first(event, 2), 1).decode(): first(event, 2) for event in events}

    assert list(records()).index(failed) < list(records()).index(kept)  # newest first
    assert set(records((2, kept))) == {kept} and len(records((5, 1))) == 1
    assert kept in records((4, "status=completed,repository=https://e.example/repo"))
    assert failed in records((4, "status=error")) and kept not in records((4, "status=error"))
    with pytest.raises(Failed, match="the filter 'colour'"):
        records((4, "colour=red"))
    one, other = records()[kept], records()[failed]
    assert first(one, 6) and first(one, 7) and not first(one, 5) and b"nowhere" in first(first(other, 5), 2)
    assert {first(pair, 1): first(pair, 2) for pair in parts(one, 9)}[b"containerimage.digest"].decode() == (
        told["containerimage.digest"]
    )
    (statement,) = parts(first(one, 10), 2)
    digest = first(statement, 2).decode()
    pieces = control.call("/containerd.services.content.v1.Content/Read", [(1, digest)])
    assert json.loads(b"".join(first(piece, 2) for piece in pieces))["predicateType"].startswith("https://slsa.dev/")
    with pytest.raises(Failed, match="no build that is remembered"):
        control.call("/containerd.services.content.v1.Content/Read", [(1, told["containerimage.config.digest"])])
    assert any(parts(news, 1) for news in control.call(STATUS, [(1, kept)]))  # its steps, once more
    whole = first(other, 18)  # all of the failure, with the lines that it is about
    pieces = control.call("/containerd.services.content.v1.Content/Read", [(1, first(whole, 2).decode())])
    told_of = b"".join(first(piece, 2) for piece in pieces)
    assert first(whole, 1).endswith(b"rpc.status+proto") and first(told_of, 2) == first(first(other, 5), 2)
    control.call(f"{CONTROL}/UpdateBuildHistory", [(1, kept), (3, 1)])
    assert kept not in records()


def test_the_next_daemon_remembers_builds(own_daemon: Daemon) -> None:
    def asked(method: str, *request: tuple[int, object]) -> list[bytes]:
        client = Control(str(own_daemon.run / "cove.sock"))
        try:
            return client.call(f"{CONTROL}/{method}", list(request))  # type: ignore[arg-type]
        finally:
            client.close()

    def records() -> dict[str, bytes]:
        events = asked("ListenBuildHistory", (3, 1))
        return {first(first(event, 2), 1).decode(): first(event, 2) for event in events}

    client = Control(str(own_daemon.run / "cove.sock"))
    for name in ("one", "two"):
        solve(own_daemon, client, {"name": f"docker.io/library/{name}:1"}, ref=name, attest__provenance="mode=min")
    with pytest.raises(Failed):
        solve(own_daemon, client, {}, ref="three", target="nowhere")
    client.close()
    asked("UpdateBuildHistory", (1, "one"), (2, 1))
    before, progress = records(), asked("Status", (1, "two"))
    assert list(before) == ["three", "two", "one"] and b"nowhere" in first(first(before["three"], 5), 2)
    own_daemon.kill()
    own_daemon.start()
    assert records() == before
    again = asked("Status", (1, "two"))
    assert [vertex for each in again for vertex in parts(each, 1)] == [
        vertex for each in progress for vertex in parts(each, 1)
    ]
    asked("UpdateBuildHistory", (1, "one"), (3, 1))
    own_daemon.stop()
    own_daemon.start()
    assert list(records()) == ["three", "two"]


_OF_ALL = ("oci-mediatypes", "compression", "force-compression", "oci-artifact", "prefer-nondist-layers")


@pytest.mark.parametrize("kind", ["image", "docker"])
@pytest.mark.parametrize(
    ("option", "follows", "refused"),
    [
        ("push-by-digest", "false", "perhaps"),
        ("registry.insecure", "false", ""),
        ("name-canonical", "false", "perhaps"),
        ("unpack", "true", "false"),
        ("store", "", "0"),
        ("dangling-name-prefix", "", "d"),
        ("oci-mediatypes", "false", "perhaps"),
        ("compression", "zstd", "estargz"),
        ("compression", "uncompressed", "brotli"),
        ("force-compression", "true", "perhaps"),
        ("compression-level", None, "3"),
        ("oci-artifact", "false", "true"),
        ("prefer-nondist-layers", "false", "true"),
        ("annotation-poem.a", None, "b"),
    ],
)
def test_an_option_for_results_is_followed_or_refused(
    control: Control, kind: str, option: str, follows: str | None, refused: str
) -> None:
    def told(value: str) -> str:
        exporter: list[object] = [(3, kind), (4, pairs({option: value})[0])]
        with pytest.raises(Failed) as failed:
            control.call(SOLVE, [(1, "options"), *exporter, (6, "dockerfile.v0"), (5, "nobody's")])  # type: ignore[list-item]
        return failed.value.args[1]

    words = {"annotation-poem.a": "annotation type poem", "compression": f"compression={refused}"}
    if kind == "docker" and option == "compression-level":
        assert "no active session" in told(refused)  # archives are packed by gzip
        return
    assert words.get(option, option) in told(refused)
    if follows is not None and (kind == "image" or option in _OF_ALL):
        assert "no active session" in told(follows)  # that far it came
        if follows in ("true", "false"):
            assert "neither true nor false" in told("perhaps")
