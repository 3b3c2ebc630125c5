"""Exhibits of the API: whoever reaches it is root on this host.

CVE-2024-41110 and CVE-2026-34040: what decides reads another body than what acts, because a message says two things
about its length. Rebinding and cross-site requests: a browser on the host is no client. CVE-2022-23471 and
CVE-2022-31030: attaching, resizing and executing without end keeps something for each.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Daemon, eventually, new_daemon
from tests.integration.api_client import Api
from tests.integration.faults_world import pids

pytestmark = pytest.mark.root

_TIMES = 300


def _answer(daemon: Daemon, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60 * PATIENCE)
        client.connect(str(daemon.run / "cove.sock"))
        client.sendall(request)
        return client.recv(4096)


_POST = b"POST /v1.51/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_BODY = b'{"Name":"smuggled"}'
_CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKED,
        b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY,
        b"Content-Length: -1\r\n\r\n" + _BODY,
        b"Transfer-Encoding: chunked, identity\r\n\r\n" + _CHUNKED,
    ],
    ids=["length and chunks", "two lengths", "a negative length", "two encodings"],
)
def test_a_message_of_two_lengths_is_refused(daemon: Daemon, rest: bytes) -> None:
    assert _answer(daemon, _POST + rest).split()[1] in (b"400", b"501")
    status = Api(daemon).call("DELETE", "/volumes/smuggled")[0]
    assert status == 404


def test_twin_a_body_in_either_form_is_read(daemon: Daemon) -> None:
    for rest in (
        b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY,
        b"Transfer-Encoding: chunked\r\n\r\n" + _CHUNKED,
    ):
        assert _answer(daemon, _POST + rest).startswith(b"HTTP/1.1 201")
        assert Api(daemon).call("DELETE", "/volumes/smuggled")[0] == 204


def test_the_socket_is_for_root_and_its_group(daemon: Daemon) -> None:
    found = os.stat(daemon.run / "cove.sock")
    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o660)


def test_tcp_without_certificates_is_refused_unless_asked_for_in_words() -> None:
    daemon = new_daemon("-H", "tcp://127.0.0.1:0")
    with pytest.raises(pytest.fail.Exception, match=r"tcp\.certificate"):
        daemon.start()
    shutil.rmtree(daemon.root)


def test_a_container_reaches_no_api(daemon: Daemon) -> None:
    """Neither a socket of ours nor a directory of ours is anywhere in a container."""
    look = "find / -xdev -name 'cove*.sock' 2>/dev/null; ls /run/cove /var/lib/cove 2>/dev/null; cat /proc/net/unix"
    shown = daemon.cove("run", "--rm", "busybox", "sh", "-c", look).stdout
    assert "cove" not in shown and "/" not in shown.replace("Path", "")


@pytest.fixture
def served(daemon: Daemon) -> Iterator[str]:
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "Tty": True, "OpenStdin": True}
    _, made = Api(daemon).call("POST", "/containers/create", body)
    assert Api(daemon).call("POST", f"/containers/{made['Id']}/start")[0] == 204
    yield made["Id"]
    Api(daemon).call("DELETE", f"/containers/{made['Id']}", force=1)


def _held(daemon: Daemon) -> list[int]:
    """Descriptors and threads of the daemon and of its supervisor."""
    found = [*pids(daemon, "daemon"), *pids(daemon, "supervisor")]
    return [len(os.listdir(f"/proc/{pid}/{what}")) for pid in found for what in ("fd", "task")]


def _round(daemon: Daemon, identity: str) -> None:
    """Attach and leave at once, a size, an exec that is begun and one that never is (bad terminals included)."""
    api = Api(daemon)
    head = f"POST /v1.51/containers/{identity}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
    assert b" 101 " in _answer(daemon, head.encode() + b"Upgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
    assert api.call("POST", f"/containers/{identity}/resize", h=20, w=80)[0] == 200
    api.call("POST", f"/containers/{identity}/exec", {"Cmd": ["true"], "Tty": True})
    _, made = api.call("POST", f"/containers/{identity}/exec", {"Cmd": ["/nowhere"], "Tty": True})
    api.send("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    api.call("POST", f"/exec/{made['Id']}/resize", h=20, w=80)


def test_attach_resize_and_exec_keep_nothing(daemon: Daemon, served: str) -> None:
    for _ in range(10):
        _round(daemon, served)
    before = _held(daemon)
    for _ in range(_TIMES // 3):
        _round(daemon, served)
    assert eventually(lambda: all(now <= was + 8 for was, now in zip(before, _held(daemon), strict=True)))
    assert Path(f"/proc/{pids(daemon, 'daemon')[0]}").exists()


def test_twin_who_stays_attached_hears(daemon: Daemon, served: str) -> None:
    assert daemon.cove("exec", served, "echo", "heard").stdout == "heard\n"
