"""What `cove-oci` hands from its caller to a container: terminals, descriptors, sockets, the pid in a file."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tests.integration import bundles
from tests.integration.bundles import SLEEP, Bundle, bundle, config, create, good, name, refused

__all__ = ["bundle", "name"]

pytestmark = pytest.mark.root


def test_pid_file(bundle: Bundle, name: str) -> None:
    file = bundle.path / "pid"
    create(bundle, name, config(*SLEEP), "--pid-file", str(file))
    assert int(file.read_text()) == bundle.pid(name)


def test_console_socket(bundle: Bundle, name: str) -> None:
    content = config("sh", "-c", "tty; stty size; read word; echo got $word")
    content["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 77}}
    path = bundle.path / "console.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60 * PATIENCE)
        create(bundle, name, content, "--console-socket", str(path))
        connection, _ = listener.accept()
        with connection:
            _, (master, *_), _, _ = socket.recv_fds(connection, 4096, 1)
    path.unlink()
    good(bundle, "start", name)
    said = b""
    while b"33 77" not in said:
        said += os.read(master, 4096)
    os.write(master, b"it\n")
    while b"got it" not in said:
        said += os.read(master, 4096)
    assert b"/dev/pts/0" in said
    os.close(master)


def test_a_terminal_needs_somebody_to_serve_it(bundle: Bundle) -> None:
    content = config("true")
    content["process"]["terminal"] = True
    bundle.write(content)
    assert "--console-socket" in refused(bundle, "create", "--bundle", str(bundle.path), bundle.name())
    bundle.write(config("true"))
    flags = ("--console-socket", "/nowhere", "--bundle", str(bundle.path))
    assert "terminal" in refused(bundle, "create", *flags, bundle.name())


def test_nothing_of_the_callers_pipes_is_held_with_a_terminal(bundle: Bundle, name: str) -> None:
    """containerd waits for the end of what `create` wrote before it goes on."""
    content = config(*SLEEP)
    content["process"]["terminal"] = True
    path = bundle.path / "held.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        bundle.write(content)
        done = bundle.call("create", "--bundle", str(bundle.path), "--console-socket", str(path), name)
    assert done.returncode == 0, done.stderr


def test_preserved_descriptors(bundle: Bundle, name: str) -> None:
    content = config("sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd")
    bundle.write(content)
    reads = []
    for text in (b"three ", b"four "):
        read, write = os.pipe()
        os.write(write, text)
        os.close(write)
        reads.append(fcntl.fcntl(read, fcntl.F_DUPFD, 100))
        os.close(read)
    command = f"exec 3<&{reads[0]} 4<&{reads[1]}; exec $0 --root $1 run --preserve-fds 2 --bundle $2 $3"
    words = [str(bundles.BIN / "cove-oci"), str(bundle.state), str(bundle.path), name]
    done = subprocess.run(["bash", "-c", command, *words], pass_fds=reads, capture_output=True, timeout=60 * PATIENCE)
    for fd in reads:
        os.close(fd)
    assert done.stdout.decode().split() == ["three", "four", "0", "1", "2", "3", "4", "5"], done.stderr
    assert "descriptor 3" in refused(bundle, "run", "--preserve-fds", "1", "--bundle", str(bundle.path), name)


def test_sockets_of_activation_are_announced(bundle: Bundle) -> None:
    bundle.write(config("sh", "-c", "echo $LISTEN_PID $LISTEN_FDS"))
    environment = os.environ | {"LISTEN_FDS": "1"}
    done = bundle.call("run", "--bundle", str(bundle.path), bundle.name(), env=environment)
    assert done.stdout == "1 1\n", done


def test_the_hosts_devices_keep_their_owner(bundle: Bundle) -> None:
    content = config("true")
    content["process"]["user"] = {"uid": 1234, "gid": 1234}
    done = bundle.run(content, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert Path("/dev/null").stat().st_uid == 0
