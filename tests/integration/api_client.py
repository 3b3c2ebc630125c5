"""A plain client of the Engine API for tests: one request, its status and what its body says."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

from tests.conftest import PATIENCE, Daemon


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60 * PATIENCE)
        self.sock.connect(self._path)


class Api:
    """The API of one daemon, at one version."""

    def __init__(self, daemon: Daemon, version: str = "1.56") -> None:
        self.path = str(daemon.run / "cove.sock")
        self._version = version

    def send(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json", **query: object
    ) -> tuple[int, bytes]:
        """One request; a body that is no bytes is sent as JSON."""
        connection = Connection(self.path)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        target = f"/v{self._version}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        try:
            connection.request(method, target, data, {"Content-Type": kind} if data is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None, **query: object) -> tuple[int, Any]:
        """The same with the reply's JSON, None where there is none."""
        status, data = self.send(method, path, body, **query)
        return status, json.loads(data) if data.strip() else None
