"""What makes traffic for the rows of networks: plain sockets, made inside a process's network namespace.

    traffic.py serve PID ADDRESS PORT            answers all of the below, until it is ended
    traffic.py stream PID ADDRESS PORT           Gbit/s of one TCP connection, for a second
    traffic.py requests PID ADDRESS PORT         microseconds of a request on a kept connection (median)
    traffic.py connections PID ADDRESS PORT      microseconds of a request on a connection of its own (median)
    traffic.py names PID NAME SERVER             DNS questions answered a second, 32 open at a time

A request is 64 bytes, and so is its answer.
"""

from __future__ import annotations

import socket
import statistics
import sys
import threading
import time
from contextlib import AbstractContextManager

from cove.kernel.namespaces import in_network

_SIZE = 64
_STREAM = b"s" * _SIZE
_CHUNK = 1 << 18
_SECONDS = 1.0
_OPEN = 32
_NAMES = 3000


def inside(pid: int) -> AbstractContextManager[None]:
    """This thread in the network namespace of a process; sockets made there stay there."""
    return in_network(f"/proc/{pid}/ns/net")


def serve(pid: int, address: str, port: int) -> None:
    with inside(pid):
        listener = socket.create_server((address, port), backlog=512)
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(_CHUNK)
    with client:
        try:
            while size := client.recv_into(buffer, _SIZE):
                if buffer[:1] == _STREAM[:1]:
                    _swallow(client, buffer, size)
                    return
                client.sendall(buffer[:size])
        except ConnectionError:
            return


def _swallow(client: socket.socket, buffer: bytearray, total: int) -> None:
    while size := client.recv_into(buffer):
        total += size
    client.sendall(total.to_bytes(8))


def connect(pid: int, address: str, port: int) -> socket.socket:
    with inside(pid):
        made = socket.create_connection((address, port), 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def stream(pid: int, address: str, port: int) -> float:
    chunk = _STREAM * (_CHUNK // _SIZE)
    with connect(pid, address, port) as server:
        began = time.perf_counter()
        while time.perf_counter() - began < _SECONDS:
            server.sendall(chunk)
        server.shutdown(socket.SHUT_WR)
        total = int.from_bytes(server.recv(8, socket.MSG_WAITALL))
        return total * 8 / (time.perf_counter() - began) / 1e9


def _request(server: socket.socket) -> None:
    server.sendall(b"r" * _SIZE)
    if len(server.recv(_SIZE, socket.MSG_WAITALL)) < _SIZE:
        raise RuntimeError("the answer is cut short")


def requests(pid: int, address: str, port: int) -> float:
    with connect(pid, address, port) as server:
        return _median(lambda: _request(server), 2000)


def connections(pid: int, address: str, port: int) -> float:
    def one() -> None:
        with connect(pid, address, port) as server:
            _request(server)

    return _median(one, 300)


def _median(work: object, times: int) -> float:
    assert callable(work)
    figures = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        figures.append((time.perf_counter() - began) * 1e6)
    return statistics.median(figures)


def names(pid: int, name: str, server: str) -> float:
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    question = b"\x01\x00\x00\x01\0\0\0\0\0\0" + labels + b"\0\0\x01\0\x01"
    with inside(pid):
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asker.connect((server, 53))
    asker.settimeout(5)
    with asker:
        for number in range(_OPEN):
            asker.send(number.to_bytes(2) + question)
        began = time.perf_counter()
        for number in range(_OPEN, _NAMES + _OPEN):
            answer = asker.recv(2048)
            if answer[3] & 15 or not int.from_bytes(answer[6:8]):
                raise RuntimeError(f"{name} has no address")
            asker.send(number.to_bytes(2) + question)
        return _NAMES / (time.perf_counter() - began)


def main() -> None:
    what, pid, first, last = sys.argv[1:]
    if what == "serve":
        serve(int(pid), first, int(last))
    elif what == "names":
        print(names(int(pid), first, last))
    else:
        work = {"stream": stream, "requests": requests, "connections": connections}[what]
        print(work(int(pid), first, int(last)))


if __name__ == "__main__":
    main()
