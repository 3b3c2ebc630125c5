"""Provenance: a statement beside the image of how it came to be, as SLSA and BuildKit's clients have it."""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.integration import test_buildkit
from tests.integration.registry_world import serving
from tests.integration.test_build import context
from tests.integration.test_build_command import serving as files

_FILE = """FROM busybox AS made
ARG SAID=nothing
RUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null; echo $SAID > /said
FROM busybox
COPY --from=made /said /said
COPY f /f
"""


def layout(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def attested(found: dict[str, bytes]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each statement of a layout, and the manifest that it is about."""

    def blob(digest: str) -> Any:
        return json.loads(found[f"blobs/{digest.replace(':', '/')}"])

    index = blob(json.loads(found["index.json"])["manifests"][0]["digest"])
    by_digest = {each["digest"]: each for each in index["manifests"]}
    statements = []
    for each in index["manifests"]:
        notes = each.get("annotations") or {}
        if notes.get("vnd.docker.reference.type") == "attestation-manifest":
            assert each["platform"] == {"architecture": "unknown", "os": "unknown"}
            (layer,) = blob(each["digest"])["layers"]
            assert layer["mediaType"] == "application/vnd.in-toto+json"
            statement = blob(layer["digest"])
            assert layer["annotations"]["in-toto.io/predicate-type"] == statement["predicateType"]
            subject = by_digest[notes["vnd.docker.reference.digest"]]
            assert statement["subject"][0]["digest"] == {"sha256": subject["digest"].partition(":")[2]}
            statements.append((statement, subject))
    return statements


def build(daemon: Daemon, tmp_path: Path, wish: str, *words: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    where = context(tmp_path / "c", _FILE, f="content")
    (tmp_path / "s").write_text("very-hidden")
    secret = ("--secret", f"id=s,src={tmp_path}/s", "--build-arg", "SAID=told")
    daemon.cove("build", "-q", "-t", "stated:1", "--provenance", wish, *secret, *words, str(where))
    daemon.cove("save", "-o", str(tmp_path / "out.tar"), "stated:1")
    found = layout(tmp_path / "out.tar")
    assert not any(b"very-hidden" in each for each in found.values())
    return attested(found)


def test_the_least_of_it(daemon: Daemon, tmp_path: Path) -> None:
    ((statement, _),) = build(daemon, tmp_path, "true")
    assert statement["predicateType"] == "https://slsa.dev/provenance/v0.2"
    assert statement["subject"][0]["name"].startswith("pkg:docker/stated@1?platform=linux%2F")
    predicate = statement["predicate"]
    base = daemon.cove("inspect", "-f", "{{json .Descriptor.digest}}", "busybox").stdout.strip().strip('"')
    (material,) = predicate["materials"]
    assert material["uri"].startswith("pkg:docker/busybox@latest?platform=")
    assert material["digest"] == {"sha256": base.partition(":")[2]}
    assert "args" not in predicate["invocation"]["parameters"] and "told" not in json.dumps(predicate)
    assert predicate["metadata"]["buildStartedOn"] <= predicate["metadata"]["buildFinishedOn"]
    assert daemon.cove("run", "--rm", "stated:1", "cat", "/said", "/f").stdout == "told\ncontent"


def test_all_of_it_in_the_newer_form(daemon: Daemon, tmp_path: Path) -> None:
    with files(tmp_path) as address:
        (tmp_path / "remote").write_text("remote")
        global_file = _FILE + f"ADD {address}/remote /remote\n"
        where = context(tmp_path / "c", global_file, f="content")
        words = ("-t", "stated:2", "--build-arg", "SAID=told", "--label", "a=b")
        daemon.cove("build", "-q", "--attest", "type=provenance,mode=max,version=v1", *words, str(where))
    daemon.cove("save", "-o", str(tmp_path / "out.tar"), "stated:2")
    ((statement, _),) = attested(layout(tmp_path / "out.tar"))
    definition = statement["predicate"]["buildDefinition"]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert definition["externalParameters"]["request"]["args"] == {"build-arg:SAID": "told", "label:a": "b"}
    source = base64.b64decode(definition["internalParameters"]["source"]["data"]).decode()
    assert source == global_file
    assert [each["uri"] for each in definition["resolvedDependencies"]][-1].endswith("/remote")
    assert any("RUN" in each["name"] for each in definition["internalParameters"]["steps"])


def test_each_platform_has_its_own(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM scratch\nCOPY f /f\n", f="x")
    words = ("--platform", "linux/amd64", "--platform", "linux/arm64", "--provenance", "mode=max")
    daemon.cove("build", "-q", "-t", "stated:3", *words, str(where))
    daemon.cove("save", "-o", str(tmp_path / "out.tar"), "stated:3")
    found = attested(layout(tmp_path / "out.tar"))
    assert {subject["platform"]["architecture"] for _, subject in found} == {"amd64", "arm64"}


def test_it_is_read_by_buildx_at_a_registry(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", _FILE, f="content")
    with serving(tmp_path / "registry") as registry:
        name = f"{registry.host}/stated:4"
        daemon.cove("build", "-q", "--provenance", "mode=max", "-t", name, str(where))
        daemon.cove("push", name)
        shown = test_buildkit.buildx(daemon, "imagetools", "inspect", name, "--format", "{{json .Provenance}}")
        assert not shown.returncode, shown.stderr
        told = json.loads(shown.stdout)["SLSA"]
        assert told["invocation"]["configSource"]["entryPoint"] == "Dockerfile"
        assert [each["name"] for each in told["invocation"]["parameters"]["locals"]] == ["context"]
        daemon.cove("rmi", name)
        daemon.cove("pull", name)
        assert daemon.cove("run", "--rm", name, "cat", "/f").stdout == "content"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--provenance", "mode=all"), "neither min nor max"),
        (("--provenance", "version=v9"), "is not known"),
        (("--provenance", "colour=red"), "has no option colour"),
        (("--attest", "type=sbom"), "only statements of type=provenance"),
    ],
)
def test_what_cannot_be_told_is_refused(daemon: Daemon, tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    refused = daemon.cove("build", *words, str(context(tmp_path / "c", "FROM busybox\n")), check=False)
    assert refused.returncode and why in refused.stderr


def test_without_the_wish_there_is_none(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN true\n")
    daemon.cove("build", "-q", "-t", "stated:5", "--provenance=false", str(where))
    daemon.cove("save", "-o", str(tmp_path / "out.tar"), "stated:5")
    index = json.loads(layout(tmp_path / "out.tar")["index.json"])
    assert [each["mediaType"] for each in index["manifests"]] == ["application/vnd.oci.image.manifest.v1+json"]
