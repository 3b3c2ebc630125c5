"""What clients of other engines look for: marks in a container, refusals by status and words, old versions' rules."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.integration.api_client import Api


def test_a_container_has_the_marks_of_one_and_its_image_has_not(daemon: Daemon, tmp_path: Path) -> None:
    words = "test -f /.dockerenv && readlink /etc/mtab"
    try:
        assert daemon.docker("run", "--name", "marked", "busybox", "sh", "-c", words).stdout == "/proc/mounts\n"
        assert daemon.docker("diff", "marked").stdout == ""
        dockerfile = "FROM busybox AS whole\nRUN touch /made\nFROM scratch\nCOPY --from=whole / /\n"
        daemon.cove("build", "-q", "-t", "copied", "-", input=dockerfile)
        daemon.docker("save", "-o", str(tmp_path / "copied.tar"), "copied")
        with tarfile.open(tmp_path / "copied.tar") as saved:
            documents = [saved.extractfile(each) for each in saved if each.isfile() and "blobs" in each.name]
            layers = [each.read() for each in documents if each is not None]
        names: list[str] = []
        for data in layers:
            if not data.startswith(b"{"):
                with tarfile.open(fileobj=BytesIO(data)) as layer:
                    names += layer.getnames()
        assert "made" in names and ".dockerenv" not in names and "etc/mtab" not in names
    finally:
        daemon.docker("rm", "marked")
        daemon.cove("rmi", "copied")


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("nobody-here", "unable to find user nobody-here: no matching entries in passwd file"),
        ("1:no-such-group", "unable to find group no-such-group: no matching entries in group file"),
        ("99999999999", "uids and gids must be in range"),
    ],
)
def test_an_exec_of_a_user_whom_the_container_does_not_know_is_refused(daemon: Daemon, user: str, words: str) -> None:
    daemon.docker("run", "-d", "--name", "asked", "busybox", "sleep", "60")
    try:
        status, data = Api(daemon).send("POST", "/containers/asked/exec", {"User": user, "Cmd": ["id"]})
        assert status == 400 and words in json.loads(data)["message"]
        assert daemon.docker("exec", "-u", "0:0", "asked", "id", "-u").stdout == "0\n"
    finally:
        daemon.docker("rm", "-f", "asked")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (
            "/containers/create",
            b"{no",
            400,
            "invalid JSON: invalid character 'n' looking for beginning of",
        ),
        ("/containers/create", b"{} more", 400, "unexpected content after JSON"),
        ("/containers/create", b"{}", 400, "config cannot be empty in order to create a container"),
        ("/containers/nobody/start?checkpoint=../out", b"", 400, 'invalid checkpoint ID "../out"'),
        ("/containers/nobody/start?checkpoint=first", b"", 501, "there are no checkpoints"),
        ("/networks/create", b'{"Name": "default"}', 403, "predefined default network"),
    ],
)
def test_refusals_have_the_status_and_the_words(
    daemon: Daemon, path: str, body: bytes, status: int, words: str
) -> None:
    found, data = Api(daemon).send("POST", path, body, kind="application/json")
    assert (found, words in json.loads(data)["message"]) == (status, True), data


@pytest.mark.parametrize(
    ("path", "filters"), [("/networks", {"type": ["odd"]}), ("/images/json", {"reference": ["bu[sy"]})]
)
def test_filters_that_mean_nothing_are_refused(daemon: Daemon, path: str, filters: dict[str, list[str]]) -> None:
    status, _ = Api(daemon).send("GET", path, filters=json.dumps(filters))
    assert status == 400


def test_old_clients_prune_volumes_with_names_too(daemon: Daemon) -> None:
    for version, left in (("1.42", 1), ("1.41", 0)):
        daemon.docker("volume", "create", "named-one")
        status, _ = Api(daemon, version).send("POST", "/volumes/prune")
        assert status == 200
        assert len(daemon.docker("volume", "ls", "-q", "--filter", "name=named-one").stdout.split()) == left


def test_a_join_of_a_container_that_does_not_run_says_so(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "idle", "busybox", "true")
    try:
        refused = daemon.docker("run", "--rm", "--pid", "container:idle", "busybox", "true", check=False)
        assert "failed to join PID namespace: container" in refused.stderr
        assert "is not running" in refused.stderr
    finally:
        daemon.docker("rm", "idle")


def test_an_update_cannot_ask_for_cpus_and_for_a_period(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "split", "busybox", "true")
    try:
        refused = daemon.docker("update", "--cpus", "0.5", "--cpu-period", "10000", "split", check=False)
        assert refused.returncode == 1 and "Nano CPUs and CPU Period cannot both be set" in refused.stderr
    finally:
        daemon.docker("rm", "split")


def test_addresses_that_nobody_asked_for_are_not_among_the_wishes(daemon: Daemon) -> None:
    daemon.docker("network", "create", "--subnet", "10.222.0.0/24", "wished")
    try:
        place = ("--network", "wished", "--ip", "10.222.0.9")
        made = daemon.docker("create", "--name", "wisher", *place, "busybox", "true").stdout.strip()
        status, told = Api(daemon).call("GET", f"/containers/{made}/json")
        assert status == 200
        assert told["NetworkSettings"]["Networks"]["wished"]["IPAMConfig"] == {"IPv4Address": "10.222.0.9"}
        daemon.docker("rm", "wisher")
    finally:
        daemon.docker("network", "rm", "wished")
