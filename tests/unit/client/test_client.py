"""The client against a server that answers exactly what each test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cove.client import ApiError, Client, NoDaemon, connect
from cove.client.address import Address, resolve
from cove.client.codec import values
from cove.client.errors import ProtocolError


class Server:
    """Answers each request on a unix socket with the next of the given answers; keeps what it read."""

    def __init__(self, path: Path, connections: list[list[bytes]]) -> None:
        self.requests: list[bytes] = []
        self._connections = connections
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answers in self._connections:
            stream, _ = self._socket.accept()
            with stream:
                for answer in answers:
                    self.requests.append(self._read(stream))
                    stream.sendall(answer)

    def _read(self, stream: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += stream.recv(65536)
        while b"chunked" in data and not data.endswith(b"0\r\n\r\n"):
            data += stream.recv(65536)
        return data

    def close(self) -> None:
        self._thread.join(5)
        self._socket.close()


@contextmanager
def serving(directory: Path, *connections: list[bytes]) -> Iterator[tuple[Client, Server]]:
    path = directory / "s"
    server = Server(path, list(connections))
    try:
        yield Client(Address(f"unix://{path}", chosen=True)), server
    finally:
        server.close()


def ok(body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(body), body)


def test_one_connection_serves_many_calls(tmp_path: Path) -> None:
    with serving(tmp_path, [ok(b'[{"Id": "1"}]'), ok(b'{"Name": "a/b"}')]) as (client, server):
        assert client.containers.list(filters={"name": ["x y"]}) == [{"Id": "1"}]
        assert client.images.inspect("a/b:1@") == {"Name": "a/b"}
    assert b"GET /containers/json?all=0&filters=%7B%22name%22:%5B%22x%20y%22%5D%7D HTTP/1.1" in server.requests[0]
    assert server.requests[1].startswith(b"GET /images/a/b:1@/json ")


def test_a_connection_that_went_stale_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, [ok(b"{}")], [ok(b'{"a": 1}')]) as (client, _):
        client.system.version()
        assert client.system.version() == {"a": 1}


def test_errors_carry_the_daemons_sentence(tmp_path: Path) -> None:
    body = b'{"message":"No such container: x"}'
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with serving(tmp_path, [answer]) as (client, _), pytest.raises(ApiError, match="No such container: x") as caught:
        client.containers.inspect("x")
    assert caught.value.status == 404


def test_messages_arrive_torn_and_chunked(tmp_path: Path) -> None:
    chunks = [b'{"status":"a"}\r\n{"sta', b'tus":"b"}\r\n', b'{"status":\n "c"}']
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(tmp_path, [head + body]) as (client, server):
        found = list(client.images.load(iter([b"tar", b"ball"]), quiet=False))
    assert [message["status"] for message in found] == ["a", "b", "c"]
    assert server.requests[0].endswith(b"3\r\ntar\r\n4\r\nball\r\n0\r\n\r\n")


def test_a_hijacked_stream_keeps_what_came_with_the_head(tmp_path: Path) -> None:
    head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\r\nearly"
    with serving(tmp_path, [head]) as (client, _):
        stream = client.containers.attach("x", stream=True, stdout=True)
        assert stream.waiting()
        assert stream.receive() == b"early"
        assert stream.receive() == b""
        stream.close()


def test_an_answer_cut_short_is_no_answer(tmp_path: Path) -> None:
    with (
        serving(tmp_path, [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}"]) as (client, _),
        pytest.raises(ProtocolError, match="in the middle"),
    ):
        client.system.version()


def test_where_the_daemon_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://[::1]:99")
    monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
    assert (resolve().host, resolve().port) == ("::1", 99)
    monkeypatch.setenv("COVE_HOST", "unix:///nowhere/s")
    assert resolve().path == "/nowhere/s"
    assert resolve("tcp://h").port == 2375
    with pytest.raises(NoDaemon, match="no such file"):
        connect()


def test_values_of_a_stream() -> None:
    assert list(values([b"[1]", b"\n2\n\n", b'"x\\u00e9"'])) == [[1], 2, "xé"]
