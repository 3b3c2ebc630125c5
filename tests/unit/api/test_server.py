"""The HTTP server over a real unix socket, with an application made for the test."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cove.api.http import Channel, Hijack, Reply, Request, Response, Stream
from cove.api.server import Server, bind_unix
from cove.errors import Conflict, NotFound

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Records what happened to its requests."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.finished = asyncio.Event()
        self.entered = asyncio.Event()

    async def __call__(self, request: Request) -> Reply:
        name = request.target.removeprefix("/")
        handler: Callable[[Request], Awaitable[Reply]] = getattr(self, f"on_{name}")
        return await handler(request)

    async def on_hello(self, request: Request) -> Reply:
        return Response(body=b"hello")

    async def on_missing(self, request: Request) -> Reply:
        raise NotFound("No such thing")

    async def on_broken(self, request: Request) -> Reply:
        raise ZeroDivisionError

    async def on_size(self, request: Request) -> Reply:
        size = 0
        async for part in request.body:
            size += len(part)
        return Response(body=str(size).encode())

    async def on_ignore(self, request: Request) -> Reply:
        return Response(body=b"ignored")

    async def on_forever(self, request: Request) -> Reply:
        self.entered.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Response()

    async def on_change(self, request: Request) -> Reply:
        self.entered.set()
        await asyncio.sleep(0.2)
        self.finished.set()
        return Response()

    async def on_count(self, request: Request) -> Reply:
        return Stream(self._numbers())

    async def _numbers(self) -> AsyncIterator[bytes]:
        try:
            for number in range(3):
                yield f"{number}\n".encode()
                await asyncio.sleep(0)
        finally:
            self.finished.set()

    async def on_flood(self, request: Request) -> Reply:
        return Stream(self._flood())

    async def _flood(self) -> AsyncIterator[bytes]:
        self.sent = 0
        try:
            while True:
                yield b"x" * 65536
                self.sent += 65536
        finally:
            self.finished.set()

    async def on_echo(self, request: Request) -> Reply:
        async def run(channel: Channel) -> None:
            while data := await channel.read():
                await channel.write(data.upper())
            await channel.write(b"<end>")

        return Hijack(head=b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", run=run)

    async def on_silent(self, request: Request) -> Reply:
        async def run(channel: Channel) -> None:
            try:
                assert await channel.read() == b""
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        return Hijack(head=b"HTTP/1.1 200 OK\r\n\r\n", run=run)


def run(tmp_path: Path, test: Callable[[Application, Path], Awaitable[None]]) -> None:
    """Run `test` against a server, and see that nothing is left connected."""

    async def main() -> None:
        app = Application()
        server = Server(app)
        await server.listen_unix(tmp_path / "s")
        try:
            async with asyncio.timeout(10):
                await test(app, tmp_path / "s")
        finally:
            await server.close(grace=1)
        assert not (tmp_path / "s").exists()
        await asyncio.sleep(0.05)
        assert not server.connections

    asyncio.run(main())


async def converse(path: Path, *requests: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    for request in requests:
        writer.write(request)
        await writer.drain()
    try:
        return await reader.read()
    finally:
        writer.close()


def get(name: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /{name} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


CLOSE = "Connection: close"


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        said = await converse(path, get("hello") + get("missing") + get("count", CLOSE))
        assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404", b"200"]
        assert b'{"message":"No such thing"}' in said
        assert said.endswith(b"2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n")

    run(tmp_path, test)


def test_what_is_not_foreseen_is_500_without_a_traceback(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        said = await converse(path, get("broken", CLOSE))
        assert said.startswith(b"HTTP/1.1 500")
        assert b"ZeroDivision" not in said

    run(tmp_path, test)


def test_head_has_no_body(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        said = await converse(path, get("hello", CLOSE, method="HEAD"))
        assert said.endswith(b"\r\n\r\n")
        assert b"Content-Length: 5" in said

    run(tmp_path, test)


def test_a_client_that_waits_for_100_is_told_to_go_on(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get("size", "Content-Length: 5", "Expect: 100-continue", CLOSE, method="POST"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"12345")
        assert (await reader.read()).endswith(b"\r\n\r\n5")
        writer.close()

    run(tmp_path, test)


def test_a_large_chunked_upload_is_streamed(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        head = get("size", "Transfer-Encoding: chunked", CLOSE, method="POST")
        assert (await converse(path, head, *[chunk] * 20, b"0\r\n\r\n")).endswith(str(20 << 20).encode())

    run(tmp_path, test)


def test_a_reply_before_the_upload_ended_is_still_read(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get("ignore", f"Content-Length: {50 << 20}", method="POST"))
        writer.write(b"x" * (8 << 20))
        assert b"ignored" in await reader.read()
        writer.close()

    run(tmp_path, test)


def test_a_hijacked_connection_carries_bytes_and_the_end_of_stdin(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        head = get("echo", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 2", method="POST")
        writer.write(head + b"{}" + b"early ")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 UPGRADED")
        writer.write(b"late")
        assert await reader.readexactly(10) == b"EARLY LATE"
        writer.write_eof()
        assert await reader.read() == b"<end>"
        writer.close()

    run(tmp_path, test)


def test_a_client_that_closes_a_silent_stream_is_noticed(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get("silent", method="POST"))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await app.cancelled.wait()

    run(tmp_path, test)


@pytest.mark.parametrize("half", [True, False])
def test_a_watcher_that_leaves_is_cancelled(tmp_path: Path, half: bool) -> None:
    async def test(app: Application, path: Path) -> None:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(get("forever"))
        await app.entered.wait()
        if half:
            writer.write_eof()
        else:
            writer.close()
        await app.cancelled.wait()
        writer.close()

    run(tmp_path, test)


def test_a_change_is_finished_though_its_client_left(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(get("change", method="POST"))
        await app.entered.wait()
        writer.close()
        await app.finished.wait()

    run(tmp_path, test)


def test_a_connection_reset_while_idle_is_forgotten(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        sock.sendall(get("hello"))
        await asyncio.sleep(0.1)
        sock.close()  # with the reply unread, so that the server sees ECONNRESET and no end of file
        await asyncio.sleep(0.1)
        assert not [task for task in asyncio.all_tasks() if "_serve" in repr(task.get_coro())]

    run(tmp_path, test)


def test_a_slow_reader_holds_the_stream_back(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        sock.sendall(get("flood"))
        await asyncio.sleep(0.3)
        assert 0 < app.sent < 4 << 20
        sock.close()
        await app.finished.wait()

    run(tmp_path, test)


def test_what_is_no_http_is_refused(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        assert (await converse(path, b"SSH-2.0-x\r\n\r\n")).startswith(b"HTTP/1.1 400")
        long = get("hello", "X: " + "y" * 1_000_000)
        assert (await converse(path, long)).startswith(b"HTTP/1.1 431")

    run(tmp_path, test)


def test_a_socket_in_use_is_not_taken(tmp_path: Path) -> None:
    async def test(app: Application, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(Conflict):
            bind_unix(path)

    run(tmp_path, test)


def test_on_tcp_web_pages_and_foreign_names_are_refused() -> None:
    async def main() -> None:
        server = Server(Application())
        tls: ssl.SSLContext | None = None
        host, port = await server.listen_tcp("127.0.0.1", 0, tls=tls, names={"box"})

        async def ask(*headers: str) -> bytes:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write("\r\n".join(["GET /hello HTTP/1.1", *headers, CLOSE, "", ""]).encode())
            said = await reader.read()
            writer.close()
            return said

        try:
            assert (await ask("Host: evil.example")).startswith(b"HTTP/1.1 403")
            assert (await ask("Host: box", "Origin: http://box")).startswith(b"HTTP/1.1 403")
            assert (await ask("Host: box:2376")).startswith(b"HTTP/1.1 200")
            assert (await ask(f"Host: 127.0.0.1:{port}")).startswith(b"HTTP/1.1 200")
        finally:
            await server.close(grace=1)

    asyncio.run(main())
