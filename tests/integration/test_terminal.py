"""Terminals as people use them: a prompt, detach keys, Ctrl-C, a window that changes; with both commands."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Daemon

COVE = str(Path(sys.executable).parent / "cove")


class Terminal:
    """A command on a pseudo-terminal of 30 lines and 99 columns."""

    def __init__(self, daemon: Daemon, program: str, *words: str) -> None:
        environment = os.environ | {"DOCKER_HOST": daemon.host, "COVE_HOST": daemon.host, "TERM": "xterm"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 99, 0, 0))
            os.execvpe(program, [program, *words], environment | daemon.environment)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        """Read until `text` has come."""
        deadline = time.monotonic() + 60 * PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], 0.1)
            try:
                self.seen += os.read(self.fd, 65536) if ready else b""
            except OSError:
                break
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
        assert text in self.seen, self.seen
        self.seen = self.seen.partition(text)[2]

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def end(self) -> int:
        """The exit code; reads on meanwhile."""
        deadline = time.monotonic() + 60 * PATIENCE
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    time.sleep(0.01)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        raise AssertionError("the command does not end")


@pytest.fixture(params=["cove", "docker"])
def terminal(request: pytest.FixtureRequest, daemon: Daemon) -> Callable[..., Terminal]:
    program = COVE if request.param == "cove" else shutil.which("docker")
    if program is None:
        pytest.skip("the docker client is not installed on this machine")
    return lambda *words: Terminal(daemon, program, *words)


def test_a_shell_has_a_terminal_of_our_size(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "--rm", "-it", "busybox", "sh")
    shell.expect(b"# ")
    shell.type(b"tty; echo size $(stty size)\n")
    shell.expect(b"/dev/pts/0")
    shell.expect(b"size 30 99")
    shell.type(b"exit 7\n")
    assert shell.end() == 7


def test_detach_and_attach_again(terminal: Callable[..., Terminal], daemon: Daemon) -> None:
    try:
        shell = terminal("run", "-it", "--name", "detached", "busybox", "sh")
        shell.expect(b"# ")
        shell.type(b"\x10\x11")
        assert shell.end() == 0
        assert daemon.cove("inspect", "-f", "{{.State.Running}}", "detached").stdout == "true\n"
        again = terminal("attach", "detached")
        again.type(b"\n")
        again.expect(b"# ")
        again.type(b"echo sum$((1+1)); exit 3\n")
        again.expect(b"sum2")
        assert again.end() == 3
    finally:
        daemon.cove("rm", "-f", "detached")


def test_ctrl_c_reaches_the_program(terminal: Callable[..., Terminal]) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    program = terminal("run", "--rm", "busybox", "sh", "-c", script)
    program.expect(b"ready")
    program.type(b"\x03")
    program.expect(b"caught")
    assert program.end() == 9


def test_a_window_that_changes(terminal: Callable[..., Terminal], daemon: Daemon) -> None:
    daemon.cove("run", "-d", "--name", "window", "busybox", "sleep", "60")
    try:
        shell = terminal("exec", "-it", "window", "sh")
        shell.expect(b"# ")
        fcntl.ioctl(shell.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 88, 0, 0))
        shell.type(b"until [ \"$(stty size)\" = '41 88' ]; do sleep 0.1; done; echo resi''zed; exit 4\n")
        shell.expect(b"resized")
        assert shell.end() == 4
    finally:
        daemon.cove("rm", "-f", "window")


def test_a_short_exec_with_a_terminal_is_heard(daemon: Daemon) -> None:
    """Its program may have ended before anybody looks."""
    daemon.cove("run", "-d", "--name", "heard", "-t", "busybox", "sleep", "300")
    try:
        for _ in range(20):
            assert daemon.docker("exec", "-t", "heard", "echo", "well").stdout == "well\n"
        assert daemon.docker("exec", "heard", "sh", "-c", "echo $TERM").stdout == "\n"
    finally:
        daemon.cove("rm", "-f", "heard")
