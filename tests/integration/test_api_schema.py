"""What a live daemon answers, judged by the Engine API's own description."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Daemon, eventually
from tests.integration.api_client import Api
from tests.integration.specification import differences, specification


class Judged:
    """An API whose every reply is held against the specification."""

    def __init__(self, daemon: Daemon) -> None:
        self._api = Api(daemon)

    def __call__(self, method: str, path: str, body: object = None, **query: object) -> Any:
        status, value = self._api.call(method, path, body, **query)
        assert differences(method, path, status, value) == []
        if status >= 400:
            assert value["message"]
        return value


@pytest.fixture(scope="module")
def api(daemon: Daemon) -> Judged:
    specification()
    return Judged(daemon)


@pytest.fixture(scope="module")
def container(api: Judged) -> Iterator[str]:
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", "echo hi > /x; exec sleep 600"],
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"a": "b"},
        "Volumes": {"/data": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 100_000_000},
        "HostConfig": {"Binds": ["/tmp:/t:ro"], "Memory": 64 << 20, "Tmpfs": {"/s": "size=1m"}},
    }
    identity = api("POST", "/containers/create", body, name="judged")["Id"]
    api("GET", f"/containers/{identity}/json")
    try:
        api("POST", f"/containers/{identity}/start")
        yield identity
    finally:
        api("DELETE", f"/containers/{identity}", force=1, v=1)


def test_a_container_is_shown_as_specified(api: Judged, container: str) -> None:
    shown = api("GET", f"/containers/{container}/json", size=1)
    assert shown["ImageManifestDescriptor"]["digest"].startswith("sha256:")
    assert "/proc/kcore" in shown["HostConfig"]["MaskedPaths"]
    assert "/proc/sys" in shown["HostConfig"]["ReadonlyPaths"]
    assert api("GET", "/containers/json", all=1, size=1)
    for path in ("top", "changes"):
        assert api("GET", f"/containers/{container}/{path}")
    assert api("GET", f"/containers/{container}/stats", stream=0)["memory_stats"]
    assert api("GET", f"/containers/{container}/stats", stream=0, **{"one-shot": 1})
    assert api("POST", f"/containers/{container}/update", {"Memory": 65 << 20, "MemorySwap": -1}) is not None


def test_an_exec_is_shown_as_specified(api: Judged, container: str) -> None:
    made = api("POST", f"/containers/{container}/exec", {"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": True})["Id"]
    api("POST", f"/exec/{made}/start", {"Detach": True})
    assert eventually(lambda: not api("GET", f"/exec/{made}/json")["Running"])
    assert api("GET", f"/exec/{made}/json")["ExitCode"] == 3


def test_images_are_shown_as_specified(api: Judged, container: str) -> None:
    (image,) = api("GET", "/images/json", **{"shared-size": 1, "manifests": 1, "digests": 1})
    assert image["SharedSize"] >= 0
    assert image["Manifests"][0]["ImageData"]["Size"]["Unpacked"] > 0
    assert container in image["Manifests"][0]["ImageData"]["Containers"]
    assert api("GET", "/images/busybox/json", manifests=1)["Manifests"]
    assert api("GET", "/images/busybox/history")
    made = api("POST", "/commit", {}, container=container, repo="judged", tag="v1")["Id"]
    assert made.startswith("sha256:")
    api("POST", "/images/judged:v1/tag", repo="judged", tag="v2")
    assert api("DELETE", "/images/judged:v1") and api("DELETE", "/images/judged:v2")
    assert api("POST", "/images/prune") is not None


def test_the_engine_is_shown_as_specified(api: Judged, container: str) -> None:
    for path in ("/info", "/version", "/system/df", "/networks", "/networks/bridge", "/volumes"):
        assert api("GET", path)
    assert api("GET", "/plugins") == []
    used = api("GET", "/system/df", type=["container", "image"], verbose=1)
    assert used["ContainerUsage"]["ActiveCount"] >= 1
    assert used["ImageUsage"]["Items"] and "VolumeUsage" not in used


def test_events_are_as_specified(api: Judged, container: str, daemon: Daemon) -> None:
    _, lines = Api(daemon).send("GET", "/events", since=1, until=int(time.time()) + 1)
    found = [json.loads(line) for line in lines.splitlines()]
    assert {"create", "start"} <= {event["Action"] for event in found}
    assert [
        differences("GET", "/events", 200, event) for event in found if differences("GET", "/events", 200, event)
    ] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers/nobody/json"),
        ("POST", "/containers/nobody/start"),
        ("GET", "/images/nobody/json"),
        ("DELETE", "/images/nobody"),
        ("GET", "/exec/nobody/json"),
        ("GET", "/networks/nobody"),
        ("GET", "/volumes/nobody"),
        ("GET", "/plugins/nobody/json"),
        ("POST", "/plugins/nobody/enable"),
        ("GET", "/swarm"),
        ("GET", "/nodes"),
    ],
)
def test_refusals_are_as_specified(api: Judged, method: str, path: str) -> None:
    assert api(method, path)["message"]
