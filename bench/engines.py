"""The engines that are measured: how each is started in isolation, and asked over its socket.

All speak the Docker Engine API; `call` is the same plain HTTP/1.1 client for each of them.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ALONE = 'ip link set lo up; mount -t tmpfs run "$RUN"; exec "$@"'
OWN_NETWORK = ["unshare", "--net"]
IN_NAMESPACES = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ALONE, "sh"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self._path)


class Engine:
    """One engine with everything of its own below `root`."""

    name = ""
    program = ""
    command = ""
    only = ""
    """A part of the titles of the rows that it is measured in."""

    def __init__(self, root: Path) -> None:
        """What lasts lies below `root`; what a boot ends lies on a tmpfs, as /run is one where people work."""
        self.root = root
        self.run = root / "run"
        self.run.mkdir(parents=True)
        self.socket = root / "api.sock"
        self._local = threading.local()
        self.process: subprocess.Popen[bytes] | None = None

    def installed(self) -> bool:
        return shutil.which(self.program) is not None

    def label(self) -> str:
        return self.name

    def daemon_command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What the daemon's environment has besides ours."""
        return {}

    def start(self, network: list[str] | None = None, *, pause: float = 0.05) -> None:
        """Start it and ask every `pause` seconds until it answers.

        `network` is what runs a program in another network namespace than one of its own.
        """
        log = (self.root / "log").open("wb")
        self.process = subprocess.Popen(
            [*(network or OWN_NETWORK), *IN_NAMESPACES, *self.daemon_command()],
            stdout=log,
            stderr=log,
            env=os.environ | {"RUN": str(self.run)} | self.environment(),
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.call("GET", "/_ping"):
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(pause)
        raise RuntimeError(f"{self.name} does not answer: {(self.root / 'log').read_text()[-800:]}")

    def stop(self) -> None:
        assert self.process is not None
        self._local.connection = None  # it may have been idle for longer than the engine keeps one
        for container in self.json("GET", "/containers/json?all=1"):
            self.call("DELETE", f"/containers/{container['Id']}?force=1")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._local.connection = None

    def processes(self) -> list[int]:
        """The engine's own: what its daemon started and what is called by its directory, but no container's.

        A container's process is one that has another root directory than the host's.
        """
        assert self.process is not None
        parents: dict[int, int] = {}
        found = {self.process.pid}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if str(self.root).encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return [pid for pid in found if _has_the_hosts_root(pid)]

    def load(self, archive: Path) -> None:
        self.call("POST", "/images/create?fromSrc=-&repo=localhost/bench&tag=latest", archive.read_bytes())

    def call(self, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> bytes:
        """One request on this thread's kept connection; a status of 400 or more raises."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = UnixConnection(self.socket)
        payload = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/x-tar"
        try:
            connection.request(method, "/v1.41" + path, payload, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._local.connection = None
            raise
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return bytes(content)

    def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return json.loads(self.call(method, path, body) or b"null")


def _has_the_hosts_root(pid: int) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
    except OSError:
        return False


class CoveEngine(Engine):
    name = "cove"
    program = str(BIN / "cove")
    command = str(BIN / "cove")

    def daemon_command(self) -> list[str]:
        roots = ["--data-root", str(self.root / "data"), "--run-root", str(self.run)]
        return [self.program, "daemon", *roots, "-H", f"unix://{self.socket}"]


class DockerEngine(Engine):
    name = "docker"
    program = "dockerd"
    command = "docker"

    def daemon_command(self) -> list[str]:
        configuration = self.root / "daemon.json"
        configuration.write_text("{}")
        return [
            "dockerd", "--data-root", str(self.root / "data"), "--exec-root", str(self.run),
            "--pidfile", str(self.root / "pid"), "-H", f"unix://{self.socket}", "--config-file", str(configuration),
        ]  # fmt: skip


class PodmanEngine(Engine):
    name = "podman"
    program = "podman"
    command = "podman"

    def daemon_command(self) -> list[str]:
        roots = ["--root", str(self.root / "data"), "--runroot", str(self.run), "--cgroup-manager=cgroupfs"]
        return ["podman", *roots, "--runtime=runc", "system", "service", "--time=0", f"unix://{self.socket}"]

    def environment(self) -> dict[str, str]:
        """Limits that a host without CAP_SYS_RESOURCE can set too."""
        configuration = self.root / "containers.conf"
        configuration.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
        registries = self.root / "registries.conf"
        plain = '[[registry]]\nlocation = "127.0.0.1:{}"\ninsecure = true\n'
        registries.write_text("".join(plain.format(port) for port in (5000, 5001)))
        return {"CONTAINERS_CONF": str(configuration), "CONTAINERS_REGISTRIES_CONF": str(registries)}


class BuildahEngine(PodmanEngine):
    """buildah, over a storage of its own; podman's service over the same one loads the image."""

    name = "buildah"
    command = "buildah"
    only = "build,"

    def installed(self) -> bool:
        return super().installed() and shutil.which("buildah") is not None


ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (CoveEngine, DockerEngine, PodmanEngine, BuildahEngine)
}


def busybox_archive(root: Path) -> Path:
    """The image that every engine runs: one static busybox and its links, as a tar."""
    tree = root / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "tmp").mkdir()
    shutil.copy2("/bin/busybox", tree / "bin/busybox")
    for applet in subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if applet != "busybox":
            os.symlink("busybox", tree / "bin" / applet)
    archive = root / "busybox.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "--owner=0", "--group=0", "."], check=True)
    shutil.rmtree(tree)
    return archive
