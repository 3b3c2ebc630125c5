"""SIGKILL of any of our processes at a random moment of any operation: it is done or absent, and nothing is left.

The moments are drawn from seeds, so that a failure can be repeated: `python -m tests.integration.test_killed_anywhere
FIRST LAST` runs further ones.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, Daemon, busybox_archive, eventually, free_port, new_daemon
from tests.integration.api_client import Api
from tests.integration.distribution_world import noise
from tests.integration.faults_world import VICTIMS, kill, settled
from tests.integration.scripted_registry import server, serving

pytestmark = pytest.mark.root

_COUNTER = "i=0; while :; do i=$((i+1)); echo $i; usleep 1000; done"
_PAIRS = (("daemon", "supervisor"), ("supervisor", "forker"), ("daemon", "forker"), ("supervisor", "workshop"))
_FAULTS = (*((victim,) for victim in VICTIMS), *_PAIRS, VICTIMS, ("supervisor", "supervisor"))
"""Who is killed at once; a second supervisor is the first one's successor, a moment later."""
_LONGEST = 0.25
_LENGTHY = {"build": 4, "backup": 4, "restore": 4, "clone": 4, "save": 2, "pull": 2}
_SETTINGS = (
    "stop_timeout = 3\n[log]\nsegment_bytes = 65536\nfiles = 1000\n",
    'labels = ["rack=4"]\nlog_level = "debug"\n[network]\ndns = ["192.0.2.1"]\nmtu = 1400\n',
    "",
)
"""What a daemon's successor may be told."""


_ENDER = "until [ -e /w/go ]; do usleep 10000; done; i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo $i; done; exit 7"


def _files(count: int) -> bytes:
    """A tar of so many files, each of other bytes than ever before."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as made:
        for number in range(count):
            member = tarfile.TarInfo(f"d/{number}")
            member.size = 4096
            made.addfile(member, io.BytesIO(os.urandom(4096)))
    return held.getvalue()


class World:
    """A daemon with two containers that must live through everything: one counts, one serves a page."""

    def __init__(self, daemon: Daemon, directory: Path, registry: str) -> None:
        self.daemon = daemon
        self.pulled = f"{registry}/app"
        self.api = Api(daemon)
        self.port = free_port()
        self.directory = directory
        self.saved, self.kept = directory / "saved.tar", directory / "kept.tar"
        self.shared = directory / "shared"
        self.shared.mkdir()
        daemon.cove("save", "-o", str(self.saved), "busybox:latest")
        often = ("--log-opt", "max-size=64k", "--log-opt", "max-file=1000")
        daemon.cove("run", "-d", "--name", "counter", *often, "busybox", "sh", "-c", _COUNTER)
        page = "mkdir /w; echo page >/w/index.html; exec httpd -f -h /w"
        daemon.cove("run", "-d", "--name", "web", "-p", f"127.0.0.1:{self.port}:80", "busybox", "sh", "-c", page)
        daemon.cove("volume", "create", "data")
        daemon.cove("network", "create", "net")
        daemon.cove("backup", "-o", str(self.kept), "counter")
        self.lives = self._pids()

    def _pids(self) -> list[Any]:
        return [self.api.call("GET", f"/containers/{name}/json")[1]["State"]["Pid"] for name in ("counter", "web")]

    # ── operations ────────────────────────────────────────────────────────────────────────────────

    def prepare(self, what: str) -> None:
        """What has to be there before."""
        if what == "rmi":
            self._import()
        if what == "end":
            (self.shared / "go").unlink(missing_ok=True)
            self.daemon.cove("run", "-d", "--name", "ender", "-v", f"{self.shared}:/w", "busybox", "sh", "-c", _ENDER)
        if what in ("start", "exec", "stop", "remove", "commit", "attach", "connect", "restart", "cp"):
            body = {
                "Image": "busybox",
                "Cmd": ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do usleep 20000; done"],
                "ExposedPorts": {"9/tcp": {}},
                "Volumes": {"/v": {}},
                "HostConfig": {
                    "NetworkMode": "net" if what == "start" else "bridge",
                    "PortBindings": {"9/tcp": [{"HostPort": ""}]},
                },
            }
            status, said = self.api.call("POST", "/containers/create", body, name="victim")
            assert status == 201, said
            if what != "start":
                status, said = self.api.call("POST", "/containers/victim/start")
                assert status == 204, f"{said}\n{self.daemon.log()}"

    def perform(self, what: str) -> None:
        """One operation, whatever becomes of it."""
        with suppress(OSError, ValueError):
            getattr(self, f"_{what}")()

    def _create(self) -> None:
        body = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/v": {}}}
        self.api.call("POST", "/containers/create", body, name="victim")

    def _start(self) -> None:
        self.api.call("POST", "/containers/victim/start")

    def _exec(self) -> None:
        body = {"Cmd": ["sh", "-c", "usleep 50000; exit 4"], "AttachStdout": True}
        _, made = self.api.call("POST", "/containers/victim/exec", body)
        self.api.send("POST", f"/exec/{made['Id']}/start", {"Detach": False})

    def _attach(self) -> None:
        self.api.send("POST", "/containers/victim/attach", stdout=1, logs=1)

    def _stop(self) -> None:
        self.api.call("POST", "/containers/victim/stop", t=5)

    def _restart(self) -> None:
        self.api.call("POST", "/containers/victim/restart", t=5)

    def _remove(self) -> None:
        self.api.call("DELETE", "/containers/victim", force=1, v=1)

    def _commit(self) -> None:
        self.api.call("POST", "/commit", {}, container="victim", repo="committed")

    def _connect(self) -> None:
        self.api.call("POST", "/networks/net/connect", {"Container": "victim"})
        self.api.call("POST", "/networks/net/disconnect", {"Container": "victim"})

    def _network(self) -> None:
        name = f"fb-{os.getpid() % 10**6}"
        self.api.call(
            "POST", "/networks/create", {"Name": "made", "Options": {"com.docker.network.bridge.name": name}}
        )
        self.api.call("DELETE", "/networks/made")

    def _volume(self) -> None:
        self.api.call("POST", "/volumes/create", {"Name": "made"})
        self.api.call("DELETE", "/volumes/made")

    def _clone(self) -> None:
        self.daemon.cove("volume", "clone", "data", "made", check=False)

    def _load(self) -> None:
        self.api.send("POST", "/images/load", self.saved.read_bytes(), kind="application/x-tar")

    def _import(self) -> None:
        self.api.send("POST", "/images/create", _files(200), kind="application/x-tar", fromSrc="-", repo="imported")

    def _build(self) -> None:
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as made:
            steps = (f"RUN echo {time.time_ns()} >/a", "RUN usleep 30000; echo b >/b", "COPY Dockerfile /c")
            text = "\n".join(("FROM busybox", *steps)).encode()
            member = tarfile.TarInfo("Dockerfile")
            member.size = len(text)
            made.addfile(member, io.BytesIO(text))
        self.api.send("POST", "/build", held.getvalue(), kind="application/x-tar", t="built")

    def _backup(self) -> None:
        path = self.directory / "backup.tar"
        self.daemon.cove("backup", "-o", str(path), "counter", check=False)

    def _restore(self) -> None:
        self.daemon.cove("restore", "--name", "victim", str(self.kept), check=False)

    def _pull(self) -> None:
        self.api.send("POST", "/images/create", fromImage=self.pulled, tag="latest")

    def _rmi(self) -> None:
        self.api.call("DELETE", "/images/imported")

    def _save(self) -> None:
        self.api.send("GET", "/images/busybox/get")

    def _cp(self) -> None:
        self.api.send("PUT", "/containers/victim/archive?path=/tmp", _files(20), kind="application/x-tar")
        self.api.send("GET", "/containers/victim/archive?path=/tmp/d")

    def _end(self) -> None:
        (self.shared / "go").touch()

    # ── what must hold ────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """All that lived lives, and nothing is there that the daemon does not know of."""
        assert eventually(lambda: self.api.call("GET", "/containers/json")[0] == 200)
        assert self._pids() == self.lives, "running containers run on"
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=30 * PATIENCE).read()
        assert page == b"page\n"
        done = self.daemon.cove("exec", "counter", "echo", "there", check=False)
        assert done.stdout == "there\n", done.stderr
        lines = self.daemon.cove("logs", "counter").stdout.split("\n")[:-1]
        wrong = next((at for at, line in enumerate(lines) if line != str(at + 1)), None)
        assert wrong is None, f"lines are lost: {lines[max(wrong - 3, 0) : wrong + 5]} at {wrong} of {len(lines)}"
        left = settled(self.daemon)
        assert not left, f"left over: {left}\n{self.daemon.log()}"

    def check_end(self, unseen: bool) -> None:
        """Its code is known, and all that was said before; `unseen`: nobody may have lived to see it."""
        assert self.daemon.cove("wait", "ender").stdout in ("7\n", "255\n")[: 1 + unseen]
        assert self.daemon.cove("logs", "ender").stdout == "".join(f"{number}\n" for number in range(1, 501))
        self.daemon.cove("rm", "ender")

    def vary(self, settings: str) -> None:
        """The next daemon's configuration."""
        path = self.directory / "daemon.toml"
        path.write_text(settings)
        self.daemon.extra = ("--config", str(path))

    def tidy(self) -> None:
        """Remove what an operation made, as a user would; whatever is there must be whole."""
        status, about = self.api.call("GET", "/containers/victim/json")
        if status == 200:
            if about["State"]["Status"] in ("created", "exited"):
                status, said = self.api.call("POST", "/containers/victim/start")
                assert status == 204, f"{said}\n{self.daemon.log()}"
            status, said = self.api.call("DELETE", "/containers/victim", force=1, v=1)
            assert status == 204, f"{said}\n{self.daemon.log()}"
        for name in ("committed", "imported", "built", self.pulled):
            status, said = self.api.call("DELETE", f"/images/{name}", force=1)
            assert status in (200, 404), said
        assert self.api.call("DELETE", "/volumes/made")[0] in (204, 404)
        assert self.api.call("DELETE", "/networks/made")[0] in (204, 404)
        self.daemon.cove("volume", "prune", "-f")
        self.daemon.cove("builder", "prune", "-af")


OPERATIONS = (
    "create", "start", "exec", "attach", "stop", "restart", "remove", "commit", "connect", "network", "volume",
    "clone", "load", "import", "build", "backup", "restore", "pull", "rmi", "save", "cp", "end",
)  # fmt: skip


def one(world: World, seed: int) -> str:
    """One fault: its operation, its victims and its moment follow from the seed. What it was."""
    chance = random.Random(seed)
    what, victims = chance.choice(OPERATIONS), chance.choice(_FAULTS)
    moment = chance.random() ** 2 * _LONGEST * _LENGTHY.get(what, 1)
    told = f"seed {seed}: {' and '.join(victims)} after {moment * 1000:.1f} ms of {what}"
    world.prepare(what)
    acting = threading.Thread(target=world.perform, args=(what,))
    acting.start()
    time.sleep(moment)
    kill(world.daemon, tuple(dict.fromkeys(victims)))
    if "daemon" in victims:
        world.vary(chance.choice(_SETTINGS))
        world.daemon.start()
    if victims.count("supervisor") > 1:
        time.sleep(chance.random() * _LONGEST)
        kill(world.daemon, ("supervisor",))
    acting.join(5 * PATIENCE)
    try:
        if what == "pull":
            world.perform(what)  # it goes on where it stopped, and keeps nothing of that
        if what == "end":
            world.check_end(unseen={"daemon", "supervisor"} <= set(victims))
        world.check()
        world.tidy()
        acting.join(30 * PATIENCE)
        assert not acting.is_alive(), "the client is told"
    except BaseException as error:
        error.add_note(told)
        raise
    return told


@pytest.mark.parametrize("seeds", [(11, 17, 19, 22), (26, 28, 29, 33)], ids=str)
def test_a_kill_at_any_moment(own_daemon: Daemon, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with server(serving([noise(1 << 20), b"two"])) as (registry, _):
        world = World(own_daemon, tmp_path, registry)
        for seed in seeds:
            one(world, seed)


def _main(first: int, last: int) -> None:
    directory = Path(tempfile.mkdtemp())
    daemon = new_daemon()
    daemon.start()
    failed: list[Any] = []
    around = ExitStack()
    try:
        daemon.cove("import", str(busybox_archive(directory)), "busybox:latest")
        registry, _ = around.enter_context(server(serving([noise(1 << 20), b"two"])))
        world = World(daemon, directory, registry)
        for seed in range(first, last):
            begun = time.monotonic()
            try:
                print(one(world, seed), f"{time.monotonic() - begun:.1f} s", flush=True)
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                print("FAILED", getattr(error, "__notes__", ""), where, str(error)[:3000], flush=True)
                failed.append(seed)
                if isinstance(error, KeyboardInterrupt):
                    break
                with suppress(BaseException):
                    world.tidy()
                    world.lives = world._pids()
        print("failed seeds:", failed)
    finally:
        around.close()
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)
        shutil.rmtree(directory)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
