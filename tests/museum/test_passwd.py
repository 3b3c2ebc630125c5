"""Exhibits of the files that turn names into numbers: an image's /etc/passwd is data of a stranger.

CVE-2024-9676: a FIFO that nobody writes to hangs who opens it, a link leads to the host's file, one of 10 GB fills
the memory. All are read when a user is named; the start ends soon, with a sentence, and as nobody it should not be.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.integration.faults_world import pids

pytestmark = pytest.mark.root

_HUGE = 10 << 30


def _image(daemon: Daemon, tmp_path: Path, script: str) -> str:
    """busybox with what `script` makes of /etc/passwd."""
    name = f"passwd-{tmp_path.name}"
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN rm /etc/passwd; {script}\n")
    daemon.cove("build", "-q", "-t", name, str(tmp_path))
    return name


_MADE = {
    "a FIFO": "mkfifo /etc/passwd",
    "a link to a device": "ln -s /dev/zero /etc/passwd",
    "a climbing link": "ln -s ../../../../../../../../etc/passwd /etc/passwd",
    "a link to the host's through /proc": "ln -s /proc/1/root/etc/passwd /etc/passwd",
}


def _highest(daemon: Daemon) -> int:
    """The most memory that the daemon and the supervisor have had, in KiB."""
    found = [*pids(daemon, "daemon"), *pids(daemon, "supervisor")]
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in found]
    return max(int(text.split("VmHWM:")[1].split()[0]) for text in texts)


@pytest.mark.parametrize("what", _MADE)
def test_a_passwd_that_is_no_file_ends_the_start_soon(daemon: Daemon, tmp_path: Path, what: str) -> None:
    image = _image(daemon, tmp_path, _MADE[what])
    try:
        # "daemon" is in every host's file and in none of the image's
        done = daemon.cove("run", "--rm", "-u", "daemon", image, "id", "-u", check=False)
        assert done.returncode != 0 and "daemon" in done.stderr, done
        assert "Traceback" not in done.stderr and done.stdout == ""
        daemon.cove("run", "-d", "--name", "passwd", image, "sleep", "60")
        done = daemon.cove("exec", "-u", "daemon", "passwd", "id", "-u", check=False)
        assert done.returncode != 0 and done.stdout == ""
    finally:
        daemon.cove("rm", "-f", "passwd", check=False)
        daemon.cove("rmi", "-f", image)


def test_a_passwd_of_ten_gigabytes_is_read_in_bounded_memory(daemon: Daemon) -> None:
    """It begins with the image's own lines, so that the twin is in the same file."""
    grown = f"truncate -s {_HUGE} /etc/passwd; touch /grown; exec sleep 600"
    daemon.cove("run", "-d", "--name", "huge", "-m", "64m", "busybox", "sh", "-c", grown)
    try:
        assert eventually(lambda: daemon.cove("exec", "huge", "ls", "/grown", check=False).returncode == 0)
        before = _highest(daemon)
        done = daemon.cove("exec", "-u", "nobody-there", "huge", "id", "-u", check=False)
        assert done.returncode != 0 and done.stdout == "" and "Traceback" not in done.stderr
        daemon.cove("restart", "-t", "0", "huge")
        assert _highest(daemon) - before < 64 << 10
        assert daemon.cove("exec", "huge", "echo", "works").stdout == "works\n"
    finally:
        daemon.cove("rm", "-f", "huge")


def test_twin_a_link_inside_the_image_is_followed(daemon: Daemon, tmp_path: Path) -> None:
    users = "mkdir /x; echo someone:x:77:88::/:/bin/sh >/x/users; ln -s ../x/users /etc/passwd"
    image = _image(daemon, tmp_path, users)
    try:
        assert daemon.cove("run", "--rm", "-u", "someone", image, "id", "-u").stdout == "77\n"
    finally:
        daemon.cove("rmi", "-f", image)
