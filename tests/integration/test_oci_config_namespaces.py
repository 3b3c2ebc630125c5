"""linux.namespaces of a configuration: new ones, joined by path, with id maps and with time offsets."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

MAP = [{"containerID": 0, "hostID": 200000, "size": 65536}]


def with_users(content: dict[str, Any]) -> dict[str, Any]:
    content["linux"]["namespaces"].append({"type": "user"})
    content["linux"]["uidMappings"] = content["linux"]["gidMappings"] = MAP
    return content


def join(content: dict[str, Any], kind: str, path: str) -> dict[str, Any]:
    listed = content["linux"]["namespaces"]
    content["linux"]["namespaces"] = [each for each in listed if each["type"] != kind] + [
        {"type": kind, "path": path}
    ]
    return content


@pytest.fixture(scope="module")
def holder() -> Iterator[int]:
    """A process with namespaces of every kind, its own uid 0 mapped to 300000."""
    words = ["unshare", "--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--cgroup", "sleep", "600"]
    process = subprocess.Popen(words)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert eventually(lambda: process.poll() is None and children.read_text().split()), "unshare did not start"
    first = int(children.read_text())
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{name}").write_text("0 300000 65536\n")
    yield first
    os.kill(first, signal.SIGKILL)
    process.wait()


def inode(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_a_user_namespace(bundle: Bundle) -> None:
    script = "cat /proc/self/uid_map; id -u; stat -c %u /dev/null /dev/pts; mkdir /tmp/d && stat -c %u /tmp/d"
    bundle.rootfs.joinpath("tmp").chmod(0o1777)
    found = bundle.out(with_users(config("sh", "-c", script))).split()
    assert found == ["0", "200000", "65536", "0", "0", "0", "0"]
    assert (bundle.rootfs / "tmp/d").stat().st_uid == 200000
    (bundle.rootfs / "tmp/d").rmdir()


def test_exec_into_a_user_namespace(bundle: Bundle) -> None:
    with bundle.living(with_users(config("sleep", "60"))) as name:
        done = bundle.call("exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map; echo again > /dev/stdout")
        assert done.stdout.split() == ["0", "0", "200000", "65536", "again"], done.stderr
        status = Path(f"/proc/{bundle.pid(name)}/status").read_text()
        assert "Uid:\t200000\t200000" in status


def test_the_oom_score_in_a_user_namespace(bundle: Bundle) -> None:
    content = with_users(config("cat", "/proc/self/oom_score_adj"))
    content["process"]["oomScoreAdj"] = 321
    assert bundle.out(content) == "321\n"


def test_a_time_namespace(bundle: Bundle) -> None:
    content = config("sh", "-c", "cut -d. -f1 /proc/uptime; grep boottime /proc/self/timens_offsets")
    content["linux"]["namespaces"].append({"type": "time"})
    content["linux"]["timeOffsets"] = {"boottime": {"secs": 500000}, "monotonic": {"secs": 7, "nanosecs": 5}}
    up, _, seconds, _ = bundle.out(content).split()
    assert int(up) >= 500000 and int(seconds) == 500000


def test_a_time_namespace_inside_a_user_namespace_and_exec_into_it(bundle: Bundle) -> None:
    content = with_users(config("sleep", "60"))
    content["linux"]["namespaces"].append({"type": "time"})
    content["linux"]["timeOffsets"] = {"boottime": {"secs": 700000}}
    with bundle.living(content) as name:
        done = bundle.call("exec", name, "cut", "-d.", "-f1", "/proc/uptime")
        assert int(done.stdout) >= 700000, done.stderr


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "pid", "time"])
def test_joining_by_path(bundle: Bundle, kind: str) -> None:
    first = config("sleep", "60")
    first["linux"]["namespaces"].append({"type": "time"})
    with bundle.living(first) as name:
        pid = bundle.pid(name)
        file = {"network": "net"}.get(kind, kind)
        content = join(config("readlink", f"/proc/self/ns/{file}"), kind, f"/proc/{pid}/ns/{file}")
        content["hostname"] = "" if kind == "uts" else "box"
        assert bundle.out(content).strip() == inode(pid, file)


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid"])
def test_joining_by_path_with_a_new_user_namespace(bundle: Bundle, kind: str) -> None:
    with bundle.living(config("sleep", "60")) as name:
        pid = bundle.pid(name)
        file = {"network": "net"}.get(kind, kind)
        content = join(config("sh", "-c", f"readlink /proc/self/ns/{file}; id -u"), kind, f"/proc/{pid}/ns/{file}")
        content["hostname"] = "" if kind == "uts" else "box"
        assert bundle.out(with_users(content)).split() == [inode(pid, file), "0"]


def test_joining_a_user_namespace_by_path(bundle: Bundle, holder: int) -> None:
    script = "readlink /proc/self/ns/user; cat /proc/self/uid_map; ip link show lo | grep -c UP; echo $$; hostname"
    content = join(config("sh", "-c", script), "user", f"/proc/{holder}/ns/user")
    found = bundle.out(content).split()
    assert found == [inode(holder, "user"), "0", "300000", "65536", "1", "1", "box"]


def test_joining_a_user_namespace_and_what_it_owns(bundle: Bundle, holder: int) -> None:
    content = config("sh", "-c", "for each in user net ipc; do readlink /proc/self/ns/$each; done")
    for kind, file in (("user", "user"), ("network", "net"), ("ipc", "ipc")):
        join(content, kind, f"/proc/{holder}/ns/{file}")
    assert bundle.out(content).split() == [inode(holder, each) for each in ("user", "net", "ipc")]


def test_joining_a_mount_namespace_by_path(bundle: Bundle) -> None:
    with bundle.living(config("sh", "-c", "touch /tmp/here; sleep 60")) as name:
        pid = bundle.pid(name)
        content = join(config("sh", "-c", "readlink /proc/self/ns/mnt; ls /tmp/here"), "mount", f"/proc/{pid}/ns/mnt")
        join(content, "pid", f"/proc/{pid}/ns/pid")  # as its /proc shows that one
        content["root"], content["mounts"] = {"path": "/"}, []
        assert bundle.out(content).split() == [inode(pid, "mnt"), "/tmp/here"]
    (bundle.rootfs / "tmp/here").unlink()


SHARED = "readlink /proc/self/ns/mnt; cat /mnt/own; wc -c < /proc/keys; touch /no 2> /dev/null || echo readonly"


def sharing(bundle: Bundle, *args: str) -> dict[str, Any]:
    """A configuration with mounts and masks, and no mount namespace yet."""
    content = config(*args)
    (bundle.path / "own").write_text("mine\n")
    content["root"]["readonly"] = True
    content["mounts"].append({"source": str(bundle.path), "destination": "/mnt", "options": ["bind"]})
    content["linux"]["maskedPaths"] = ["/proc/keys"]
    content["linux"]["namespaces"] = [each for each in content["linux"]["namespaces"] if each["type"] != "mount"]
    return content


def test_without_a_mount_namespace_nothing_is_mounted_on_the_host(bundle: Bundle) -> None:
    def mounted() -> bool:
        return str(bundle.path) in Path("/proc/self/mountinfo").read_text()

    assert bundle.out(sharing(bundle, "sh", "-c", SHARED)).split() == [inode("self", "mnt"), "mine", "0", "readonly"]
    with bundle.living(sharing(bundle, "sleep", "60")) as name:
        assert not mounted()
        assert bundle.call("exec", name, "cat", "/mnt/own", "/proc/keys").stdout == "mine\n"
    assert not mounted()


def test_mounts_in_a_joined_mount_namespace_are_nobody_elses(bundle: Bundle) -> None:
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None and other.stdout.readline()
        listed = Path(f"/proc/{other.pid}/mountinfo")
        before = listed.read_text()
        content = join(sharing(bundle, "sh", "-c", SHARED), "mount", f"/proc/{other.pid}/ns/mnt")
        assert bundle.out(content).split() == [inode(other.pid, "mnt"), "mine", "0", "readonly"]
        assert listed.read_text() == before
        other.stdin.close()


def test_refusals(bundle: Bundle) -> None:
    content = join(with_users(config("true")), "mount", "/proc/self/ns/mnt")
    assert "needs a new mount namespace" in bundle.refusal(content)
    content = join(config("true"), "mount", "/proc/self/ns/mnt")
    content["linux"]["rootfsPropagation"] = "shared"
    assert "linux.rootfsPropagation" in bundle.refusal(content)
    content = join(config("true"), "network", "/nowhere/net")
    assert "/nowhere/net" in bundle.refusal(content)
    content = join(config("true"), "network", "/proc/self/ns/uts")
    assert bundle.refusal(content).count("\n") == 1
    content = with_users(config("true"))
    content["linux"]["uidMappings"] = []
    assert bundle.refusal(content).count("\n") == 1
