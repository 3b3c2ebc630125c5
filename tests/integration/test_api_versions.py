"""What clients of each version of the API see and may ask: the newest as specified, older ones as they know it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.integration.api_client import Api, Connection
from tests.integration.specification import differences, specification

NEWEST, BEFORE_LEAN = "1.56", "1.51"
EVERY = [f"1.{minor}" for minor in range(24, 57)]
OF_THE_FIRST_PLACE = {
    "Bridge", "EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "HairpinMode", "IPAddress",
    "IPPrefixLen", "IPv6Gateway", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen", "MacAddress",
    "SecondaryIPAddresses", "SecondaryIPv6Addresses",
}  # fmt: skip


@pytest.fixture(scope="module")
def container(daemon: Daemon) -> Iterator[str]:
    api = Api(daemon)
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"Annotations": {"a": "b"}}}
    status, made = api.call("POST", "/containers/create", body, name="versioned")
    assert status == 201
    try:
        assert api.call("POST", "/containers/versioned/start")[0] == 204
        yield made["Id"]
    finally:
        api.call("DELETE", "/containers/versioned", force=1)


def got(daemon: Daemon, version: str, path: str, **query: object) -> Any:
    status, value = Api(daemon, version).call("GET", path, **query)
    assert status == 200, value
    return value


def test_the_newest_version_is_that_of_the_specification(daemon: Daemon) -> None:
    assert specification()["info"]["version"] == got(daemon, NEWEST, "/version")["ApiVersion"] == NEWEST
    status, refused = Api(daemon, "1.57").call("GET", "/info")
    assert (status, refused["message"]) == (
        400,
        "client version 1.57 is too new. Maximum supported API version is 1.56",
    )


@pytest.mark.parametrize("version", EVERY)
def test_every_version_is_answered(daemon: Daemon, container: str, version: str) -> None:
    shown = got(daemon, version, f"/containers/{container}/json")
    old = tuple(map(int, version.split("."))) < (1, 52)
    assert (shown["NetworkSettings"].keys() & OF_THE_FIRST_PLACE == OF_THE_FIRST_PLACE) == old
    assert "Networks" in shown["NetworkSettings"]
    (image,) = got(daemon, version, "/images/json")
    assert image["Containers"] == (1 if tuple(map(int, version.split("."))) >= (1, 51) else -1)


def test_lists_of_containers_tell_health(daemon: Daemon, container: str) -> None:
    (line,) = got(daemon, NEWEST, "/containers/json")
    assert line["Health"] == {"Status": "none", "FailingStreak": 0}
    (before,) = got(daemon, BEFORE_LEAN, "/containers/json")
    assert "Health" not in before
    (old,) = got(daemon, "1.45", "/containers/json")
    assert "Annotations" not in old["HostConfig"]
    assert "ImageManifestDescriptor" not in old


def test_an_address_is_shown_beside_the_networks_to_older_clients(daemon: Daemon, container: str) -> None:
    settings = got(daemon, BEFORE_LEAN, f"/containers/{container}/json")["NetworkSettings"]
    assert settings["IPAddress"] == settings["Networks"]["bridge"]["IPAddress"] != ""
    settings = got(daemon, NEWEST, f"/containers/{container}/json")["NetworkSettings"]
    assert not settings.keys() & OF_THE_FIRST_PLACE


def test_images_say_only_what_they_give(daemon: Daemon) -> None:
    newest, before = got(daemon, NEWEST, "/images/busybox/json"), got(daemon, BEFORE_LEAN, "/images/busybox/json")
    assert None not in newest["Config"].values() and "" not in newest["Config"].values()
    assert "DockerVersion" not in newest and "Author" not in newest
    assert {"Parent", "Comment", "DockerVersion", "Author"} <= before.keys()
    assert {"Env", "Labels", "OnBuild", "Volumes"} <= before["Config"].keys()
    assert "Hostname" not in before["Config"]
    oldest = got(daemon, "1.43", "/images/busybox/json")
    assert oldest["Config"]["AttachStdin"] is False and "ContainerConfig" in oldest and "VirtualSize" in oldest
    status, refused = Api(daemon).call("GET", "/images/busybox/json", manifests=1, platform='{"os":"linux"}')
    assert (status, "conflicting options" in refused["message"]) == (400, True)
    status, refused = Api(daemon).call("GET", "/images/json", identity=1)
    assert (status, refused["message"]) == (400, "conflicting options: identity requires manifests=1")
    assert Api(daemon).call("GET", "/images/json", identity=1, manifests=1)[0] == 200


def test_disk_usage_has_lists_or_usages(daemon: Daemon, container: str) -> None:
    usages = {"ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"}
    lists = {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
    assert got(daemon, BEFORE_LEAN, "/system/df").keys() == lists
    assert got(daemon, NEWEST, "/system/df").keys() == usages | lists
    verbose = got(daemon, NEWEST, "/system/df", verbose=1)
    assert verbose.keys() == usages and verbose["ContainerUsage"]["Items"][0]["Id"] == container
    assert got(daemon, NEWEST, "/system/df", verbose=1, type=["image"]).keys() == {"ImageUsage"}
    assert got(daemon, "1.41", "/system/df", type=["image"]).keys() == lists


def test_a_network_tells_how_full_it_is(daemon: Daemon) -> None:
    api = Api(daemon)
    pools = [
        {"Subnet": "10.199.3.0/24", "IPRange": "10.199.3.16/28", "AuxiliaryAddresses": {"router": "10.199.3.17"}},
        {"Subnet": "fd00:199::/48"},
    ]
    body = {"Name": "filling", "EnableIPv6": True, "IPAM": {"Config": pools}}
    assert api.call("POST", "/networks/create", body)[0] == 201
    try:
        status, shown = api.call("GET", "/networks/filling")
        assert differences("GET", "/networks/filling", status, shown) == []
        told = shown["Status"]["IPAM"]["Subnets"]
        assert told["10.199.3.0/24"] == {"IPsInUse": 4, "DynamicIPsAvailable": 15}
        assert told["fd00:199::/48"] == {"IPsInUse": 2, "DynamicIPsAvailable": 2**64 - 1}
        joined = {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": "filling"}}
        assert api.call("POST", "/containers/create", joined, name="inside")[0] == 201
        assert api.call("POST", "/containers/inside/start")[0] == 204
        told = got(daemon, NEWEST, "/networks/filling")["Status"]["IPAM"]["Subnets"]
        assert told["10.199.3.0/24"] == {"IPsInUse": 5, "DynamicIPsAvailable": 14}
        assert "Status" not in got(daemon, BEFORE_LEAN, "/networks/filling")
        assert all("Status" not in network for network in got(daemon, NEWEST, "/networks"))
    finally:
        api.call("DELETE", "/containers/inside", force=1)
        api.call("DELETE", "/networks/filling")


def _events(daemon: Daemon, version: str, accept: str = "") -> tuple[str, bytes]:
    connection = Connection(str(daemon.run / "cove.sock"))
    try:
        headers = {"Accept": accept} if accept else {}
        connection.request("GET", f"/v{version}/events?since=1&until={time.time() + 1:.9f}", headers=headers)
        reply = connection.getresponse()
        return reply.getheader("Content-Type", ""), reply.read()
    finally:
        connection.close()


def test_events_come_in_the_form_that_is_asked_for(daemon: Daemon, container: str) -> None:
    kind, data = _events(daemon, BEFORE_LEAN)
    assert kind == "application/json"
    old = [json.loads(line) for line in data.splitlines()]
    made = next(event for event in old if event["Type"] == "container")
    assert (made["status"], made["id"]) == (made["Action"], made["Actor"]["ID"]) and made["from"] == "busybox"
    kind, data = _events(daemon, NEWEST)
    assert kind == "application/jsonl"
    assert all({"status", "id", "from"}.isdisjoint(json.loads(line)) for line in data.splitlines())
    assert _events(daemon, NEWEST, "*/*")[0] == "application/jsonl"
    assert (
        _events(daemon, NEWEST, "application/x-ndjson;q=0.5, application/json-seq;q=x")[0] == "application/x-ndjson"
    )
    kind, data = _events(daemon, NEWEST, "application/x-ndjson;q=0.5, application/json-seq")
    assert kind == "application/json-seq"
    assert data.startswith(b"\x1e{") and data.count(b"\x1e") == data.count(b"\n") > 1
    assert json.loads(data.split(b"\x1e")[1])["Type"]


def test_a_limit_of_processes_is_updated_by_who_knows_it(daemon: Daemon, container: str) -> None:
    for version, limit, there in (("1.40", 50, 50), ("1.39", 60, 50), (NEWEST, 70, 70)):
        assert Api(daemon, version).call("POST", f"/containers/{container}/update", {"PidsLimit": limit})[0] == 200
        assert got(daemon, NEWEST, f"/containers/{container}/json")["HostConfig"]["PidsLimit"] == there


def test_what_newer_clients_should_not_ask_for_is_warned_of(daemon: Daemon) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["true"],
        "MacAddress": "02:42:0a:00:00:07",
        "HostConfig": {"PortBindings": {"80/tcp": []}},
    }
    for version, count in (("1.43", 0), ("1.51", 1), (NEWEST, 2)):
        api = Api(daemon, version)
        status, made = api.call("POST", "/containers/create", body, name="warned")
        try:
            assert (status, len(made.get("Warnings", ()))) == (201, count), made
            shown = got(daemon, version, "/containers/warned/json")
            assert shown["HostConfig"]["PortBindings"]
        finally:
            api.call("DELETE", "/containers/warned")
