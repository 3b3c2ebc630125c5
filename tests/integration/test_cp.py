"""`cove cp` does what `docker cp` does, case by case, against the same containers."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.integration import odd_files

pytestmark = pytest.mark.root

_SEED = (
    "mkdir -p /w/ex/inner /w/d/sub; cd /w; echo old > file; echo 1 > d/f; ln -s f d/in; ln -s ex exl; "
    "ln -s /w/ex exabs; ln -s file filel; ln -s gone dangl"
)
_IN = (
    ("d", "/w/new"), ("d/.", "/w/new"), ("d", "/w/ex"), ("d/.", "/w/ex"), ("d", "/w/exl"), ("d/.", "/w/exabs"),
    ("g", "/w/new"), ("g", "/w/new/"), ("g", "/w/ex"), ("g", "/w/exl"), ("g", "/w/file"), ("g", "/w/filel"),
    ("g", "/w/dangl"), ("d", "/w/file"), ("gl", "/w/new"), ("dl", "/w/new"), ("dl/", "/w/new"), ("dang", "/w/new"),
    ("g", "/no/parent/x"), ("nope", "/w"), ("d", "/w/ex/inner/.."),
)  # fmt: skip
_OUT = (
    ("/w/d", "new"), ("/w/d", "ex"), ("/w/d/.", "new"), ("/w/d/.", "ex"), ("/w/exl", "new"), ("/w/exl/", "new"),
    ("/w/exl/.", "new"), ("/w/d/in", "new"), ("/w/dangl", "new"), ("/w/file", "new/"), ("/w/d", "nodir/new"),
    ("/w/d", "here"), ("/w/file", "link"), ("/w/file", "lost"), ("w/file", "."), ("/nope", "."), ("/", "new"),
)  # fmt: skip

_ACROSS = (
    ("/w/d", "/w/new"), ("/w/d", "/w/ex"), ("/w/d/.", "/w/new"), ("/w/d/in", "/w/exl"), ("/w/file", "/w/d/f"),
    ("/w/exl", "/w/new"),
)  # fmt: skip


@pytest.fixture(scope="module")
def seeded(daemon: Daemon) -> Iterator[str]:
    """An image with something of everything in /w."""
    daemon.cove("run", "--name", "seed", "busybox", "sh", "-c", _SEED)
    daemon.cove("commit", "seed", "seeded")
    daemon.cove("rm", "seed")
    try:
        yield "seeded"
    finally:
        daemon.cove("rmi", "-f", "seeded", check=False)


def _listed(daemon: Daemon, path: Path) -> list[tuple[object, ...]]:
    with path.open("wb") as file:
        daemon.docker("cp", "target:/w", "-", stdout=file, capture_output=False)
    with tarfile.open(path) as tar:
        return sorted((each.name, each.type, each.size, each.linkname, each.mode) for each in tar)


@pytest.mark.parametrize("state", ["created", "running"])
def test_into_a_container(daemon: Daemon, seeded: str, tmp_path: Path, state: str) -> None:
    local = tmp_path / "local"
    (local / "d/sub").mkdir(parents=True)
    (local / "d/f").write_text("1")
    (local / "g").write_text("two")
    for name, to in (("dl", "d"), ("gl", "g"), ("dang", "nowhere"), ("d/in", "f")):
        (local / name).symlink_to(to)
    for source, target in _IN if state == "created" else _IN[::4]:
        for follow in ((), ("-L",)) if source in ("dl", "gl", "dang") else ((),):
            seen = []
            for client in (daemon.docker, daemon.cove):
                daemon.cove("create", "--name", "target", seeded, "sleep", "60")
                if state == "running":
                    daemon.cove("start", "target")
                done = client("cp", *follow, source, f"target:{target}", check=False, cwd=local)
                seen.append((bool(done.returncode), _listed(daemon, tmp_path / "tar")))
                daemon.cove("rm", "-f", "target")
            assert seen[0] == seen[1], (source, target, follow)


def test_out_of_a_container(daemon: Daemon, seeded: str, tmp_path: Path) -> None:
    daemon.cove("create", "--name", "target", seeded, "true")
    try:
        for source, target in _OUT:
            for follow in ((), ("-L",)) if source in ("/w/exl", "/w/d/in", "/w/dangl") else ((),):
                seen = []
                for client in (daemon.docker, daemon.cove):
                    local = tmp_path / "local"
                    (local / "ex").mkdir(parents=True)
                    (local / "here").write_text("x")
                    (local / "link").symlink_to("ex")
                    (local / "lost").symlink_to("found")
                    done = client("cp", *follow, f"target:{source}", target, check=False, cwd=local)
                    seen.append((bool(done.returncode), sorted(str(each) for each in local.rglob("*"))))
                    shutil.rmtree(local)
                assert seen[0] == seen[1], (source, target, follow)
    finally:
        daemon.cove("rm", "-f", "target")


@pytest.mark.parametrize("words", [("-a",), ("-L",)])
def test_between_containers_as_over_this_machine(
    daemon: Daemon, seeded: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """What docker does in two steps is one."""
    make = "cd /w; ln d/f d/hard; chown 1000:2000 d/f; mkfifo d/pipe; chmod 4750 d/f; date > d/$(printf %0150d 7)"
    daemon.cove("run", "--name", "source", seeded, "sh", "-c", make)
    try:
        for at, (path, target) in enumerate(_ACROSS):
            listed = []
            for steps in (1, 2):
                daemon.cove("create", "--name", "target", seeded, "true")
                if steps == 1:
                    daemon.cove("cp", *words, f"source:{path}", f"target:{target}")
                else:
                    between = tmp_path / f"{at}"
                    between.mkdir()
                    daemon.cove("cp", *words, f"source:{path}", str(between))
                    name = "." if path.endswith("/.") else next(between.iterdir()).name
                    daemon.cove("cp", *words, f"{between}/{name}", f"target:{target}")
                listed.append(_listed(daemon, tmp_path / "out.tar"))
                daemon.cove("rm", "target")
            assert listed[0] == listed[1], (path, target)
        daemon.cove("create", "--name", "target", seeded, "true")
        for path, target, why in (("/w/d", "/w/file", "over the file"), ("/nope", "/w", "there is no /nope")):
            refused = daemon.cove("cp", f"source:{path}", f"target:{target}", check=False)
            assert refused.returncode and why in refused.stderr
    finally:
        daemon.cove("rm", "-f", "source", "target", check=False)


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_an_exact_copy(daemon: Daemon, tmp_path: Path, state: str) -> None:
    volumes = daemon.data / "volumes"
    for name in ("first", "second"):
        daemon.cove("create", "--name", name, "-v", f"{name}:/v", "busybox", "sleep", "600")
    try:
        odd_files.make(volumes / "first/_data")
        wanted = odd_files.seen(volumes / "first/_data")
        if state == "running":
            daemon.cove("start", "first", "second")
        daemon.cove("cp", "-a", "first:/v", str(tmp_path / "out"))
        assert odd_files.seen(tmp_path / "out") == wanted
        daemon.cove("cp", "-a", str(tmp_path / "out"), "second:/v/in")
        assert odd_files.seen(volumes / "second/_data/in") == wanted
        daemon.cove("cp", "-a", "first:/v", "second:/v/across")
        assert odd_files.seen(volumes / "second/_data/across") == wanted
    finally:
        daemon.cove("rm", "-f", "first", "second", check=False)
        daemon.cove("volume", "rm", "-f", "first", "second")


def test_nothing_is_put_into_what_is_the_kernels(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    daemon.cove("run", "-d", "--name", "target", "busybox", "sleep", "600")
    try:
        for place in ("/proc", "/proc/sys/kernel", "/sys"):
            refused = daemon.cove("cp", str(tmp_path / "file"), f"target:{place}/", check=False)
            assert refused.returncode == 1 and "a file system of the kernel's own" in refused.stderr
        daemon.cove("cp", str(tmp_path / "file"), "target:/dev/shm/")
        assert daemon.cove("exec", "target", "cat", "/dev/shm/file").stdout == "text"
    finally:
        daemon.cove("rm", "-f", "target")
