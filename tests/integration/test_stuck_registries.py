"""Registries that keep a transfer waiting: cancelled, it ends at once; pushes that break off are told or repeated."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cove.errors import CoveError
from cove.image.distribution import Policy
from tests.conftest import eventually
from tests.integration.distribution_world import free_port, make_image, noise
from tests.integration.scripted_registry import QUICK, Answer, Client, reply, server, serving

FOR_EVER = Policy(connect_timeout=3600, read_timeout=3600, stall_timeout=3600, certificates=())


@pytest.mark.parametrize("part", ["head", "manifest", "layer"])
@pytest.mark.parametrize("keeps", [True, False], ids=["keeps the connection", "closes it"])
def test_a_cancelled_pull_ends_though_the_registry_says_nothing(part: str, keeps: bool) -> None:
    world = serving([noise(1 << 18)])
    big = max(world.blobs, key=lambda digest: len(world.blobs[digest]))
    waiting, ended, cancel = threading.Event(), threading.Event(), threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> bool:
        if not (handler.path.endswith(big) if part == "layer" else "/manifests/" in handler.path):
            return False
        if part != "head":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(world.blobs[big])))
            if not keeps:
                handler.send_header("Connection", "close")
            handler.end_headers()
        waiting.set()
        ended.wait()
        handler.close_connection = True
        return True

    refused: list[CoveError] = []
    client = Client(FOR_EVER)

    def pull(host: str) -> None:
        try:
            client.pull(f"{host}/app", cancel=cancel)
        except CoveError as error:
            refused.append(error)

    with server(world, wait) as (host, _):
        puller = threading.Thread(target=pull, args=(host,))
        puller.start()
        try:
            assert waiting.wait(20)
            cancel.set()
            assert eventually(lambda: not puller.is_alive())
        finally:
            ended.set()
            puller.join()
    assert "cancelled" in refused[0].message


# ── pushes ────────────────────────────────────────────────────────────────────────────────────────


def _to_push(policy: Policy = QUICK) -> Client:
    client = Client(policy)
    client.world.named["tag:latest"] = make_image(client.world, "", [noise(8 << 20)])
    return client


class Registry:
    """Takes pushes. `interferes(handler)` comes first with a PATCH; True: it has answered, or hung up."""

    def __init__(self, interferes: Answer = lambda _: False) -> None:
        self.interferes = interferes
        self.uploads: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self._numbers = itertools.count()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """HEAD and GET know what is there; POST, PATCH, PUT are one upload after another."""
        method, path = handler.command, handler.path
        name = path.partition("?")[0].rpartition("/")[2]
        if path == "/v2/":
            reply(handler, 200)
        elif method == "HEAD":
            reply(handler, 200 if name in self.blobs else 404)
        elif method == "POST":
            upload = str(next(self._numbers))
            self.uploads[upload] = b""
            reply(handler, 202, headers={"Location": f"/v2/app/blobs/uploads/{upload}"})
        elif method == "GET":
            reply(handler, 204, headers={"Range": f"0-{max(len(self.uploads[name]) - 1, 0)}", "Location": path})
        elif method == "PATCH":
            if not self.interferes(handler):
                self.uploads[name] += handler.rfile.read(int(handler.headers["Content-Length"]))
                reply(handler, 202, headers={"Location": path})
        elif "/manifests/" in path:
            self.blobs[name] = handler.rfile.read(int(handler.headers["Content-Length"]))
            reply(handler, 201)
        else:
            self.blobs[path.partition("digest=")[2].replace("%3A", ":")] = self.uploads[name]
            reply(handler, 201)


@contextlib.contextmanager
def taking(registry: Registry) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def _answer(self) -> None:
            registry.answer(self)

        do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def _some(registry: Registry, handler: BaseHTTPRequestHandler) -> None:
    """The first half of an upload arrives."""
    registry.uploads[handler.path.rpartition("/")[2]] += handler.rfile.read(
        int(handler.headers["Content-Length"]) // 2
    )
    handler.close_connection = True


@pytest.mark.parametrize("how", ["fails", "hangs up", "limits"])
def test_a_push_that_breaks_off_in_the_middle_goes_on(how: str) -> None:
    times: list[float] = []

    def once(handler: BaseHTTPRequestHandler) -> bool:
        times.append(time.monotonic())
        if len(times) > 1:
            return False
        if how == "limits":
            handler.rfile.read(int(handler.headers["Content-Length"]))
            return reply(handler, 429, headers={"Retry-After": "2"})
        _some(registry, handler)
        if how == "fails":
            reply(handler, 500)
        return True

    registry, client = Registry(once), _to_push()
    with taking(registry) as host:
        client.world.register(client.world.named["tag:latest"], [f"{host}/app:latest"])
        digest = client.push(f"{host}/app")
    assert len(times) >= 2
    assert {each: registry.blobs[{digest: "latest"}.get(each, each)] for each in client.world.blobs} == (
        client.world.blobs
    )
    assert how != "limits" or times[1] - times[0] >= 2, "it was asked to wait two seconds"


@pytest.mark.parametrize("how", ["fails", "redirects to nobody", "takes a byte at a time", "answers without end"])
def test_a_push_that_never_gets_on_ends_with_a_sentence(how: str) -> None:
    ended, nobody = threading.Event(), free_port()

    def always(handler: BaseHTTPRequestHandler) -> bool:
        if how == "redirects to nobody":
            handler.rfile.read(int(handler.headers["Content-Length"]))
            return reply(handler, 202, headers={"Location": f"http://127.0.0.1:{nobody}/elsewhere"})
        handler.close_connection = True
        if how == "fails":
            return reply(handler, 500, b"no", {"Content-Type": "text/plain"})
        if how == "answers without end":
            handler.wfile.write(b"HTTP/1.1 500 no\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(OSError):
            while not ended.wait(0.0 if how == "answers without end" else 0.05):
                handler.rfile.read(1) if how == "takes a byte at a time" else handler.wfile.write(b"x" * (1 << 16))
        return True

    registry = Registry(always)
    client = _to_push(Policy(backoff=0.01, connect_timeout=0.5, read_timeout=0.5, attempts=2, certificates=()))
    with taking(registry) as host:
        client.world.register(client.world.named["tag:latest"], [f"{host}/app:latest"])
        try:
            with pytest.raises(CoveError) as refused:
                client.push(f"{host}/app")
        finally:
            ended.set()
    assert "127.0.0.1" in refused.value.message and "\n" not in refused.value.message
    assert not registry.blobs
