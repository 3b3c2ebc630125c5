"""Large directories: only what changed is sent, whatever changed, and the result is that of the whole directory."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Daemon, below, eventually
from tests.integration.test_build import context

_SETTLED = 2.5
"""Seconds after which a file that was written is no longer younger than a build of it."""


@contextmanager
def counting(daemon: Daemon, place: Path) -> Iterator[list[int]]:
    """A socket that leads to the daemon's, and how many bytes went that way."""
    counts = [0]
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(place))
        door.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = door.accept()
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(daemon.host.removeprefix("unix://"))
                    for pair, count in (((client, server), counts), ((server, client), [0])):
                        threading.Thread(target=_pass_on, args=(*pair, count), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield counts
        door.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket, count: list[int]) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            count[0] += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _large(top: Path) -> Path:
    """A directory that is too large for memory."""
    where = context(top / "c", "FROM busybox\nCOPY . /x\nRUN rm /x/large\n", a="1", sub__b="2", gone__c="3")
    (where / "large").write_bytes(os.urandom(20 << 20))
    os.symlink("a", where / "soft")
    os.link(where / "a", where / "hard")
    return where


@pytest.fixture(scope="module")
def settled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A large directory for each test that wants one, all of which have become old enough at once."""
    wanted = sum("large" in getattr(item, "fixturenames", ()) for item in request.session.items)
    directories = [_large(tmp_path_factory.mktemp("large")) for _ in range(wanted)]
    time.sleep(_SETTLED)
    return iter(directories)


@pytest.fixture
def large(settled: Iterator[Path]) -> Path:
    return next(settled)


def seen(daemon: Daemon, where: Path, place: Path, *words: str) -> tuple[str, int]:
    """What a build's image has, and how much was sent for it."""
    place.unlink(missing_ok=True)
    with counting(daemon, place) as counts:
        image = daemon.cove("-H", f"unix://{place}", "build", "-q", *words, str(where)).stdout.strip()
    script = "cd /x && find . | sort && cat a sub/* && stat -c '%a %h' a sub/b"
    return daemon.cove("run", "--rm", image, "sh", "-c", script).stdout, counts[0]


def test_only_what_changed_is_sent(daemon: Daemon, large: Path, tmp_path: Path) -> None:
    place = tmp_path / "s"
    first, sent = seen(daemon, large, place)
    assert sent > 20 << 20 and "./hard" in first
    again, sent = seen(daemon, large, place)
    assert again == first and sent < 1 << 20
    assert daemon.cove("build", str(large)).stderr.count("CACHED") == 2

    (large / "sub/b").write_text("changed")
    os.chmod(large / "a", 0o640)
    shutil.rmtree(large / "gone")
    (large / "soft").unlink()
    (large / "soft").mkdir()
    (large / "soft/in").write_text("now a directory")
    changed, sent = seen(daemon, large, place)
    assert sent < 1 << 20 and "1changed" in changed and "640 2" in changed
    assert "./soft/in" in changed and "./gone" not in changed
    shutil.copytree(large, tmp_path / "fresh", symlinks=True)
    assert changed.replace("640 2", "640 1") == seen(daemon, tmp_path / "fresh", place, "--no-cache")[0].replace(
        "640 2", "640 1"
    )


def test_a_file_whose_time_tells_nothing_is_sent_again(daemon: Daemon, large: Path, tmp_path: Path) -> None:
    """Tools that set whole seconds, or a time back: same size, same time, other content."""
    place = tmp_path / "s"
    os.utime(large / "sub/b", (1_000_000_000, 1_000_000_000))
    first, _ = seen(daemon, large, place)
    (large / "sub/b").write_text("9")
    os.utime(large / "sub/b", (1_000_000_000, 1_000_000_000))
    second, sent = seen(daemon, large, place)
    assert first != second and "19" in second and sent < 1 << 20
    assert seen(daemon, large, place)[0] == second


def test_the_copy_is_shown_and_pruned(own_daemon: Daemon, large: Path, tmp_path: Path) -> None:
    place = tmp_path / "s"
    first, _ = seen(own_daemon, large, place)
    assert f"local source for {large}" in own_daemon.cove("system", "df", "-v").stdout
    own_daemon.cove("builder", "prune", "-af")
    assert "local source for" not in own_daemon.cove("system", "df", "-v").stdout
    again, sent = seen(own_daemon, large, place)
    assert again == first and sent > 20 << 20


def test_a_dockerfile_from_elsewhere(daemon: Daemon, large: Path, tmp_path: Path) -> None:
    place = tmp_path / "s"
    (tmp_path / "Other").write_text("FROM busybox\nCOPY a sub/b /x/\nCOPY sub /x/sub\n")
    (large / ".dockerignore").write_text("gone\n")
    told, _ = seen(daemon, large, place, "-f", str(tmp_path / "Other"))
    assert "./a" in told and "./large" not in told
    (tmp_path / "Other").write_text("FROM busybox\nCOPY --exclude=large . /x\n")
    told, sent = seen(daemon, large, place, "-f", str(tmp_path / "Other"))
    assert "./gone" not in told and "./sub/b" in told and "Other" not in told and sent < 1 << 20


def test_several_builds_of_one_directory_at_once(daemon: Daemon, large: Path, tmp_path: Path) -> None:
    images: list[str] = []

    def build() -> None:
        images.append(daemon.cove("build", "-q", str(large)).stdout)

    threads = [threading.Thread(target=build) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(images) == 3 and len(set(images)) == 1


def test_a_client_that_goes_away_leaves_nothing(own_daemon: Daemon, large: Path) -> None:
    from cove.cli.context import of_directory
    from cove.client import connect

    client = connect(own_daemon.host)
    found = of_directory(str(large), "")

    def broken() -> Iterator[bytes]:
        yield from list(found.archive())[:3]
        raise OSError("gone")

    class Leaving:
        key = found.key
        listing = found.listing

        def archive(self, known: object) -> Iterator[bytes]:
            return broken()

    with suppress(Exception):
        client.builds.sync(Leaving())  # type: ignore[arg-type]
    assert eventually(lambda: not any(path.name.startswith("build-") for path in below(own_daemon.data)))
    assert own_daemon.cove("build", "-q", str(large)).stdout.startswith("sha256:")
