"""Exhibits of what the runtime itself holds: its descriptors, its program, its memory; with their twins.

CVE-2016-9962 (a process on its way into the container is traced for the host's descriptors), CVE-2019-5736 (the
runtime's program, found at /proc/self/exe, is overwritten), CVE-2024-21626 is in test_runtime.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import Daemon
from tests.museum.images import SH, image, interpreter, libraries

# Looks at every process there is, again and again, and keeps what its descriptors and its root are called.
_SPY = """
while :; do
  for p in /proc/[0-9]*; do
    case $p in /proc/1|/proc/$$) continue;; esac
    for f in $p/fd/* $p/root $p/cwd $p/exe; do readlink $f; done
  done
done >> /tmp/seen 2>/dev/null
"""


@pytest.mark.parametrize("rights", [(), ("--userns", "auto", "--cap-add", "SYS_PTRACE")])
def test_no_descriptor_of_an_entering_process_leads_out(daemon: Daemon, rights: tuple[str, ...]) -> None:
    daemon.cove("run", "-d", "--name", "spy", *rights, "busybox", "sh", "-c", _SPY)
    try:
        for _ in range(12):
            daemon.cove("exec", "spy", "true")
        *lines, _ = daemon.cove("exec", "spy", "cat", "/tmp/seen").stdout.split("\n")
    finally:
        daemon.cove("rm", "-f", "spy")
    own = ("/stdin", "/stdout", "/stderr", "/dev/null", "/", "/bin/busybox", "/tmp/seen")
    assert not {name for name in lines if name and not name.endswith(own) and not name.startswith("pipe:")}


def test_twin_it_sees_its_own_processes(daemon: Daemon) -> None:
    script = "sleep 5 & readlink /proc/$!/exe; readlink /proc/$!/fd/1 | cut -d: -f1; kill $!"
    lines = daemon.cove("run", "--rm", "busybox", "sh", "-c", script).stdout.splitlines()
    assert lines[0] == "/bin/busybox"
    assert lines[1].endswith("/stdout")


# ── the runtime's program ─────────────────────────────────────────────────────────────────────────

# Holds any interpreter that shows up and writes into it as soon as nobody executes it.
_OVERWRITE = """
while :; do
  for p in /proc/[0-9]*; do
    case $(readlink $p/exe) in
      *python*) exec 9<$p/exe; n=0; while [ $n -lt 200 ]; do n=$((n+1))
                  (printf x >> /proc/self/fd/9) && echo written >> /tmp/result; done
                echo met >> /tmp/result; exec 9<&-;;
    esac
  done
done 2>/dev/null
"""


@pytest.fixture(scope="module")
def dynamic(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image in which the host's interpreter would start, and programs that ask the kernel to start it."""
    members = [
        *libraries(interpreter()),
        ("evil", b"#!/proc/self/exe\nprint('the interpreter')\n"),
        ("link", "/proc/self/exe"),
    ]
    with image(daemon, tmp_path_factory.mktemp("dynamic"), *members) as name:
        yield name


def test_the_interpreter_is_never_written(daemon: Daemon, dynamic: str) -> None:
    program = interpreter()
    before = hashlib.sha256(program.read_bytes()).hexdigest()
    daemon.cove("run", "-d", "--name", "overwriter", dynamic, SH, "-c", _OVERWRITE)
    try:
        calls = [
            threading.Thread(target=daemon.cove, args=("exec", "overwriter", path), kwargs={"check": False})
            for path in ("/evil", "/link", "/proc/self/exe") * 4
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        result = daemon.cove("exec", "overwriter", "/bin/busybox", "cat", "/tmp/result", check=False).stdout
    finally:
        daemon.cove("rm", "-f", "overwriter")
    assert "written" not in result
    assert hashlib.sha256(program.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("path", ["/proc/self/exe", "/link", "/proc/self/fd/0"])
def test_a_magic_link_is_no_program(daemon: Daemon, dynamic: str, path: str) -> None:
    done = daemon.cove("run", "--rm", dynamic, path, check=False)
    assert done.returncode in (125, 126, 127)
    assert "interpreter" not in done.stdout


def test_twin_scripts_and_links_of_its_own_run(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> None:
    members = [("script", b"#!/bin/sh\necho a script\n"), ("way", "script")]
    with image(daemon, tmp_path_factory.mktemp("scripts"), *members) as name:
        assert daemon.cove("run", "--rm", name, "/way").stdout == "a script\n"
