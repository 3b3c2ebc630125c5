"""What the API makes of requests: parameters honoured or refused in words, old clients served as they expect."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, Daemon, eventually
from tests.integration.api_client import Api, Connection


@pytest.fixture
def api(daemon: Daemon) -> Api:
    return Api(daemon)


@pytest.fixture
def make(api: Api) -> Iterator[Callable[..., str]]:
    """Makes containers, started if told so, and removes them."""
    made: list[str] = []

    def create(started: bool = True, name: str = "", **body: Any) -> str:
        asked = {"Image": "busybox", "Cmd": ["sleep", "600"], **body}
        status, answer = api.call("POST", "/containers/create", asked, **({"name": name} if name else {}))
        assert status == 201, answer
        made.append(answer["Id"])
        if started:
            assert api.call("POST", f"/containers/{answer['Id']}/start")[0] == 204
        return str(answer["Id"])

    yield create
    for identity in made:
        api.call("DELETE", f"/containers/{identity}", force=1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Healthcheck": {"Interval": 100}}, "cannot be less than 1ms"),
        ({"Healthcheck": {"Retries": -1}}, "cannot be negative"),
        ({"HostConfig": {"Annotations": {"": "x"}}}, "annotation key"),
        ({"WorkingDir": "here"}, "absolute path"),
        ({"StopSignal": "FOO"}, "invalid signal"),
        ({"HostConfig": {"VolumesFrom": ["nobody"]}}, "No such container"),
    ],
)
def test_a_bad_wish_is_refused_at_creation(api: Api, body: dict[str, Any], words: str) -> None:
    status, answer = api.call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], **body})
    assert (status, words in answer["message"]) == (400, True), answer


def test_a_body_that_is_called_something_else_is_refused(api: Api) -> None:
    status, data = api.send("POST", "/containers/create", b"{}", kind="text/plain")
    assert status == 400
    assert "must be 'application/json'" in json.loads(data)["message"]


def test_detach_keys_and_sizes_that_make_no_sense(api: Api, make: Callable[..., str]) -> None:
    container = make(Tty=True)
    status, answer = api.call("POST", f"/containers/{container}/attach", detachKeys="ctrl-A,a", stream=1, stdout=1)
    assert (status, "Invalid detach keys" in answer["message"]) == (400, True)
    status, answer = api.call("POST", f"/containers/{container}/resize", h="x", w=2)
    assert (status, answer["message"].split(";")[0]) == (400, 'invalid resize height "x": invalid syntax')
    status, answer = api.call("POST", f"/containers/{container}/resize", h=2, w=-1)
    assert (status, "out of range" in answer["message"]) == (400, True)


def test_an_exec_of_a_container_that_ended_is_no_longer_running(api: Api, make: Callable[..., str]) -> None:
    container = make()
    asked = {"Cmd": ["sleep", "600"], "Tty": True, "AttachStdout": True}
    _, made = api.call("POST", f"/containers/{container}/exec", asked)
    assert api.call("POST", f"/exec/{made['Id']}/start", {"Detach": True, "Tty": True})[0] == 200
    assert api.call("POST", f"/containers/{container}/kill")[0] == 204
    assert api.call("POST", f"/containers/{container}/wait")[0] == 200
    status, answer = api.call("POST", f"/exec/{made['Id']}/resize", h=20, w=20)
    assert (status, "is not running" in answer["message"]) == (409, True)


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"Cmd": ["true"], "WorkingDir": "/nowhere"}, 126, b'chdir to cwd ("/nowhere") failed'),
        ({"Cmd": ["true"], "WorkingDir": "here"}, 126, b"the working directory 'here' is invalid"),
        ({"Cmd": ["no-such-program"]}, 127, b"executable file not found"),
    ],
)
def test_an_exec_that_cannot_run_says_so(
    api: Api, make: Callable[..., str], asked: dict[str, Any], code: int, words: bytes
) -> None:
    container = make()
    _, made = api.call("POST", f"/containers/{container}/exec", {"AttachStderr": True, "AttachStdout": True, **asked})
    status, said = api.send("POST", f"/exec/{made['Id']}/start", {})
    assert (status, words in said) == (200, True), said
    assert api.call("GET", f"/exec/{made['Id']}/json")[1]["ExitCode"] == code
    _, changes = api.call("GET", f"/containers/{container}/changes")
    assert not changes


def test_a_limit_of_processes_is_lifted_again(api: Api, make: Callable[..., str]) -> None:
    container = make(HostConfig={"PidsLimit": 20})
    assert api.call("POST", f"/containers/{container}/update", {"PidsLimit": 0})[0] == 200
    _, shown = api.call("GET", f"/containers/{container}/json")
    assert shown["HostConfig"]["PidsLimit"] == 0
    _, used = api.call("GET", f"/containers/{container}/stats", stream=0)
    assert used["pids_stats"].get("limit", 1 << 64) > 20


def test_a_container_that_removes_itself_is_not_restarted(api: Api, make: Callable[..., str]) -> None:
    container = make(HostConfig={"AutoRemove": True})
    asked = {"RestartPolicy": {"Name": "always"}}
    status, answer = api.call("POST", f"/containers/{container}/update", asked)
    assert (status, "AutoRemove is enabled" in answer["message"]) == (409, True)


def test_links_know_capital_letters_and_can_be_removed(api: Api, make: Callable[..., str]) -> None:
    make(name="Target_ONE")
    other = make(name="linking", HostConfig={"Links": ["Target_ONE:Db"]})
    _, shown = api.call("GET", f"/containers/{other}/json")
    assert shown["HostConfig"]["Links"] == ["/Target_ONE:/linking/Db"]
    assert api.call("DELETE", "/containers/linking/nothing", link=1)[0] == 404
    assert api.call("DELETE", "/containers/linking/Db", link=1)[0] == 204
    _, shown = api.call("GET", f"/containers/{other}/json")
    assert not shown["HostConfig"]["Links"]


def test_a_health_check_that_takes_too_long_tells_what_it_said(api: Api, make: Callable[..., str]) -> None:
    check = {"Test": ["CMD-SHELL", "echo said; sleep 60"], "Interval": 10_000_000, "Timeout": 1_500_000_000}
    container = make(Healthcheck=check)

    def log() -> list[dict[str, Any]]:
        return list(api.call("GET", f"/containers/{container}/json")[1]["State"]["Health"]["Log"])

    assert eventually(log)
    assert log()[0]["Output"] == "Health check exceeded timeout (1.5s): said\n"


def test_what_old_clients_expect(daemon: Daemon, make: Callable[..., str]) -> None:
    container = make(started=False, HostConfig={"Annotations": {"a": "b"}})
    mine = json.dumps({"id": [container]})
    for version, annotated, described in (("1.45", False, False), ("1.47", True, False), ("1.48", True, True)):
        (line,) = Api(daemon, version).call("GET", "/containers/json", all=1, filters=mine)[1]
        found = ("Annotations" in line["HostConfig"], "ImageManifestDescriptor" in line)
        assert found == (annotated, described), version
    _, shown = Api(daemon, "1.47").call("GET", f"/containers/{container}/json")
    assert "ImageManifestDescriptor" not in shown
    assert Api(daemon, "1.49").call("GET", "/info")[1]["BridgeNfIptables"] is True
    assert "BridgeNfIptables" not in Api(daemon).call("GET", "/info")[1]
    body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"one": {}, "two": {}}}}
    status, answer = Api(daemon, "1.43").call("POST", "/containers/create", body)
    assert (status, "multiple network endpoints" in answer["message"]) == (400, True)
    status, made = Api(daemon, "1.39").call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
    assert status == 201
    try:
        assert Api(daemon).call("GET", f"/containers/{made['Id']}/json")[1]["HostConfig"]["IpcMode"] == "shareable"
    finally:
        Api(daemon).call("DELETE", f"/containers/{made['Id']}")


def test_commits_are_told_apart_and_changes_know_the_variables(api: Api, make: Callable[..., str]) -> None:
    container = make(started=False, Env=["DIR=/opt/a b"])
    changes = "ENV PATH=$DIR/bin:/bin QUOTED=\"$DIR\" PLAIN='$DIR'"
    made = [
        api.call("POST", "/commit", {}, container=container, repo="told", tag=f"v{n}", changes=changes)[1]["Id"]
        for n in range(3)
    ]
    try:
        assert len(set(made)) == 3
        _, shown = api.call("GET", "/images/told:v0/json")
        assert shown["Parent"] == api.call("GET", "/images/busybox/json")[1]["Id"]
        assert {"PATH=/opt/a b/bin:/bin", "QUOTED=/opt/a b", "PLAIN=$DIR"} <= set(shown["Config"]["Env"])
        between = json.dumps({"since": [made[0]], "before": [made[2]]})
        assert [each["Id"] for each in api.call("GET", "/images/json", filters=between)[1]] == [made[1]]
    finally:
        for n in range(3):
            api.call("DELETE", f"/images/told:v{n}")


def test_lines_of_a_log_come_one_by_one(api: Api, make: Callable[..., str]) -> None:
    container = make(Cmd=["sh", "-c", "echo one; sleep 0.2; echo two"])
    assert api.call("POST", f"/containers/{container}/wait")[0] == 200
    _, said = api.send("GET", f"/containers/{container}/logs", stdout=1)
    assert said == b"\1\0\0\0\0\0\0\4one\n\1\0\0\0\0\0\0\4two\n"


def test_names_that_a_filter_fits(api: Api) -> None:
    names = ["fits:one", "fits/deep:two"]
    for name in names:
        repo, _, tag = name.partition(":")
        assert api.call("POST", "/images/busybox/tag", repo=repo, tag=tag)[0] == 201
    try:
        for pattern, expected in (
            ("fits*", ["fits:one"]),
            ("fits/*", ["fits/deep:two"]),
            ("docker.io/library/fits", ["fits:one"]),
            ("docker.io/fits/deep:*", ["fits/deep:two"]),
        ):
            _, found = api.call("GET", "/images/json", filters=json.dumps({"reference": [pattern]}))
            assert [tag for image in found for tag in image["RepoTags"]] == expected, pattern
        status, answer = api.call("POST", "/images/busybox/tag", repo="sha256", tag="x")
        assert (status, "ambiguous" in answer["message"]) == (400, True)
    finally:
        for name in names:
            api.call("DELETE", f"/images/{name}")


def test_credentials_of_a_build_may_be_null(api: Api) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        text = b"FROM busybox\nLABEL built=yes\n"
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    connection = Connection(api.path)
    headers = {"Content-Type": "application/x-tar", "X-Registry-Config": base64.b64encode(b"null").decode()}
    connection.request("POST", "/v1.51/build?t=nullauth&version=1", out.getvalue(), headers)
    answer = connection.getresponse()
    said = answer.read()
    assert (answer.status, b"Successfully built" in said) == (200, True), said
    connection.close()
    assert api.call("DELETE", "/images/nullauth")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/system/df", {"type": "nonsense"}),
        ("POST", "/plugins/pull", {"remote": "x"}),
    ],
)
def test_what_cannot_be_honoured_is_refused(api: Api, method: str, path: str, query: dict[str, Any]) -> None:
    status, answer = api.call(method, path, **query)
    assert status in (400, 501)
    assert answer["message"]


def test_who_waits_hears_of_the_end_after_who_is_attached_has_the_output(api: Api, make: Callable[..., str]) -> None:
    """The attached client reads nothing until the wait is answered; its output must be there by then."""
    container = make(started=False, Cmd=["sh", "-c", "head -c 50000 /dev/zero | tr '\\0' x; echo; echo end"])
    connection = Connection(api.path)
    try:
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        connection.request("POST", f"/v1.51/containers/{container}/attach?stream=1&stdout=1", headers=headers)
        while b"\r\n\r\n" not in (head := connection.sock.recv(4096, socket.MSG_PEEK)):
            pass
        connection.sock.recv(head.index(b"\r\n\r\n") + 4)
        assert api.call("POST", f"/containers/{container}/start")[0] == 204
        assert api.call("POST", f"/containers/{container}/wait")[1]["StatusCode"] == 0
        connection.sock.setblocking(False)
        arrived = b""
        while b"end\n" not in arrived:
            arrived += connection.sock.recv(1 << 20)  # raises BlockingIOError where something is missing
        assert arrived.count(b"x") == 50_000
    finally:
        connection.close()


def test_execs_are_listed_while_they_live_and_unknown_with_their_container(
    api: Api, make: Callable[..., str]
) -> None:
    container = make()

    def started(*words: str) -> str:
        _, made = api.call("POST", f"/containers/{container}/exec", {"Cmd": words})
        assert api.call("POST", f"/exec/{made['Id']}/start", {"Detach": True})[0] == 200
        return str(made["Id"])

    living, short = started("sleep", "600"), started("true")
    while api.call("GET", f"/exec/{short}/json")[1]["Running"]:
        pass
    assert api.call("GET", f"/containers/{container}/json")[1]["ExecIDs"] == [living]
    assert api.call("POST", f"/containers/{container}/stop", t=0)[0] == 204
    for method, path in (("GET", f"/exec/{living}/json"), ("POST", f"/exec/{living}/start")):
        status, answer = api.call(method, path, {} if method == "POST" else None)
        assert (status, "No such exec instance" in answer["message"]) == (404, True)


def test_a_socket_of_the_web_carries_bare_output(api: Api, make: Callable[..., str]) -> None:
    container = make(started=False, Cmd=["echo", "hello"])
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60 * PATIENCE)
        client.connect(api.path)
        head = f"GET /v1.51/containers/{container}/attach/ws?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
        head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        client.sendall(head.encode())
        with client.makefile("rb") as answer:
            assert b" 101 " in answer.readline()
            while answer.readline() != b"\r\n":
                pass
            assert api.call("POST", f"/containers/{container}/start")[0] == 204
            assert answer.read(8) == b"\x82\x06hello\n"
    status, answer_ = api.call("GET", "/containers/nobody/attach/ws")
    assert (status, "No such container" in answer_["message"]) == (404, True)


def test_no_swapping_is_a_wish_too(api: Api, make: Callable[..., str], daemon: Daemon) -> None:
    if api.call("GET", "/info")[1]["CgroupVersion"] == "2":
        pytest.skip("control groups of version 2 have no swappiness")
    container = make(HostConfig={"MemorySwappiness": 0})
    shown = daemon.cove("exec", container, "cat", "/sys/fs/cgroup/memory/memory.swappiness").stdout
    assert shown == "0\n"


def test_a_commit_with_a_configuration_keeps_what_that_leaves_out(api: Api, make: Callable[..., str]) -> None:
    container = make(Env=["KEPT=1"])
    status, made = api.call("POST", "/commit", {"Labels": {"a": "b"}}, container=container, repo="labelled")
    assert status == 201
    try:
        config = api.call("GET", "/images/labelled/json")[1]["Config"]
        assert (config["Cmd"], config["Labels"]) == (["sleep", "600"], {"a": "b"})
        assert "KEPT=1" in config["Env"]
    finally:
        api.call("DELETE", f"/images/{made['Id']}", force=1)


def test_a_list_names_the_image_while_it_is_called_so(api: Api, make: Callable[..., str], daemon: Daemon) -> None:
    daemon.cove("tag", "busybox", "moving:1")
    container = make(Image="moving:1")

    def called() -> tuple[str, str]:
        (line,) = api.call("GET", "/containers/json", filters=json.dumps({"id": [container]}))[1]
        return line["Image"], line["ImageID"]

    assert called()[0] == "moving:1"
    daemon.cove("commit", container, "moving:2")
    try:
        daemon.cove("tag", "moving:2", "moving:1")
        assert called()[0] == called()[1]
    finally:
        daemon.cove("rmi", "-f", "moving:1", "moving:2")
    assert called()[0] == called()[1]


def test_an_image_is_imported_from_an_address(api: Api, archive: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    handler = functools.partial(Quiet, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        status, said = api.send("POST", "/images/create", fromSrc=f"{address}/{archive.name}", repo="fetched")
        assert status == 200 and b"errorDetail" not in said, said
        status, said = api.call("POST", "/images/create", fromSrc=f"{address}/nothing", repo="fetched")
        assert (status, said["message"]) == (404, f"{address}/nothing cannot be fetched: the server answers 404")
        server.shutdown()
    try:
        _, history = api.call("GET", "/images/fetched/history")
        assert history[0]["Comment"] == f"Imported from {address}/{archive.name}"
    finally:
        api.call("DELETE", "/images/fetched")
    for text, words in (
        ("file:///etc/passwd", "only http:// and https://"),
        ("%2Ff.tar", "no address"),
    ):
        status, said = api.call("POST", "/images/create", fromSrc=text, repo="fetched")
        assert (status, words in said["message"]) == (400, True)


def test_a_predefined_network_is_not_made(api: Api) -> None:
    status, answer = api.call("POST", "/networks/create", {"Name": "bridge"})
    assert (status, answer["message"]) == (403, "operation is not permitted on predefined bridge network")


def test_containers_are_found_by_what_their_image_was_made_of(daemon: Daemon) -> None:
    for name, base in (("older:1", "busybox"), ("younger:1", "older:1")):
        daemon.cove("build", "-q", "-t", name, "-", input=f"FROM {base}\nLABEL by={name}\n")
    names = {image: daemon.docker("create", image, "true").stdout.strip() for image in ("older:1", "younger:1")}
    try:
        for ancestor, found in (("busybox", 2), ("older:1", 2), ("younger:1", 1), ("nobody", 0)):
            words = ("ps", "-aq", "--no-trunc", "--filter", f"ancestor={ancestor}")
            assert len(set(names.values()) & set(daemon.docker(*words).stdout.split())) == found, ancestor
    finally:
        daemon.docker("rm", *names.values())
        daemon.docker("rmi", *names)


def test_a_working_directory_is_there_before_the_first_start(daemon: Daemon, tmp_path: Path) -> None:
    identity = daemon.docker("create", "-w", "/home/me/work", "busybox", "true").stdout.strip()
    try:
        daemon.docker("cp", f"{identity}:/home/me/work", str(tmp_path))
        assert (tmp_path / "work").is_dir()
        assert "A /home/me/work" in daemon.docker("diff", identity).stdout
    finally:
        daemon.docker("rm", identity)


def test_a_terminal_has_one_output(api: Api, make: Callable[..., str]) -> None:
    container = make(Tty=True, Cmd=["sh", "-c", "echo shown; sleep 600"])
    assert eventually(lambda: api.send("GET", f"/containers/{container}/logs", stdout=1)[1])
    _, shown = api.send("POST", f"/containers/{container}/attach", logs=1, stdout=1)
    assert shown == b"shown\r\n"
    assert api.send("POST", f"/containers/{container}/attach", logs=1, stderr=1) == (200, b"")


def test_words_that_mean_everything_or_nothing(api: Api, make: Callable[..., str]) -> None:
    container = make(Cmd=["echo", "said"])
    api.call("POST", f"/containers/{container}/wait")
    assert api.send("GET", f"/containers/{container}/logs", stdout=1, tail="random")[1].endswith(b"said\n")
    status, refused = api.call("GET", f"/containers/{container}/logs")
    assert (status, refused["message"]) == (400, "must specify at least one of 'stdout' or 'stderr'")
    status, refused = api.call("DELETE", "/images/%20")
    assert (status, refused["message"]) == (400, "image name cannot be blank")
    for filters in ({"stars": ["many"]}, {"is-official": ["maybe"]}, {"color": ["red"]}):
        status, refused = api.call("GET", "/images/search", term="x.invalid/y", filters=json.dumps(filters))
        assert (status, "invalid filter" in refused["message"]) == (400, True)
    for filters in ({"stars": ["3"]}, {"is-official": ["true"]}):
        assert api.call("GET", "/images/search", term="x.invalid/y", filters=json.dumps(filters)) == (200, [])


def test_filters_of_a_list_of_containers(api: Api, make: Callable[..., str]) -> None:
    made = {make(started=False, name=name): name for name in ("sieve-1", "sieve-22", "coarse-sieve")}

    def found(**filters: str) -> list[str]:
        terms = json.dumps({name: [value] for name, value in filters.items()})
        status, lines = api.call("GET", "/containers/json", all=1, filters=terms)
        assert status == 200, lines
        return sorted(made[line["Id"]] for line in lines if line["Id"] in made)

    for pattern, names in (
        ("sieve", ["coarse-sieve", "sieve-1", "sieve-22"]),
        ("^/?sieve", ["sieve-1", "sieve-22"]),
        ("sieve-[0-9]$", ["sieve-1"]),
        ("^(coarse|fine)-", ["coarse-sieve"]),
        ("[", []),
    ):
        assert found(name=pattern) == names, pattern
    assert found(health="none") == sorted(made.values())
    for name, value in (
        ("name", "(a+)+$"),
        ("name", "(a|aa)*$"),
        ("name", ".*.*.*.*"),
        ("health", "well"),
        ("publish", "x"),
        ("expose", "90-80"),
    ):
        status, refused = api.call("GET", "/containers/json", filters=json.dumps({name: [value]}))
        assert (status, "filter" in refused["message"]) == (400, True), (name, value)


@pytest.mark.parametrize(
    "config", [{"mode": "weird"}, {"max-buffer-size": "1m"}, {"max-size": "much"}, {"colour": "1"}]
)
def test_a_log_that_cannot_be_kept_so_is_refused(api: Api, config: dict[str, str]) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"LogConfig": {"Type": "json-file", "Config": config}}}
    status, refused = api.call("POST", "/containers/create", body)
    assert (status, next(iter(config)) in refused["message"] or "mode" in refused["message"]) == (400, True)
