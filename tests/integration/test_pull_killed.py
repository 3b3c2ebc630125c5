"""A daemon that is killed in the middle of a download: the next one goes on where it stopped, and nothing stays."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, Daemon, eventually
from tests.integration.distribution_world import noise
from tests.integration.scripted_registry import reply, server, serving

pytestmark = pytest.mark.root

_SIZE, _SENT = 4 << 20, 2 << 20


def _arrived(data: Path, digest: str) -> int:
    """The bytes of a download that is under way."""
    path = data / "image/partial" / digest.replace(":", "-")
    return path.stat().st_size if path.exists() else 0


def test_sigkill_in_the_middle_of_a_blob(own_daemon: Daemon) -> None:
    world = serving([noise(_SIZE), b"two"])
    big = max((digest for digest in world.blobs), key=lambda digest: len(world.blobs[digest]))
    asked: list[str | None] = []
    waiting, go_on = threading.Event(), threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> bool:
        if not handler.path.endswith(big):
            return False
        wanted, data = handler.headers.get("Range"), world.blobs[big]
        asked.append(wanted)
        if wanted:
            start = int(wanted[6:-1])
            told = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return reply(handler, 206, data[start:], told)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:_SENT])
        waiting.set()
        go_on.wait(60 * PATIENCE)
        handler.close_connection = True
        return True

    with server(world, stall) as (host, _):
        pull = subprocess.Popen(
            [BIN / "cove", "pull", f"{host}/app"],
            env={"COVE_HOST": own_daemon.host, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert waiting.wait(30 * PATIENCE)
        assert eventually(lambda: _arrived(own_daemon.data, big) == _SENT)
        own_daemon.kill()
        go_on.set()
        assert pull.wait(30 * PATIENCE), "the client is told"
        assert _arrived(own_daemon.data, big) == _SENT
        own_daemon.start()
        assert own_daemon.cove("images", "-q", f"{host}/app").stdout == "", "nothing is named"
        own_daemon.cove("pull", "-q", f"{host}/app")
        assert asked == [None, f"bytes={_SENT}-"], "only the rest was asked for"
        assert not list((own_daemon.data / "image/partial").iterdir())
        unfinished = [path for path in (own_daemon.data / "layers").iterdir() if path.name[0] == "."]
        assert eventually(lambda: not any(path.exists() for path in unfinished))
        layers = own_daemon.data / "layers"
        assert any((path / "file0").exists() for path in layers.iterdir() if path.is_dir())
        own_daemon.cove("rmi", f"{host}/app")
