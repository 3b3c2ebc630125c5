"""Volume plugins: Docker's protocol at a unix socket and at an address, seen from both ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, PATIENCE, Daemon, catches, eventually, has_ended, new_daemon

pytestmark = pytest.mark.root


@dataclass
class Plugin:
    """A driver that keeps volumes in directories and notes what it is asked."""

    root: Path
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)
    refusal: str = ""
    scope: str = "global"

    def answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, body))
        name = body.get("Name", "")
        place = str(self.root / name)
        if method == "Plugin.Activate":
            return {"Implements": ["VolumeDriver"]}
        if method == "VolumeDriver.Capabilities":
            return {"Capabilities": {"Scope": self.scope}}
        if method == "VolumeDriver.List":
            return {"Volumes": [{"Name": each, "Mountpoint": str(self.root / each)} for each in self.volumes]}
        if method == "VolumeDriver.Create":
            if self.refusal:
                return {"Err": self.refusal}
            self.volumes[name] = body.get("Opts") or {}
            (self.root / name).mkdir()
            return {}
        if name not in self.volumes:
            return {"Err": "never heard of it"}
        if method == "VolumeDriver.Get":
            return {"Volume": {"Name": name, "Mountpoint": place, "Status": {"health": "good"}}}
        if method == "VolumeDriver.Remove":
            del self.volumes[name]
            shutil.rmtree(place)
        return {"Mountpoint": place} if method in ("VolumeDriver.Mount", "VolumeDriver.Path") else {}

    def count(self, verb: str) -> int:
        return sum(method == f"VolumeDriver.{verb}" for method, _ in self.asked)

    def users(self, verb: str) -> list[str]:
        return [body["ID"] for method, body in self.asked if method == f"VolumeDriver.{verb}"]


def _handler(plugin: Plugin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            raw = json.dumps(plugin.answer(self.path.lstrip("/"), body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            return "daemon"

    return Handler


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture(scope="module")
def plugged(directory: Path, archive: Path) -> Iterator[Daemon]:
    """A daemon that looks for plugins in a directory of the tests'."""
    daemon = new_daemon()
    config = daemon.root / "daemon.toml"
    config.write_text(f'plugin_directories = ["{directory}"]\n')
    daemon.extra = ("--config", str(config))
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


@pytest.fixture(params=["socket", "spec", "json"])
def plugin(request: pytest.FixtureRequest, directory: Path, tmp_path: Path) -> Iterator[Plugin]:
    """The plugin "shelf", found in each of the ways there are."""
    with _serving(Plugin(tmp_path), directory, "shelf", request.param) as kept:
        yield kept


@pytest.fixture
def drawer(directory: Path, tmp_path: Path) -> Iterator[Plugin]:
    """A plugin whose volumes are this host's alone."""
    (tmp_path / "drawer").mkdir()
    with _serving(Plugin(tmp_path / "drawer", scope="local"), directory, "drawer", "socket") as kept:
        yield kept


@contextmanager
def _serving(kept: Plugin, directory: Path, name: str, kind: str) -> Iterator[Plugin]:
    if kind == "socket":
        server: socketserver.BaseServer = _UnixServer(str(directory / f"{name}.sock"), _handler(kept))
        path = directory / f"{name}.sock"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kept))
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        path = directory / f"{name}.{kind}"
        path.write_text(address if kind == "spec" else json.dumps({"Name": name, "Addr": address}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        path.unlink()


def test_the_life_of_a_plugins_volume(plugged: Daemon, plugin: Plugin) -> None:
    plugged.docker("volume", "create", "-d", "shelf", "-o", "colour=red", "--label", "a=b", "books")
    assert plugin.volumes == {"books": {"colour": "red"}}
    shown = json.loads(plugged.docker("volume", "inspect", "books").stdout)[0]
    assert (shown["Driver"], shown["Scope"], shown["Status"]) == ("shelf", "global", {"health": "good"})
    assert shown["Mountpoint"] == str(plugin.root / "books") and shown["Labels"] == {"a": "b"}
    assert "shelf" in plugged.docker("info", "-f", "{{json .Plugins.Volume}}").stdout

    plugged.docker("run", "--rm", "-v", "books:/b", "busybox", "sh", "-c", "echo text > /b/file")
    assert (plugin.root / "books/file").read_text() == "text\n"
    assert plugin.count("Mount") == plugin.count("Unmount") == 1
    assert plugin.users("Mount") == plugin.users("Unmount")

    plugged.docker("create", "--name", "reader", "-v", "books:/b", "busybox", "true")
    assert b"text\n" in plugged.docker("cp", "reader:/b/file", "-", text=False).stdout
    refused = plugged.docker("volume", "rm", "books", check=False)
    assert refused.returncode and "in use" in refused.stderr
    plugged.docker("rm", "reader")
    assert sorted(plugin.users("Mount")) == sorted(plugin.users("Unmount"))
    plugged.docker("volume", "rm", "books")
    assert not plugin.volumes and "books" not in plugged.docker("volume", "ls", "-q").stdout.split()


def test_volumes_that_were_made_elsewhere(plugged: Daemon, plugin: Plugin) -> None:
    plugin.answer("VolumeDriver.Create", {"Name": "foreign"})
    (plugin.root / "foreign/file").write_text("text\n")
    listed = plugged.docker("volume", "ls", "--format", "{{.Driver}} {{.Name}}").stdout.splitlines()
    assert "shelf foreign" in listed
    assert plugged.cove("run", "--rm", "-v", "foreign:/f", "busybox", "cat", "/f/file").stdout == "text\n"
    taken = plugged.docker("volume", "create", "-d", "local", "foreign", check=False)
    assert taken.returncode and "A volume named foreign already exists" in taken.stderr
    plugged.docker("volume", "rm", "foreign")
    assert not plugin.volumes


def test_an_image_fills_a_plugins_volume_and_it_moves(plugged: Daemon, plugin: Plugin) -> None:
    words = ("--volume-driver", "shelf", "-v", "filled:/etc")
    assert "passwd" in plugged.docker("run", "--rm", *words, "busybox", "ls", "/etc").stdout
    assert "passwd" in {path.name for path in (plugin.root / "filled").iterdir()}
    plugged.cove("volume", "clone", "filled", "again")
    assert "passwd" in {path.name for path in (plugin.root / "again").iterdir()}
    assert sorted(plugin.users("Mount")) == sorted(plugin.users("Unmount"))
    plugged.docker("volume", "rm", "filled", "again")


def test_the_content_of_a_plugins_volume_is_backed_up(plugged: Daemon, drawer: Plugin, tmp_path: Path) -> None:
    backup, again = str(tmp_path / "kept"), ("restore", "--trust", "--name", "again")
    write = ("sh", "-c", "echo text > /d/f; chown 7:8 /d /d/f")
    plugged.cove("run", "--name", "user", "-v", "socks:/d", "--volume-driver", "drawer", "busybox", *write)
    try:
        plugged.cove("backup", "-o", backup, "user")
        refused = plugged.cove(*again, backup, check=False)
        assert refused.returncode == 1 and "a volume with the name socks exists already" in refused.stderr
        plugged.cove(*again, "--volume", "socks=others", backup)
        assert drawer.volumes.keys() == {"socks", "others"}
        look = ("sh", "-c", "cat /d/f; stat -c '%u %g' /d /d/f")
        shown = plugged.cove("run", "--rm", "--volumes-from", "again", "busybox", *look).stdout
        assert shown == "text\n7 8\n7 8\n"
        assert sorted(drawer.users("Mount")) == sorted(drawer.users("Unmount"))
        plugged.cove("rm", "-f", "again", "user")
        plugged.cove("volume", "rm", "others", "socks")
        drawer.volumes["socks"] = {}  # made elsewhere, never named here
        (drawer.root / "socks").mkdir()
        refused = plugged.cove(*again, backup, check=False)
        assert refused.returncode == 1 and "exists already" in refused.stderr
    finally:
        plugged.cove("rm", "-f", "again", "user", check=False)
        plugged.cove("volume", "rm", "-f", "socks", "others", check=False)


def test_a_volume_that_its_plugin_has_everywhere_is_only_named(
    plugged: Daemon, plugin: Plugin, tmp_path: Path
) -> None:
    backup = str(tmp_path / "kept")
    plugged.cove("run", "--name", "user", "-v", "books:/d", "--volume-driver", "shelf", "busybox", "touch", "/d/f")
    try:
        plugged.cove("backup", "-o", backup, "user")
        plugged.cove("restore", "--trust", "--name", "again", backup)
        assert plugged.cove("inspect", "-f", "{{(index .Mounts 0).Name}}", "again").stdout.strip() == "books"
        assert (plugin.root / "books/f").exists()
    finally:
        plugged.cove("rm", "-f", "again", "user", check=False)
        plugged.cove("volume", "rm", "-f", "books", check=False)


def test_who_uses_a_plugins_volume_is_known_to_the_next_daemon(plugged: Daemon, drawer: Plugin) -> None:
    """One that runs on keeps it mounted; one that ended while there was no daemon gave it back."""
    plugged.cove("volume", "create", "-d", "drawer", "shared")
    ends = "trap 'exit 0' TERM; while true; do sleep 0.05; done"
    for name in ("stays", "ends"):
        plugged.cove("run", "-d", "--name", name, "-v", "shared:/v", "busybox", "sh", "-c", ends)
    pid = int(plugged.cove("inspect", "-f", "{{.State.Pid}}", "ends").stdout)
    assert drawer.count("Mount") == 2 and drawer.count("Unmount") == 0
    plugged.kill()
    assert eventually(lambda: catches(pid, signal.SIGTERM))
    os.kill(pid, signal.SIGTERM)
    assert eventually(lambda: has_ended(pid))
    plugged.start()
    assert eventually(lambda: drawer.count("Unmount") == 1)
    refused = plugged.cove("volume", "rm", "shared", check=False)
    assert refused.returncode and "in use" in refused.stderr
    plugged.cove("exec", "stays", "touch", "/v/still-there")
    plugged.cove("rm", "-f", "stays", "ends")
    assert sorted(drawer.users("Mount")) == sorted(drawer.users("Unmount"))
    plugged.cove("volume", "rm", "shared")


def test_what_a_plugin_refuses_is_said_and_nothing_stays(plugged: Daemon, plugin: Plugin) -> None:
    plugin.refusal = "the shelf is full"
    for client in (plugged.cove, plugged.docker):
        refused = client("volume", "create", "-d", "shelf", "more", check=False)
        assert refused.returncode and "the shelf is full" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    failed = plugged.docker(
        "run", "--rm", "--volume-driver", "shelf", "-v", "more:/m", "busybox", "true", check=False
    )
    assert failed.returncode and "the shelf is full" in failed.stderr
    assert plugged.docker("ps", "-aq").stdout == ""


def test_a_plugin_that_is_gone(plugged: Daemon, directory: Path) -> None:
    (directory / "gone.spec").write_text("tcp://127.0.0.1:1")
    (directory / "odd.spec").write_text("gopher://x")
    try:
        refused = plugged.docker("volume", "create", "-d", "gone", "x1", check=False)
        assert refused.returncode and "The volume plugin gone does not answer" in refused.stderr
        odd = plugged.docker("volume", "create", "-d", "odd", "x1", check=False)
        assert odd.returncode and "is no address" in odd.stderr
        assert plugged.docker("volume", "ls").returncode == 0
        plugged.cove("volume", "create", "unhindered")
        plugged.cove("volume", "rm", "unhindered")
    finally:
        (directory / "gone.spec").unlink()
        (directory / "odd.spec").unlink()


def test_a_plugin_that_hangs_holds_up_nobody(plugged: Daemon, directory: Path) -> None:
    plugged.cove("volume", "create", "unhindered")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(directory / "silent.sock"))
        silent.listen()
        try:
            listed = plugged.cove("volume", "ls", "-q")
        finally:
            (directory / "silent.sock").unlink()
    assert listed.stdout == "unhindered\n"
    assert listed.stderr.startswith("WARNING: The volume plugin silent does not answer")
    plugged.cove("volume", "rm", "unhindered")


def test_a_plugin_that_starts_later_than_its_container(plugged: Daemon, directory: Path, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path)
    path = directory / "late.sock"
    with _UnixServer(str(path), _handler(plugin)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        plugged.docker("volume", "create", "-d", "late", "books")
        plugged.docker("create", "--name", "reader", "-v", "books:/b", "busybox", "true")
        server.shutdown()
    path.unlink()
    starting = subprocess.Popen(
        [BIN / "cove", "start", "-a", "reader"], env=os.environ | {"COVE_HOST": plugged.host}, stderr=subprocess.PIPE
    )
    time.sleep(0.5)
    with _UnixServer(str(path), _handler(plugin)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        assert starting.communicate(timeout=60 * PATIENCE)[1] == b"" and starting.returncode == 0
        plugged.docker("rm", "reader")
        plugged.docker("volume", "rm", "books")
        server.shutdown()
    path.unlink()
