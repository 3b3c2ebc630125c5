"""Exhibits of the kernel's surface: system calls by which containers were left; each beside what must work.

CVE-2022-0185 (fsopen and fsconfig in a user namespace), CVE-2022-0492 (unshare, then a release_agent),
CVE-2016-0728 and CVE-2022-32250 kin (keyrings, namespaces for nftables), io_uring and userfaultfd as tools of
many; CVE-2021-22555 kin. The programs make one call each and tell its error number.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.museum.images import calling, image

_NEWUSER, _NEWNS, _NEWNET = 0x10000000, 0x00020000, 0x40000000
_REFUSED = {
    "fsopen": (430, (0, 0), errno.EPERM),
    "mount": (165, (0, 0, 0, 0, 0), errno.EPERM),
    "move_mount": (429, (0, 0, 0, 0, 0), errno.EPERM),
    "open_tree": (428, (0, 0, 0), errno.EPERM),
    "unshare-user": (272, (_NEWUSER,), errno.EPERM),
    "unshare-mount": (272, (_NEWNS,), errno.EPERM),
    "clone-net": (56, (_NEWNET | 17, 0, 0, 0, 0), errno.EPERM),
    "clone3": (435, (0, 0), errno.ENOSYS),
    "setns": (308, (0, 0), errno.EPERM),
    "bpf": (321, (5, 0, 0), errno.EPERM),
    "keyctl": (250, (0, 0, 0, 0, 0), errno.EPERM),
    "add_key": (248, (0, 0, 0, 0, 0), errno.EPERM),
    "io_uring_setup": (425, (8, 0), errno.EPERM),
    "userfaultfd": (323, (0,), errno.EPERM),
    "perf_event_open": (298, (0, 0, 0, 0, 0), errno.EPERM),
    "open_by_handle_at": (304, (0, 0, 0), errno.EPERM),
    "kexec_load": (246, (0, 0, 0, 0), errno.EPERM),
    "init_module": (175, (0, 0, 0), errno.EPERM),
    "socket-alg": (41, (38, 5, 0), errno.EPERM),
    "socket-vsock": (41, (40, 1, 0), errno.EPERM),
}
_WORKING = {
    "socket-inet": (41, (2, 1, 0)),
    "socket-unix": (41, (1, 1, 0)),
    "socket-netlink": (41, (16, 3, 0)),
    "memfd": (319, (0x400000, 0)),
    "getpid": (39, ()),
}


@pytest.fixture(scope="module")
def caller(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One image with a program for each call."""
    members = [(f"call/{name}", calling(number, *given)) for name, (number, given, _) in _REFUSED.items()]
    members += [(f"call/{name}", calling(number, *given)) for name, (number, given) in _WORKING.items()]
    with image(daemon, tmp_path_factory.mktemp("caller"), *members) as name:
        yield name


def told(daemon: Daemon, caller: str, *words: str) -> dict[str, int]:
    """The error number of every call, made in one container."""
    names = " ".join([*_REFUSED, *_WORKING])
    script = f"for c in {names}; do /call/$c; echo $c $?; done"
    done = daemon.cove("run", "--rm", *words, caller, "/bin/sh", "-c", script)
    return {name: int(code) for name, code in (line.split() for line in done.stdout.splitlines())}


def test_they_are_refused_and_the_twins_work(daemon: Daemon, caller: str) -> None:
    found = told(daemon, caller)
    assert {name: found[name] for name in _REFUSED} == {name: wanted for name, (_, _, wanted) in _REFUSED.items()}
    assert {name: found[name] for name in _WORKING} == dict.fromkeys(_WORKING, 0)


def test_a_user_namespace_of_its_own_opens_none_of_them(daemon: Daemon, caller: str) -> None:
    found = told(daemon, caller, "--userns", "auto")
    assert {name: found[name] for name in _REFUSED} == {name: wanted for name, (_, _, wanted) in _REFUSED.items()}


def test_hardened_and_no_new_privileges_neither(daemon: Daemon, caller: str) -> None:
    found = told(daemon, caller, "--security", "hardened")
    assert {name: found[name] for name in _REFUSED} == {name: wanted for name, (_, _, wanted) in _REFUSED.items()}
    assert found["socket-inet"] == found["memfd"] == 0


def test_execs_are_bounded_alike(daemon: Daemon, caller: str) -> None:
    daemon.cove("run", "-d", "--name", "called", caller, "/bin/busybox", "sleep", "60")
    try:
        for name in ("fsopen", "unshare-user", "keyctl"):
            assert daemon.cove("exec", "called", f"/call/{name}", check=False).returncode == errno.EPERM
        assert daemon.cove("exec", "called", "/call/getpid").returncode == 0
        done = daemon.cove("exec", "--privileged", "called", "/call/unshare-mount", check=False)
        assert done.returncode in (0, errno.EPERM)  # as the container's filter says, which privilege does not lift
    finally:
        daemon.cove("rm", "-f", "called")


def test_twin_who_asks_for_sys_admin_gets_the_calls(daemon: Daemon, caller: str) -> None:
    found = told(daemon, caller, "--cap-add", "SYS_ADMIN")
    assert found["unshare-mount"] == 0
    assert found["fsopen"] == errno.EFAULT  # the kernel looks at the arguments now
    assert found["keyctl"] == errno.EPERM


def test_a_release_agent_cannot_be_written(daemon: Daemon) -> None:
    script = (
        "mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c && echo mounted; "
        "for f in $(find /sys/fs/cgroup -name release_agent); do (echo /evil > $f) && echo written; done; "
        "mkdir /sys/fs/cgroup/memory/x && echo made; true"
    )
    assert daemon.cove("run", "--rm", "busybox", "sh", "-c", script).stdout == ""


def test_twin_its_own_groups_can_be_read(daemon: Daemon) -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert daemon.cove("run", "--rm", "-m", "32m", "busybox", "sh", "-c", script, check=False).stdout.strip() == str(
        32 << 20
    )


def test_none_of_our_sockets_is_abstract(daemon: Daemon) -> None:
    """CVE-2020-15257: a container with the host's network reaches whatever listens on an abstract socket there."""
    own = daemon.cove("run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix").stdout
    assert not [line for line in own.splitlines() if "@" in line and "cove" in line.lower()]


def test_twin_a_container_on_the_hosts_network_reaches_the_host(daemon: Daemon) -> None:
    done = daemon.cove("run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net")
    assert "lo" in done.stdout.split()
    assert Path("/sys/class/net/lo").exists()
