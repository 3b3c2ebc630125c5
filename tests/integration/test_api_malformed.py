"""What is no request, or half of one: one clear answer each, and nothing is left open for it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Daemon, eventually
from tests.integration.api_client import Api

HOST = b"Host: x\r\n"
CREATE = b"POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST
CHUNKED = CREATE + b"Transfer-Encoding: chunked\r\n\r\n"


def talk(daemon: Daemon, *pieces: bytes, half: bool = False) -> bytes:
    """Send, perhaps end the sending side, and read until the server closes; each piece is a packet of its own."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30 * PATIENCE)
        sock.connect(str(daemon.run / "cove.sock"))
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.02 * (len(pieces) > 1))
        if half:
            sock.shutdown(socket.SHUT_WR)
        found = b""
        while data := sock.recv(1 << 16):
            found += data
        return found


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (b"\x00\x01\x02garbage\r\n\r\n", 400, "illegal request line: '"),
        (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(500) + b"\r\n\r\n", 400, "illegal request line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP 2.0 is not spoken here"),
        (b"GET /info HTTP/2.0\r\n" + HOST + b"\r\n", 505, "HTTP 2.0 is not spoken here"),
        (b"GE T /info HTTP/1.1\r\n" + HOST + b"\r\n", 400, "illegal request line: 'GE T"),
        (b"GET /info HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, "multiple Host"),
        (b"GET /info HTTP/1.1\r\nX : y\r\n" + HOST + b"\r\n", 400, "illegal header line: 'X : y'"),
        (b"GET /info HTTP/1.1\r\nX: " + b"y" * 300_000 + b"\r\n" + HOST + b"\r\n", 431, "too long|are longer"),
        (b"GET /info HTTP/1.1\r\n" + b"A: b\r\n" * 60_000 + HOST + b"\r\n", 431, "too long|are longer"),
        (CREATE + b"Content-Length: -5\r\n\r\n", 400, "bad Content-Length"),
        (CREATE + b"Content-Length: 99999999999999999999\r\n\r\n", 400, "bad Content-Length"),
        (CREATE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400, "conflicting Content-Length"),
        (CREATE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400, "two things"),
        (CREATE + b"Transfer-Encoding: gzip\r\n\r\n", 501, "Only Transfer-Encoding: chunked"),
        (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400, "illegal chunk header: 'zz"),
        (CHUNKED + b"2\r\n{}XX0\r\n\r\n", 400, "malformed chunk footer"),
        (CHUNKED + b"2;" + b"x" * 600_000, 400, "no valid HTTP"),
    ],
)
def test_what_is_no_request_gets_one_answer(daemon: Daemon, request_: bytes, status: int, words: str) -> None:
    answer = talk(daemon, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert answer.count(b"HTTP/1.1 ") == 1
    message = json.loads(body)["message"]
    assert any(word in message for word in words.split("|")), message
    assert "bytearray" not in message and len(message) < 400


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 100_000, b'{"Labels":' + b'{"a":' * 50_000, b"NaN", b"{"]
)
def test_json_that_is_none_is_refused(daemon: Daemon, body: bytes) -> None:
    status, answer = Api(daemon).call("POST", "/containers/create", body)
    assert (status, "JSON" in answer["message"]) == (400, True)


def test_a_client_that_stops_in_the_middle_is_told(daemon: Daemon) -> None:
    answer = talk(daemon, CREATE + b'Content-Length: 10\r\n\r\n{"a', half=True)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"ends too early" in answer
    answer = talk(daemon, b"GET /inf", half=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert talk(daemon, b"", half=True) == b""


def test_requests_come_in_pieces_or_all_at_once(daemon: Daemon) -> None:
    ping, last = b"GET /_ping HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /nope HTTP/1.1\r\nConnection: close\r\n" + HOST
    answer = talk(daemon, ping * 3 + last + b"\r\n")
    assert [answer.count(line) for line in (b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ")] == [3, 1]
    answer = talk(daemon, b"GET /_ping HT", b"TP/1.1\r\nHo", b"st: x\r", b"\n\r", b"\n", half=True)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    body = CHUNKED + b"1\r\n{\r\n", b"1\r\n}\r\n", b"0\r\n\r\n"
    assert b"no image was named" in talk(daemon, *body, half=True)
    whole = b"GET http://anything/_ping HTTP/1.1\r\n" + HOST + b"\r\n"
    assert talk(daemon, whole, half=True).endswith(b"OK")


def test_nothing_is_left_of_clients_that_went(daemon: Daemon) -> None:
    assert daemon.process is not None
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")

    Api(daemon).call("GET", "/info")
    before = len(os.listdir(descriptors)) + 2
    watching = b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n"
    for request in (watching, b"GET /inf", CREATE + b"Content-Length: 10\r\n\r\n{", b""):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(100)]
        for client in clients:
            client.connect(str(daemon.run / "cove.sock"))
            client.sendall(request)
        assert Api(daemon).call("GET", "/info")[0] == 200
        for client in clients:
            client.close()
        assert eventually(lambda: len(os.listdir(descriptors)) <= before), request
