"""The child side of a start, driven straight through clone3: what the program sees, and how failures are told."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cove.kernel import process
from cove.oci.spec import Capabilities, Linux, Mount, Namespace, Process, Root, Spec, User
from cove.runtime.child import execs as exec_child
from cove.runtime.child import init
from cove.runtime.child.common import ChildStdio
from cove.runtime.messages import ROOT, ExecLaunch, Failed, Go, Launch

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static"),
]

_SAFE = ("nosuid", "noexec", "nodev")
MOUNTS = (
    Mount(destination="/proc", source="proc", type="proc", options=_SAFE),
    Mount(destination="/dev", source="tmpfs", type="tmpfs", options=("nosuid", "strictatime", "mode=755")),
    Mount(
        destination="/dev/pts",
        source="devpts",
        type="devpts",
        options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount(destination="/sys", source="sysfs", type="sysfs", options=(*_SAFE, "ro")),
    Mount(destination="/sys/fs/cgroup", source="cgroup", type="cgroup", options=(*_SAFE, "relatime", "ro")),
    Mount(destination="/dev/mqueue", source="mqueue", type="mqueue", options=_SAFE),
    Mount(destination="/dev/shm", source="shm", type="tmpfs", options=(*_SAFE, "mode=1777", "size=64m")),
)
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID", "CAP_KILL", "CAP_NET_BIND_SERVICE")
MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Path]:
    lower = tmp_path / "lower"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        (lower / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, lower / "bin/busybox")
    for name in ("sh", "cat", "ls", "id", "echo", "mount", "grep", "readlink", "tty", "sleep", "stat", "hostname"):
        os.symlink("busybox", lower / "bin" / name)
    (lower / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n1000:x:0:0::/:/bin/sh\n")
    (lower / "etc/group").write_text("root:x:0:\nweb:x:34:\nextra:x:55:web\n")
    (lower / "bin/plain").write_text("no header\n")
    (lower / "bin/foreign").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + (183).to_bytes(2, "little") + bytes(40))
    (lower / "bin/foreign").chmod(0o755)
    yield tmp_path


def a_launch(root: Path, *args: str, **changes: Any) -> Launch:
    for name in ("upper", "work"):
        (root / name).mkdir(exist_ok=True)
    overlay = Mount(
        destination="/",
        type="overlay",
        source="overlay",
        options=(f"lowerdir={root}/lower", f"upperdir={root}/upper", f"workdir={root}/work"),
    )
    sets = Capabilities(bounding=CAPABILITIES, effective=CAPABILITIES, permitted=CAPABILITIES)
    given = {"cwd": "/", "env": ("PATH=/bin",), "capabilities": sets, **changes.pop("process", {})}
    kinds = ("pid", "mount", "network", "ipc", "uts", "cgroup")
    spec = Spec(
        process=Process(args=args, **given),
        root=Root(path="", readonly=changes.pop("readonly", False)),
        hostname="box",
        mounts=MOUNTS + changes.pop("mounts", ()),
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in kinds),
            masked_paths=MASKED,
            readonly_paths=READONLY,
            sysctl={"net.ipv4.ip_unprivileged_port_start": "0"},
            **changes.pop("linux", {}),
        ),
    )
    return Launch(id="a" * 64, spec=spec, rootfs=overlay, user=changes.pop("user", ""), **changes)


class Started:
    """A child of ours past the barrier: its output, its exit code, or why it failed."""

    def __init__(self, launch: Launch) -> None:
        self.sync, far_sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gate, far_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.out, out = os.pipe()
        console = launch.spec.process is not None and launch.spec.process.terminal
        self.pid, self.pidfd = process.clone(init.flags_for(launch.spec))
        if self.pid == 0:
            init.run(
                launch,
                sync_fd=far_sync.fileno(),
                gate_fd=far_gate.fileno(),
                stdio=ChildStdio(console=True) if console else ChildStdio(stdout=out, stderr=out),
            )
        for each in (far_sync, far_gate):
            each.close()
        os.close(out)
        self.gate.send(b"go")
        self.master = socket.recv_fds(self.gate, 16, 1)[1][0] if console else -1
        try:
            self.sync.send(msgspec.json.encode(Go()))
        except BrokenPipeError:
            pass
        packet = self._receive()
        if packet == ROOT:
            packet = self._receive()
        self.failed = msgspec.json.decode(packet, type=Failed) if packet else None

    def _receive(self) -> bytes:
        """A child that ends without reading Go resets the connection once; what it said lies behind that."""
        try:
            return self.sync.recv(65536)
        except ConnectionResetError:
            return self.sync.recv(65536)

    def finish(self) -> tuple[int, str]:
        with open(self.out, encoding="utf-8") as file:
            text = file.read()
        _, status = os.waitpid(self.pid, 0)
        for each in (self.sync, self.gate):
            each.close()
        os.close(self.pidfd)
        return process.exit_code(status), text


def run(launch: Launch) -> tuple[int, str]:
    started = Started(launch)
    assert started.failed is None, started.failed
    return started.finish()


def refusal(launch: Launch) -> Failed:
    started = Started(launch)
    code, _ = started.finish()
    assert started.failed is not None and started.failed.exit_code == code
    return started.failed


def test_the_program_sees_its_own_world(rootfs: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    script = """
        echo pid $$; hostname; readlink /dev/ptmx; ls /proc/self/fd | grep -c .
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start
        grep -c . /proc/keys; ls /sys/firmware | grep -c .; echo x > /proc/sys/net/ipv4/ip_forward || echo readonly
        grep CapBnd /proc/self/status; ls /sys/class/net; id -u; echo $HOME; exit 7"""
    code, text = run(a_launch(rootfs, "sh", "-c", script))
    lines = text.splitlines()
    assert code == 7
    assert lines[:7] == ["pid 1", "box", "pts/ptmx", "4", "0", "0", "0"]
    assert "readonly" in lines and "/root" in lines and "lo" in lines
    assert any(line.startswith("CapBnd:") and int(line.split()[1], 16) == 0x4E3 for line in lines)
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("web", "uid=33(web) gid=34(web) groups=55(extra) /srv"),
        ("33", "uid=33(web) gid=34(web) groups=55(extra) /srv"),
        ("1000", "uid=1000 gid=0(root) groups=0(root) /"),
        ("web:0", "uid=33(web) gid=0(root) groups=0(root) /srv"),
        ("4321:123", "uid=4321 gid=123 groups=123 /"),
    ],
)
def test_users_are_the_images(rootfs: Path, user: str, expected: str) -> None:
    code, text = run(a_launch(rootfs, "sh", "-c", "echo $(id) $HOME", user=user))
    assert (code, text.strip().replace(",", " ").replace("groups=34(web) ", "groups=")) == (0, expected)


@pytest.mark.parametrize("user", ["-1", "4294967296", "99999999999999999999", "nobody", "0x0", "web:none", "1 "])
def test_no_strange_user_becomes_root(rootfs: Path, user: str) -> None:
    failed = refusal(a_launch(rootfs, "id", user=user))
    assert failed.stage == "user" and ("unable to find" in failed.message or "out of range" in failed.message)


@pytest.mark.parametrize(
    ("program", "code", "sentence"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("/nope", 127, 'exec: "/nope": stat /nope: no such file or directory'),
        ("/bin/plain", 126, 'exec: "/bin/plain": permission denied'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
        ("/bin/foreign", 126, "exec /bin/foreign: exec format error (the program is built for arm64"),
        ("/proc/self/exe", 126, 'exec: "/proc/self/exe": stat /proc/self/exe: too many levels of symbolic links'),
    ],
)
def test_why_a_program_cannot_run(rootfs: Path, program: str, code: int, sentence: str) -> None:
    failed = refusal(a_launch(rootfs, program))
    assert (failed.exit_code, failed.message[: len(sentence)]) == (code, sentence)


def test_working_directory_is_made_inside_and_never_a_descriptor(rootfs: Path) -> None:
    assert run(a_launch(rootfs, "sh", "-c", "pwd", process={"cwd": "/srv/new"}))[1] == "/srv/new\n"
    for number in range(3, 12):
        assert refusal(a_launch(rootfs, "sh", process={"cwd": f"/proc/self/fd/{number}"})).stage == "cwd"


def test_volumes_and_links_stay_inside(rootfs: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "note").write_text("hello")
    os.symlink("/../../escape", rootfs / "lower/link")
    bind = Mount(destination="/link/data", source=str(volume), options=("rbind", "ro", "rprivate"))
    script = "cat /escape/data/note; echo x > /escape/data/note || echo no"
    launch = a_launch(rootfs, "sh", "-c", script, mounts=(bind,))
    started = Started(launch)
    code, text = started.finish()
    assert not Path("/escape").exists()
    assert started.failed is None  # the dangling link is followed, and its target made, inside
    assert code == 0 and text.startswith("hello") and text.splitlines()[-1] == "no"


def test_readonly_root_and_init(rootfs: Path) -> None:
    script = "echo x > /file || echo no; cat /proc/1/comm /proc/1/cmdline; echo; echo $$; kill -9 $$"
    code, text = run(a_launch(rootfs, "sh", "-c", script, readonly=True, init=True))
    assert code == 137
    assert text.splitlines()[-4:-2] == ["no", "cove-init"] and text.splitlines()[-1] != "1"
    assert text.splitlines()[-2].strip("\0") == "/sbin/cove-init"


def test_terminal_comes_from_the_containers_devpts(rootfs: Path) -> None:
    launch = a_launch(rootfs, "sh", "-c", "tty; ls /dev/pts /dev/console; exit 3", process={"terminal": True})
    started = Started(launch)
    assert started.failed is None
    text = b""
    while True:
        try:
            text += os.read(started.master, 4096)
        except OSError:
            break
    os.close(started.master)
    assert b"/dev/pts/0" in text and b"/dev/console" in text
    assert started.finish()[0] == 3


def test_exec_joins(rootfs: Path) -> None:
    from cove.kernel import namespaces

    first = Started(a_launch(rootfs, "sleep", "5"))
    assert first.failed is None
    sync, far_sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gate, far_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    wanted = Process(args=("sh", "-c", "hostname; cat /proc/1/comm; id -u; exit 9"), cwd="/", env=("PATH=/bin",))
    launch = ExecLaunch(id="e", container="a" * 64, process=wanted, user="web")
    with namespaces.children_in(first.pidfd):
        pid, _ = process.clone(0)
        if pid == 0:
            exec_child.run(
                launch,
                target_pidfd=first.pidfd,
                sync_fd=far_sync.fileno(),
                gate_fd=far_gate.fileno(),
                stdio=ChildStdio(stdout=writing, stderr=writing),
            )
    for each in (far_sync, far_gate):
        each.close()
    os.close(writing)
    gate.send(b"go")
    sync.send(msgspec.json.encode(Go()))
    failed = sync.recv(65536)
    with open(reading, encoding="utf-8") as file:
        text = file.read()
    assert (failed, text.split()) == (b"", ["box", "sleep", "33"])
    assert process.exit_code(os.waitpid(pid, 0)[1]) == 9
    process.send_signal(first.pidfd, 9)
    assert first.finish()[0] == 137


def test_bare_uid_of_the_spec(rootfs: Path) -> None:
    user = User(uid=7, gid=8, additional_gids=(9,))
    launch = msgspec.structs.replace(a_launch(rootfs, "id", process={"user": user}), user=None)
    assert run(launch)[1].startswith("uid=7 gid=8")
    assert subprocess.run(["true"], check=True).returncode == 0
