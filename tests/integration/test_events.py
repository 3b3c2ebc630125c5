"""What happened, as clients are told of it: who an event is about, what it carries, which filters fit it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, eventually
from tests.integration.api_client import Api

Told = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def told(daemon: Daemon) -> Told:
    """The events since this test began."""
    api, begin = Api(daemon), f"{time.time():.9f}"

    def since(version: str = "1.56", **filters: str) -> list[dict[str, Any]]:
        terms = json.dumps({name: [value] for name, value in filters.items()})
        until = f"{time.time():.9f}"
        status, data = Api(daemon, version).send("GET", "/events", since=begin, until=until, filters=terms)
        assert status == 200, data
        return [json.loads(line) for line in data.splitlines()]

    assert api
    return since


def test_events_of_images_carry_labels_and_say_which(daemon: Daemon, told: Told, archive: Any) -> None:
    imported = daemon.docker("import", "--change", "LABEL shade=blue", str(archive), "hues:1").stdout.strip()
    daemon.docker("tag", "hues:1", "hues:2")
    saved = subprocess.run(
        ["docker", "-H", daemon.host, "save", "hues:1"], capture_output=True, check=True, env={**os.environ}
    ).stdout
    status, _ = Api(daemon).send("POST", "/images/load", saved, kind="application/x-tar")
    assert status == 200
    daemon.docker("rmi", "hues:1", "hues:2")
    found = told(type="image", label="shade=blue")
    assert [event["Action"] for event in found] == ["import", "tag", "save", "load", "untag", "untag"]
    assert {event["Actor"]["ID"] for event in found} == {imported}
    assert [event["Actor"]["Attributes"]["name"] for event in found[:4]] == [imported, "hues:2", imported, imported]
    assert [event["Actor"]["ID"] for event in told(event="delete")] == [imported]


def test_a_built_image_is_told_of_and_named(daemon: Daemon, told: Told) -> None:
    daemon.cove("build", "-q", "-t", "told:1", "-", input="FROM busybox\nLABEL told=yes\n")
    try:
        assert [event["Action"] for event in told(label="told=yes")] == ["create", "tag"]
        assert [event["Action"] for event in told("1.45", label="told=yes")] == ["tag"]
    finally:
        daemon.cove("rmi", "told:1")


def test_a_volume_is_told_of_when_it_is_mounted(daemon: Daemon, told: Told) -> None:
    identity = daemon.docker("run", "-d", "-v", "shelf:/books:ro", "busybox", "true").stdout.strip()
    daemon.docker("wait", identity)
    daemon.docker("rm", "-v", identity)
    daemon.docker("volume", "rm", "shelf")
    found = told(volume="shelf")
    assert [event["Action"] for event in found] == ["create", "mount", "unmount", "destroy"]
    mounted = found[1]["Actor"]["Attributes"]
    assert mounted["container"] == found[2]["Actor"]["Attributes"]["container"] == identity
    assert (mounted["destination"], mounted["read/write"], mounted["driver"]) == ("/books", "false", "local")


def test_a_filter_fits_the_beginning_of_a_name(daemon: Daemon, told: Told) -> None:
    identity = daemon.docker("create", "--name", "filtered", "busybox", "true").stdout.strip()
    daemon.docker("rename", "filtered", "strained")
    daemon.docker("rm", identity)
    for fits in (identity, identity[:3], "filt", ""):
        assert "create" in [event["Action"] for event in told(container=fits, type="container")], fits
    assert [event["Action"] for event in told(container="strain")] == ["rename", "destroy"]
    assert told(container="trained") == []
    for kind in ("plugin", "service", "node", "secret", "config"):
        assert told(**{kind: "x"}) == []


@pytest.mark.skipif(not Path("/sys/fs/cgroup/memory").exists(), reason="only cgroup v1 halts instead of killing")
def test_a_container_that_stands_still_at_its_memory_limit_is_told_of(daemon: Daemon, told: Told) -> None:
    script = "x=a; while true; do x=$x$x$x$x; done"
    words = ("--oom-kill-disable", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", script)
    identity = daemon.docker("run", "-d", *words).stdout.strip()
    try:
        assert eventually(lambda: told(container=identity, event="oom"), 60)
        assert not told(container=identity, event="die")
    finally:
        daemon.docker("rm", "-f", identity)
