"""A program's readiness comes to the service manager of `cove-oci`'s caller (sd_notify(3))."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, PATIENCE, catches
from tests.integration.bundles import SLEEP, Bundle, bundle, config, create, good, name, status, until

__all__ = ["bundle", "name"]

pytestmark = pytest.mark.root


class Manager:
    """A service manager's socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{path[1:]}" if path.startswith("@") else path)
        self._socket.settimeout(20 * PATIENCE)

    def hears(self) -> str:
        """The next message; a barrier is answered."""
        said, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
        for fd in fds:
            os.close(fd)
        return said.decode()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(monkeypatch: pytest.MonkeyPatch, path: str) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    made = Manager(path)
    try:
        yield made
    finally:
        made.close()


def tell(bundle: Bundle, name: str, *said: bytes) -> None:
    """Say it where the program would: at the place that its environment names, in its own root."""
    pid = bundle.pid(name)
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (place,) = [each.partition(b"=")[2] for each in environment if each.startswith(b"NOTIFY_SOCKET=")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
        program.connect(f"/proc/{pid}/root{place.decode()}")
        for each in said:
            program.send(each)


def began(bundle: Bundle, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "cove-oci"), "--root", str(bundle.state), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def running(bundle: Bundle, name: str) -> Callable[[], bool]:
    return lambda: (bundle.state / name / "state.json").exists() and status(bundle, name) == "running"


def in_user_namespace(content: dict[str, Any]) -> dict[str, Any]:
    linux = content["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 300000, "size": 65536}]
    return content


@pytest.mark.parametrize("change", [dict, in_user_namespace], ids=["host's users", "user namespace"])
@pytest.mark.parametrize("abstract", [False, True])
def test_start_waits_until_the_program_is_ready(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch, change: Callable[..., dict[str, Any]], abstract: bool
) -> None:
    path = f"@cove-{name}" if abstract else f"{bundle.path}/{name}.sock"
    with manager(monkeypatch, path) as host:
        content = config(*SLEEP)
        content["process"]["env"].append("NOTIFY_SOCKET=/somewhere/else")
        create(bundle, name, change(content))
        start = began(bundle, "start", name)
        until(running(bundle, name))
        tell(bundle, name, b"STATUS=half done")
        assert start.poll() is None
        tell(bundle, name, b"STATUS=done\nREADY=1")
        assert [host.hears() for _ in range(3)] == ["READY=1\n", f"MAINPID={bundle.pid(name)}\n", "BARRIER=1"]
        assert start.wait(20 * PATIENCE) == 0
        good(bundle, "delete", "--force", name)
        assert not (bundle.state / name).exists()


def test_start_returns_when_the_program_ends_unready(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with manager(monkeypatch, f"{bundle.path}/{name}.sock"):
        create(bundle, name, config("true"))
        good(bundle, "start", name)
        until(lambda: status(bundle, name) == "stopped")


def test_run_in_the_foreground_is_the_main_process_itself(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with manager(monkeypatch, f"{bundle.path}/{name}.sock") as host:
        bundle.write(config(*SLEEP))
        run = began(bundle, "run", "--bundle", str(bundle.path), name)
        until(running(bundle, name))
        tell(bundle, name, b"READY=1")
        assert [host.hears() for _ in range(2)] == ["READY=1\n", f"MAINPID={run.pid}\n"]
        until(lambda: catches(bundle.pid(name), signal.SIGTERM))
        run.send_signal(signal.SIGTERM)
        assert run.wait(20 * PATIENCE) == 9


def test_run_detached_waits_too(bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with manager(monkeypatch, f"{bundle.path}/{name}.sock") as host:
        bundle.write(config(*SLEEP))
        run = began(bundle, "run", "--detach", "--bundle", str(bundle.path), name)
        until(running(bundle, name))
        tell(bundle, name, b"READY=1")
        assert host.hears() == "READY=1\n"
        assert host.hears() == f"MAINPID={bundle.pid(name)}\n"
        assert host.hears() == "BARRIER=1"
        assert run.wait(20 * PATIENCE) == 0


def test_a_service_manager_that_went_away_is_a_warning(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{bundle.path}/nobody.sock")
    create(bundle, name, config(*SLEEP))
    start = subprocess.Popen(
        [str(BIN / "cove-oci"), "--root", str(bundle.state), "start", name], stderr=subprocess.PIPE, text=True
    )
    until(running(bundle, name))
    tell(bundle, name, b"READY=1")
    assert "was not told that the program is ready" in start.communicate(timeout=20 * PATIENCE)[1]
    assert start.returncode == 0


def test_without_a_service_manager_there_is_no_socket(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert bundle.out(config("sh", "-c", "echo ${NOTIFY_SOCKET-none}; ls -d /run/notify 2>&1")).startswith("none\n")
