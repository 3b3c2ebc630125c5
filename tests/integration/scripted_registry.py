"""A registry in this process that serves a made-up world, or lies as a test wants, and a client beside it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cove.image.distribution import Distribution, Policy
from cove.oci.reference import Reference
from tests.integration.distribution_world import World, make_image

QUICK = Policy(backoff=0.01, longest_wait=3, read_timeout=60)


class Client:
    def __init__(self, policy: Policy = QUICK) -> None:
        self.world = World()
        self.messages: list[dict[str, Any]] = []
        self.distribution = Distribution(self.world, self.world, self.world, policy)

    def pull(self, name: str, **options: Any) -> Any:
        return self.distribution.pull(Reference.parse(name), progress=self.messages.append, **options)

    def push(self, name: str, **options: Any) -> str:
        return self.distribution.push(Reference.parse(name), progress=self.messages.append, **options)

    @property
    def statuses(self) -> list[str]:
        return [message.get("status", "") for message in self.messages]


Answer = Callable[[BaseHTTPRequestHandler], bool]


@contextmanager
def server(
    world: World,
    answer: Answer = lambda _: False,
    tls: tuple[Path, Path] | None = None,
    configure: Callable[[ssl.SSLContext], None] = lambda _: None,
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A registry that serves `world`, unless `answer` has already answered (True). Yields host and requests."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            if answer(self):
                return
            _, _, what = self.path.rpartition("/")
            data = world.blobs.get(world.named.get(f"tag:{what}", what), b"{}" if self.path == "/v2/" else b"")
            kind = json.loads(data).get("mediaType", "") if "/manifests/" in self.path and data else ""
            reply(self, 200 if data else 404, data, {"Content-Type": kind} if kind else {})

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        configure(context)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_port}", seen
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def reply(
    handler: BaseHTTPRequestHandler, status: int, data: bytes = b"", headers: dict[str, str] | None = None
) -> bool:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
    return True


def serving(contents: list[bytes]) -> World:
    world = World()
    world.named["tag:latest"] = make_image(world, "", contents)
    return world
