"""User namespaces of containers: whose ids they are on the host, and that files keep their owners."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, Daemon, new_daemon, stocked

BASE = 1 << 30


def run(daemon: Daemon, *words: str) -> str:
    return daemon.cove("run", "--rm", "--network", "none", *words).stdout


def mapped(text: str) -> tuple[int, int, int]:
    inside, outside, count = text.split()
    return int(inside), int(outside), int(count)


@pytest.fixture
def living(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container with ids of its own, on the bridge, that sleeps."""
    name = f"users-{abs(hash(request.node.name)) % 10**8}"
    script = "mkdir -p /w; echo hello > /w/index.html; chown 33:34 /w/index.html; httpd -p 80 -h /w; sleep 60"
    daemon.cove("run", "-d", "--name", name, "--userns", "auto", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script)
    yield name
    daemon.cove("rm", "-f", "-v", name)


def pid_of(daemon: Daemon, name: str) -> int:
    return int(daemon.docker("inspect", "-f", "{{.State.Pid}}", name).stdout)


def test_root_inside_is_not_root_outside(daemon: Daemon, living: str) -> None:
    status = Path(f"/proc/{pid_of(daemon, living)}/status").read_text()
    ids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert all(int(each) >= BASE for each in ids)
    assert daemon.cove("exec", living, "id", "-u").stdout == "0\n"


def test_each_container_has_ids_of_its_own(daemon: Daemon, living: str) -> None:
    other = mapped(run(daemon, "--userns", "auto:size=2000", "busybox", "cat", "/proc/self/uid_map"))
    own = mapped(daemon.cove("exec", living, "cat", "/proc/self/uid_map").stdout)
    assert (own[0], own[2], other[0], other[2]) == (0, 65536, 0, 2000)
    assert other[1] >= own[1] + own[2] or other[1] + other[2] <= own[1]
    shared = mapped(run(daemon, "--userns", f"container:{living}", "busybox", "cat", "/proc/self/uid_map"))
    assert shared == own


def test_it_is_one_container_whoever_makes_it(daemon: Daemon) -> None:
    """Most are made from outside; where parameters want root of the namespace itself, by that."""
    script = (
        "id; ls -lnR /dev /etc; ls -lnd / /tmp /new /t /mnt; ls -ln /new; awk '{print $1, $3}' /proc/self/uid_map;"
        "grep -v -e ' /dev/[a-z]* ' -e ^tmpfs -e ^overlay /proc/mounts | cut -d' ' -f1-4 | sed 's/=[0-9]*//g' | sort;"
        "cat /proc/sys/net/ipv4/ping_group_range; grep -e ^Cap -e ^NoNew -e ^Seccomp /proc/self/status;"
        "ulimit -n; cat /proc/self/oom_score_adj; touch /dev/shm/a /t/b && ls -ln /dev/shm /t; umask"
    )
    words = (
        "--userns",
        "auto",
        "--tmpfs",
        "/t:uid=7,gid=8,mode=770",
        "-v",
        "/mnt",
        "-w",
        "/new",
        "--ulimit",
        "nofile=99:99",
    )
    for user in ("0", "7:8"):
        given = (*words, "--user", user, "--oom-score-adj", "50")
        own = run(daemon, *given, "busybox", "sh", "-c", script)
        others = run(daemon, *given, "--sysctl", "kernel.msgmax=4096", "busybox", "sh", "-c", script)
        assert _timeless(own) == _timeless(others)


def _timeless(listing: str) -> list[str]:
    """Without the times of files and the size of directories."""
    return [re.sub(r"\d+ [A-Z][a-z]{2} +\d+ \d\d:\d\d", "", line) for line in listing.splitlines()]


def test_the_image_and_what_is_written_belong_to_root_inside(daemon: Daemon) -> None:
    script = "stat -c %u:%g / /bin/busybox; touch /new; chown 7:8 /new; stat -c %u:%g /new; rm /bin/wget; mv /var /e"
    assert run(daemon, "--userns", "auto", "busybox", "sh", "-c", script).split() == ["0:0", "0:0", "7:8"]


def test_layers_are_mapped_not_copied(daemon: Daemon, living: str) -> None:
    identity = daemon.docker("inspect", "-f", "{{.Id}}", living).stdout.strip()
    upper = daemon.data / "containers" / identity / "upper"
    found = (upper / "w/index.html").stat()
    assert (found.st_uid, found.st_gid) == (33, 34)
    assert not (upper / "bin").exists()


def test_exec_takes_the_image_users(daemon: Daemon, living: str) -> None:
    assert daemon.cove("exec", "-u", "worker", living, "id", "-u").stdout == "1000\n"
    assert daemon.docker("exec", "-u", "worker", living, "sh", "-c", "id -G; echo ok >/dev/stdout").stdout == (
        "1000 2000\nok\n"
    )


def test_cp_diff_and_commit_see_the_ids_inside(daemon: Daemon, living: str, tmp_path: Path) -> None:
    listing = daemon.docker("cp", f"{living}:/w", "-", text=False).stdout
    archive = tmp_path / "w.tar"
    archive.write_bytes(listing)
    with tarfile.open(archive) as tar:
        assert {(each.name, each.uid, each.gid) for each in tar} == {("w", 0, 0), ("w/index.html", 33, 34)}
    daemon.cove("cp", str(archive), f"{living}:/w/")
    assert daemon.cove("exec", living, "stat", "-c", "%u", "/w/w.tar").stdout == "0\n"
    assert "A /w/index.html" in daemon.docker("diff", living).stdout.splitlines()
    daemon.cove("commit", living, "users-committed")
    try:
        assert run(daemon, "users-committed", "stat", "-c", "%u:%g", "/w/index.html") == "33:34\n"
    finally:
        daemon.cove("rmi", "users-committed")


def test_published_ports_and_a_restart(daemon: Daemon, living: str) -> None:
    for _ in range(2):
        port = int(daemon.docker("port", living, "80").stdout.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in connection.recv(4096)
        daemon.cove("restart", "-t", "0", living)
        assert daemon.cove("exec", living, "sh", "-c", "until pidof httpd; do :; done").returncode == 0


def test_other_networks(daemon: Daemon, living: str) -> None:
    words = ("--rm", "--userns", "auto")
    script = "test $(id -u) = 0 && ls /sys/class/net && ls /proc/self >/dev/null"
    host = daemon.cove("run", *words, "--network", "host", "busybox", "sh", "-c", script).stdout.split()
    assert set(host) == {name for _, name in socket.if_nameindex()}
    lent = daemon.cove(
        "run", *words, "--network", f"container:{living}", "busybox", "wget", "-qO-", "http://127.0.0.1"
    )
    assert lent.stdout == "hello\n"
    assert daemon.cove("run", *words, "--network", "none", "busybox", "ls", "/sys/class/net").stdout == "lo\n"


def test_namespaces_of_the_host(daemon: Daemon) -> None:
    shared = ("--pid", "host", "--ipc", "host", "--cgroupns", "host", "--uts", "host")
    script = "ls -d /proc/1/ns; mount | grep -c 'sys/fs/cgroup.*(ro'; test -d /dev/mqueue && echo mqueue"
    found = run(daemon, "--userns", "auto", *shared, "busybox", "sh", "-c", script).split()
    assert found[0] == "/proc/1/ns" and int(found[1]) >= 1 and found[2] == "mqueue"


def test_volumes_keep_their_owners(daemon: Daemon) -> None:
    try:
        script = "mkdir /v/d && chown 5:6 /v/d && stat -c %u:%g /v /v/d"
        made = run(daemon, "--userns", "auto", "-v", "users-v:/v", "busybox", "sh", "-c", script)
        assert made.split() == ["0:0", "5:6"]
        assert run(daemon, "-v", "users-v:/v", "busybox", "stat", "-c", "%u:%g", "/v/d") == "5:6\n"
    finally:
        daemon.cove("volume", "rm", "-f", "users-v")


def test_directories_of_the_host_are_mapped_when_asked(daemon: Daemon) -> None:
    place = daemon.root / "of the host"  # on a disk: a tmpfs maps ids since kernel 6.3 only
    place.mkdir()
    (place / "theirs").write_text("x")
    look = ("busybox", "stat", "-c", "%u", "/h/theirs")
    nobody = run(daemon, "--userns", "auto", "-v", f"{place}:/h", *look)
    by_word = run(daemon, "--userns", "auto", "-v", f"{place}:/h:idmap", *look)
    by_mount = run(daemon, "--userns", "auto", "--mount", f"type=bind,src={place},dst=/h,idmap", *look)
    assert (nobody, by_word, by_mount) == ("65534\n", "0\n", "0\n")
    run(daemon, "--userns", "auto", "-v", f"{place}:/h:idmap", "busybox", "touch", "/h/mine")
    assert (place / "mine").stat().st_uid == 0


def test_a_terminal_and_an_init(daemon: Daemon) -> None:
    inside = "tty; cat /proc/1/comm; test -w /dev/stdout && echo writable"
    command = f"{BIN}/cove run --rm -it --init --userns auto --network none busybox sh -c '{inside}'"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        env={"PATH": "/usr/bin:/bin", "COVE_HOST": daemon.host},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
    )
    assert all(word in done.stdout for word in ("/dev/pts/0", "cove-init", "writable")), done


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--privileged", "--userns", "auto"), "privileged mode is incompatible with user namespaces"),
        (("--userns", "auto", "--user", "70000"), "does not have all of the ids 70000"),
        (("--userns", "bogus"), "invalid userns mode: bogus"),
        (("--userns", "auto:size=7"), "the size is between"),
        (("--userns", "container:nobody-at-all"), "nobody-at-all"),
        (("--userns", "/proc/1/ns/user"), "ids must be known when it is made"),
    ],
)
def test_refusals(daemon: Daemon, words: tuple[str, ...], reason: str) -> None:
    done = daemon.cove("run", "--rm", *words, "busybox", "true", check=False)
    assert done.returncode == 125 and reason in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_source_is_told(daemon: Daemon) -> None:
    missing = "type=bind,src=/nowhere,dst=/h"
    done = daemon.cove("run", "--rm", "--userns", "auto", "--mount", missing, "busybox", "true", check=False)
    assert done.returncode == 125 and "/nowhere" in done.stderr


@pytest.fixture(scope="module")
def remapped(archive: Path) -> Iterator[Daemon]:
    """A daemon whose containers all get the ids of one range."""
    with stocked(archive, "--userns-remap", "default") as daemon:
        yield daemon


def test_the_daemons_remap(remapped: Daemon) -> None:
    first = run(remapped, "busybox", "cat", "/proc/self/uid_map")
    assert mapped(first)[1] >= BASE and first == run(remapped, "busybox", "cat", "/proc/self/uid_map")
    assert mapped(run(remapped, "--userns", "host", "busybox", "cat", "/proc/self/uid_map")) == (0, 0, 4294967295)
    own = mapped(run(remapped, "--userns", "auto", "busybox", "cat", "/proc/self/uid_map"))
    assert own[1] >= mapped(first)[1] + 65536
    info = json.loads(remapped.docker("info", "-f", "{{json .SecurityOptions}}").stdout)
    assert "name=userns" in info
    done = remapped.cove("run", "--rm", "--privileged", "busybox", "true", check=False)
    assert done.returncode == 125 and "--userns=host" in done.stderr
    assert run(remapped, "--privileged", "--userns", "host", "busybox", "id", "-u") == "0\n"
    container = remapped.docker("create", "busybox", "true").stdout.strip()
    assert remapped.docker("inspect", "-f", "{{.HostConfig.UsernsMode}}", container).stdout == "\n"


def test_builds_are_remapped_too(remapped: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nCOPY file /file\nRUN cat /proc/self/uid_map > /map && chown 5:6 /file && touch /new\n"
        "RUN --mount=type=cache,target=/c --mount=type=bind,target=/ctx cat /ctx/file && touch /c/kept\n"
        "RUN --mount=type=cache,target=/c stat -c %u /c/kept > /kept\n"
    )
    remapped.cove("build", "-t", "users-built", str(tmp_path))
    script = "cat /map /kept; stat -c %u:%g /file /new"
    found = remapped.cove("run", "--rm", "--userns", "host", "users-built", "sh", "-c", script).stdout.split()
    assert int(found[1]) >= BASE and found[3:] == ["0", "5:6", "0:0"]


def test_a_remap_to_nobody_is_refused(archive: Path) -> None:
    daemon = new_daemon("--userns-remap", "somebody-without-an-entry")
    try:
        with pytest.raises(pytest.fail.Exception, match="no entry in /etc/subuid"):
            daemon.start()
    finally:
        shutil.rmtree(daemon.root, ignore_errors=True)
