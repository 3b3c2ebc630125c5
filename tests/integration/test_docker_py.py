"""docker-py, unmodified, against the daemon."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import docker
import pytest

from tests.conftest import Daemon, eventually


@pytest.fixture
def client(daemon: Daemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=daemon.host.replace("unix://", "unix://"))
    yield client
    client.close()


def test_run_returns_output(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"


def test_a_failing_run_raises_with_its_code(client: docker.DockerClient) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "exit 4"], remove=True)
    assert caught.value.exit_status == 4


def test_exec_logs_stats_top(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "echo one; exec sleep 60"], detach=True)
    try:
        assert container.exec_run(["sh", "-c", "echo two; exit 6"]) == (6, b"two\n")
        assert container.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True).output == (b"o\n", b"e\n")
        assert eventually(lambda: container.logs() == b"one\n")
        assert container.stats(stream=False)["memory_stats"]["usage"] > 0
        assert eventually(lambda: any("sleep" in " ".join(row) for row in container.top()["Processes"]))
        container.reload()
        assert container.attrs["State"]["Running"] is True
    finally:
        container.remove(force=True)


def test_logs_right_after_a_start_wait_for_the_first_words(client: docker.DockerClient) -> None:
    def says() -> bytes:
        container = client.containers.run("busybox", ["sh", "-c", "usleep 10000; echo said"], detach=True)
        try:
            return container.logs()
        finally:
            container.remove(force=True)

    assert eventually(lambda: says() == b"said\n")  # a busy host may need longer than they wait


def test_a_program_that_says_nothing_keeps_no_reader(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sleep", "60"], detach=True)
    try:
        assert container.logs() == b""
        assert container.logs() == b""
    finally:
        container.remove(force=True)


def test_images(client: docker.DockerClient) -> None:
    image = client.images.get("busybox")
    assert "busybox:latest" in image.tags
    assert image.tag("other", "v1")
    assert "other:v1" in client.images.get("busybox").tags
    client.images.remove("other:v1")
    assert [i.id for i in client.images.list("busybox")] == [image.id]
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("no-such-image")


def test_save_and_load(client: docker.DockerClient) -> None:
    image = client.images.get("busybox")
    saved = b"".join(image.save(named="busybox:latest"))
    (loaded,) = client.images.load(saved)
    assert loaded.id == image.id


def test_a_followed_log_comes_line_by_line(client: docker.DockerClient) -> None:
    script = "echo 1; echo 2; echo 3"
    assert list(client.containers.run("busybox", ["sh", "-c", script], stream=True)) == [b"1\n", b"2\n", b"3\n"]


def test_attach_carries_stdin_and_both_outputs(client: docker.DockerClient) -> None:
    container = client.containers.create("busybox", ["cat"], stdin_open=True)
    try:
        attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        container.start()
        attached._sock.sendall(b"hello\n")
        assert attached._sock.recv(14, socket.MSG_WAITALL) == b"\x01\0\0\0\0\0\0\x06hello\n"
        attached._sock.shutdown(socket.SHUT_WR)
        assert container.wait(timeout=60)["StatusCode"] == 0
        attached.close()
    finally:
        container.remove(force=True)


def test_a_quiet_load_is_answered_when_it_is_done(client: docker.DockerClient, daemon: Daemon) -> None:
    """Clients that want to hear nothing of it close the answer unread."""
    client.images.get("busybox").tag("quiet", "1")
    saved = b"".join(client.images.get("busybox").save(named="quiet:1"))
    client.images.remove("quiet:1")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(daemon.host.removeprefix("unix://"))
        head = f"POST /images/load?quiet=1 HTTP/1.1\r\nHost: d\r\nContent-Length: {len(saved)}\r\n\r\n"
        connection.sendall(head.encode() + saved)
        assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    client.images.remove("quiet:1")


def test_older_clients_see_an_images_volumes_where_they_look(daemon: Daemon) -> None:
    for version, shown in (("1.41", True), ("1.45", False)):
        client = docker.APIClient(base_url=daemon.host, version=version)
        image = client.inspect_image("busybox")
        assert ("ContainerConfig" in image, "VirtualSize" in image) == (shown, shown)
        client.close()
