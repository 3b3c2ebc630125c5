"""Images for several systems and processors: pulled, kept, shown, sent on, saved; and refused in words."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.oci.reference import Reference
from tests.conftest import Daemon
from tests.integration.api_client import Api
from tests.integration.distribution_world import STATEMENT, World, make_index, real_registry
from tests.integration.scripted_registry import Client
from tests.integration.specification import differences

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")

PLATFORMS = {"linux/amd64": b"one", "linux/arm64": b"two", "windows/amd64": b"three"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def name(registry: str) -> str:
    client = Client()
    make_index(client.world, f"{registry}/lang/python:3", PLATFORMS)
    client.push(f"{registry}/lang/python:3")
    assert {"Pushed", "Layer already exists"} & set(client.statuses)
    return f"{registry}/lang/python:3"


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon, registry: str) -> Iterator[None]:
    yield
    left = daemon.cove("images", "-q", f"{registry}/*/*").stdout.split()
    if left:
        daemon.cove("rmi", "-f", *left)


def listed(daemon: Daemon, name: str) -> dict[str, str]:
    shown = daemon.cove("image", "inspect", "--platforms", name, "--format", "{{.Platform}}|{{.Here}}").stdout
    return dict(line.split("|") for line in shown.splitlines())


def test_one_platform_is_pulled_and_all_are_listed(daemon: Daemon, name: str) -> None:
    at_registry = listed(daemon, name)
    assert set(at_registry) >= {"linux/amd64", "linux/arm64", "windows/amd64 (10.0.20348)"}
    daemon.cove("pull", "-q", name)
    shown = listed(daemon, name)
    assert shown["linux/amd64"] == "yes" and shown["linux/arm64"] == shown["windows/amd64 (10.0.20348)"] == "no"
    assert [here for kind, here in shown.items() if kind.startswith("(attestation")] == ["yes"]
    assert json.loads(daemon.cove("image", "inspect", name).stdout)[0]["Architecture"] == "amd64"
    missing = daemon.cove("image", "inspect", "--platform", "linux/arm64", name, check=False)
    assert "does not provide the specified platform (linux/arm64)" in missing.stderr
    daemon.cove("pull", "-q", "--platform", "linux/arm64", name)
    assert listed(daemon, name)["linux/arm64"] == "yes", "a further variant of the same image"
    (found,) = json.loads(daemon.cove("image", "inspect", "--platform", "linux/arm64", name).stdout)
    assert found["Architecture"] == "arm64"
    assert "linux/amd64" in daemon.docker("image", "inspect", name, "--format", "{{.Os}}/{{.Architecture}}").stdout


def test_all_platforms_come_go_and_are_saved_whole(daemon: Daemon, name: str, registry: str, tmp_path: Path) -> None:
    daemon.cove("pull", "-q", "--all-platforms", name)
    assert set(listed(daemon, name).values()) == {"yes"}
    (digest,) = json.loads(daemon.cove("image", "inspect", name).stdout)[0]["RepoDigests"]
    elsewhere = f"{registry}/copy/python:3"
    daemon.cove("tag", name, elsewhere)
    daemon.cove("push", "-q", elsewhere)
    client = Client()
    there = client.distribution.describe(Reference.parse(elsewhere))
    assert there.descriptor.digest == digest.partition("@")[2], "the index is the same, byte for byte"
    saved = tmp_path / "all.tar"
    daemon.cove("save", "-o", str(saved), name)
    single = tmp_path / "one.tar"
    daemon.cove("save", "--platform", "linux/arm64", "-o", str(single), name)
    daemon.cove("rmi", name, elsewhere)
    daemon.cove("load", "-i", str(saved))
    assert set(listed(daemon, name).values()) == {"yes"}
    daemon.cove("rmi", name)
    daemon.cove("load", "-i", str(single))
    assert listed(daemon, name) == {"linux/arm64": "yes"}


def test_some_platforms_are_saved_and_loaded(daemon: Daemon, name: str) -> None:
    api = Api(daemon)
    daemon.cove("pull", "-q", "--all-platforms", name)
    some = [json.dumps({"os": "linux", "architecture": each}) for each in ("amd64", "arm64")]
    status, whole = api.send("GET", f"/images/{name}/get")
    assert status == 200
    status, part = api.send("GET", f"/images/{name}/get", platform=some)
    assert status == 200 and len(part) < len(whole)
    status, refused = Api(daemon, "1.51").call("GET", f"/images/{name}/get", platform=some)
    assert (status, "use API version 1.52 or later" in refused["message"]) == (400, True)
    missing = json.dumps({"os": "linux", "architecture": "s390x"})
    assert api.call("GET", f"/images/{name}/get", platform=[*some, missing])[0] == 404
    kept = {"linux/amd64": "yes", "linux/arm64": "yes", "windows/amd64 (10.0.20348)": "no"}
    for data, chosen in ((part, []), (whole, some)):
        daemon.cove("rmi", name)
        status, said = api.send("POST", "/images/load", data, kind="application/x-tar", platform=chosen)
        assert (status, b"Loaded image" in said) == (200, True)
        found = listed(daemon, name)
        assert {platform: found[platform] for platform in kept} == kept
    daemon.cove("rmi", name)
    _, said = api.send("POST", "/images/load", part, kind="application/x-tar", platform=[*some, missing])
    assert b"has no variant for linux/s390x" in said


def test_what_is_attested_of_an_image_is_told(daemon: Daemon, name: str) -> None:
    api = Api(daemon)
    path, first = f"/images/{name}/attestations", json.dumps({"os": "linux", "architecture": "amd64"})
    daemon.cove("pull", "-q", "--all-platforms", name)
    status, (told,) = api.call("GET", path, platform=first)
    assert differences("GET", path, status, [told]) == []
    assert told["PredicateType"] == "https://slsa.dev/provenance/v0.2" and "Statement" not in told
    status, (told,) = api.call("GET", path, platform=first, statement=1, type=["x", told["PredicateType"]])
    assert differences("GET", path, status, [told]) == []
    assert told["Statement"] == json.loads(STATEMENT)
    assert api.call("GET", path, platform=first, type="https://spdx.dev/Document") == (200, [])
    assert api.call("GET", path, platform=json.dumps({"os": "linux", "architecture": "arm64"})) == (200, [])
    assert api.call("GET", path, platform=json.dumps({"os": "linux", "architecture": "s390x"}))[0] == 404
    assert api.call("GET", path, platform=[first, first])[0] == 400
    assert api.call("GET", path, platform="{")[0] == 400
    assert api.call("GET", "/images/nobody/attestations")[0] == 404
    assert api.call("GET", "/images/busybox/attestations") == (200, [])
    assert Api(daemon, "1.54").call("GET", path)[0] == 404


def test_a_part_of_an_image_is_pushed_alone_and_says_so(daemon: Daemon, name: str, registry: str) -> None:
    daemon.cove("pull", "-q", "--platform", "linux/amd64", name)
    elsewhere = f"{registry}/part/python:3"
    daemon.cove("tag", name, elsewhere)
    said = daemon.cove("push", elsewhere).stdout
    assert "only linux/amd64 is pushed" in said
    assert set(listed(daemon, elsewhere)) > {"linux/amd64"}, "the image here is what it was"
    described = Client().distribution.describe(Reference.parse(elsewhere))
    assert [str(platform) for platform in described.platforms] == ["linux/amd64"]
    daemon.cove("push", "-q", name)  # the registry has the rest already


def test_a_windows_image_is_kept_and_not_run(daemon: Daemon, name: str, registry: str) -> None:
    daemon.cove("pull", "-q", "--platform", "windows/amd64", name)
    (found,) = json.loads(daemon.cove("image", "inspect", name).stdout)
    assert found["Os"] == "windows"
    refused = daemon.cove("run", "--rm", name, "cmd", check=False)
    assert refused.returncode == 125
    assert "needs a Windows kernel: containers share the kernel of their host" in refused.stderr
    daemon.cove("tag", name, f"{registry}/win/python:3")
    daemon.cove("push", "-q", "--platform", "windows/amd64", f"{registry}/win/python:3")


def test_another_processors_program_says_what_it_needs(daemon: Daemon, tmp_path: Path) -> None:
    # An arm64 program's header; nothing on this host runs it unless an emulator is registered.
    (tmp_path / "program").write_bytes(bytes.fromhex("7f454c46020101" + "00" * 9 + "0200b700") + bytes(100))
    (tmp_path / "program").chmod(0o755)
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "image.tar", "program"], check=True)
    daemon.cove("import", "--platform", "linux/arm64", str(tmp_path / "image.tar"), "foreign:1")
    try:
        refused = daemon.cove("run", "--rm", "foreign:1", "/program", check=False)
        if "exec format error" in refused.stderr:
            assert "built for arm64, this host is amd64" in refused.stderr
            assert "qemu-user-static" in refused.stderr
        assert refused.returncode
    finally:
        daemon.cove("rmi", "foreign:1")


def test_what_is_removed_is_gone_and_what_is_shared_stays(daemon: Daemon, name: str) -> None:
    daemon.cove("pull", "-q", "--all-platforms", name)
    world = World()
    make_index(world, "x:1", PLATFORMS)
    blobs = {path.name for path in (daemon.data / "image/blobs/sha256").iterdir()}
    assert {digest.partition(":")[2] for digest in world.blobs} <= blobs
    daemon.cove("rmi", name)
    blobs = {path.name for path in (daemon.data / "image/blobs/sha256").iterdir()}
    assert not {digest.partition(":")[2] for digest in world.blobs} & blobs


def test_a_list_is_made_annotated_pushed_and_removed(daemon: Daemon, registry: str, name: str) -> None:
    for architecture in ("amd64", "arm64"):
        script = f"printf {architecture} > /tmp/cove-list && tar -C /tmp -c cove-list && rm /tmp/cove-list"
        tar = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
        daemon.cove(
            "import", "--platform", f"linux/{architecture}", "-", f"part:{architecture}", input=tar, text=False
        )
    listname = f"{registry}/made/list:1"
    earlier = set(daemon.cove("images", "-q", "--filter", "dangling=true").stdout.split())
    try:
        daemon.cove("manifest", "create", listname, "part:amd64", "part:arm64")
        again = daemon.cove("manifest", "create", listname, "part:amd64", check=False)
        assert again.returncode and "--amend" in again.stderr
        daemon.cove("manifest", "create", "--amend", listname, name)
        daemon.cove("manifest", "annotate", "--variant", "v8", "--annotation", "who=me", listname, "part:arm64")
        shown = json.loads(daemon.cove("manifest", "inspect", listname).stdout)
        entries = {entry["digest"]: entry for entry in shown["manifests"]}
        (changed,) = [entry for entry in entries.values() if entry.get("annotations") == {"who": "me"}]
        assert changed["platform"] == {"architecture": "arm64", "os": "linux", "variant": "v8"}
        assert len(entries) == 6, "two of ours, three of the other image and its attestation"
        assert "digest: sha256:" in daemon.cove("manifest", "push", listname).stdout
        described = Client().distribution.describe(Reference.parse(listname))
        assert len(described.platforms) == 6
        theirs = daemon.docker("manifest", "inspect", "--insecure", listname)
        assert {entry["digest"] for entry in json.loads(theirs.stdout)["manifests"]} >= {changed["digest"]}
        daemon.cove("manifest", "rm", listname)
        assert daemon.cove("image", "inspect", listname, check=False).returncode
        dangling = set(daemon.cove("images", "-q", "--filter", "dangling=true").stdout.split())
        assert dangling <= earlier, "no index of an earlier step is left"
        assert json.loads(daemon.cove("manifest", "inspect", listname).stdout) == shown, "from the registry now"
    finally:
        daemon.cove("rmi", "-f", "part:amd64", "part:arm64")


def test_single_platforms_of_an_image_are_removed(daemon: Daemon, name: str) -> None:
    daemon.cove("pull", "-q", "--all-platforms", name)
    before = {path.name for path in (daemon.data / "image/blobs/sha256").iterdir()}
    assert "Deleted: sha256:" in daemon.docker("rmi", "--platform", "linux/arm64", name).stdout
    shown = listed(daemon, name)
    assert shown["linux/arm64"] == "no" and shown["linux/amd64"] == "yes"
    gone = before - {path.name for path in (daemon.data / "image/blobs/sha256").iterdir()}
    assert len(gone) >= 3, "a manifest, a configuration and a layer"
    twice = daemon.cove("rmi", "--platform", "linux/arm64", name, check=False)
    assert "does not provide the specified platform (linux/arm64)" in twice.stderr
    daemon.cove("rmi", "--platform", "windows/amd64", name)
    last = daemon.cove("rmi", "--platform", "linux/amd64", name, check=False)
    assert "no other platform here" in last.stderr
    daemon.cove("pull", "-q", "--platform", "linux/arm64", name)
    assert listed(daemon, name)["linux/arm64"] == "yes"


def test_parts_of_a_list_go_with_their_names_and_prune_takes_all(own_daemon: Daemon, registry: str) -> None:
    """Images whose only other name is one by digest do not stay behind; nor does one image's end stop a prune."""
    for architecture in ("amd64", "arm64"):
        script = f"printf {architecture} > /tmp/cove-list && tar -C /tmp -c cove-list && rm /tmp/cove-list"
        tar = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
        part = f"{registry}/parts/app:{architecture}"
        own_daemon.cove("import", "--platform", f"linux/{architecture}", "-", part, input=tar, text=False)
        own_daemon.cove("push", "-q", part)
    whole = f"{registry}/parts/app:all"
    own_daemon.cove("manifest", "create", whole, f"{registry}/parts/app:amd64", f"{registry}/parts/app:arm64")
    own_daemon.cove("manifest", "push", whole)
    own_daemon.cove("rmi", f"{registry}/parts/app:arm64", f"{registry}/parts/app:amd64")
    shown = own_daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{registry}/parts/app").stdout
    assert shown.split() == [whole]
    own_daemon.cove("tag", f"{registry}/parts/app:all", "another:1")
    own_daemon.docker("image", "prune", "-af")
    assert own_daemon.cove("images", "-q").stdout == ""
