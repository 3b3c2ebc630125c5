"""What every test stands on: a private daemon, a small image, and a host that must be left as it was.

Each daemon of the tests has its own data root, run root, bridge, firewall table and control groups, all
named after its run root, so that several run side by side and none touches the host's own Cove.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.ahead import Beside

BIN = Path(sys.executable).parent
BUSYBOX = Path("/bin/busybox")
PATIENCE = float(os.environ.get("COVE_TEST_PATIENCE", "1"))
"""How many times longer than usual things may take: an emulated machine is slow."""

settings.register_profile("cove", derandomize=True, deadline=None, database=None)
settings.load_profile("cove")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root, tests that need it are skipped with that reason, which pytest prints (-ra)."""
    from tests import ahead  # which stands on this module

    ahead.put_last(items)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or "integration" in item.path.parts or "museum" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes namespaces, mounts and control groups"))


def eventually(reached: Callable[[], object], seconds: float = 20, pause: float = 0.05) -> bool:
    """Whether it comes to that before one's patience ends; asked again after each pause, in seconds."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            return bool(reached())  # whoever was not let run for so long has a last look
        time.sleep(pause)
    return True


def below(directory: Path) -> Iterator[Path]:
    """What lies below a directory while others make and remove it: Path.rglob fails where something goes."""
    for where, directories, files in os.walk(directory):
        yield from (Path(where, name) for name in (*directories, *files))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that somebody else will bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # before its file is opened, or after
        return True


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (SigCgt of proc_pid_status(5)), e.g. a shell its trap."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)


_ports = itertools.count(20_000 + os.getpid() * 7 % 8_000)


def free_port() -> int:
    """A TCP port of the loopback's that nobody has and that is given away once in a run.

    It lies below those that the kernel chooses by itself (ip_local_port_range), so that no connection can take it
    before its user does.
    """
    while True:
        port = 20_000 + (next(_ports) - 20_000) % 12_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def host_state() -> dict[str, list[str]]:
    """What Cove could leave behind: mounts, interfaces, control groups, nft tables, processes."""
    groups = [str(path) for pattern in ("*/cove*", "cove*") for path in Path("/sys/fs/cgroup").glob(pattern)]
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    tables: list[str] = []
    if os.geteuid() == 0 and shutil.which("nft"):
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines()
    return {
        "mounts": sorted(mounts),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "control groups": sorted(groups),
        "nft tables": sorted(tables),
        "processes": sorted(_cove_processes()),
    }


def _cove_processes() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(b"cove.") for word in words[:6]):
                yield f"{entry.name} {b' '.join(words).decode(errors='replace')}"


@pytest.fixture(scope="session", autouse=True)
def host_left_as_found() -> Iterator[None]:
    """The whole run leaves the host's mounts, interfaces, cgroups, nft tables and processes as they were."""
    before = host_state()
    yield
    eventually(lambda: host_state() == before, pause=0.2)
    after = host_state()
    changed = {what: sorted(set(after[what]) ^ set(before[what])) for what in before if after[what] != before[what]}
    assert not changed, f"the tests changed the host: {changed}"


@pytest.fixture(scope="session", autouse=True)
def beside(host_left_as_found: None, request: pytest.FixtureRequest) -> Iterator[Beside | None]:
    """What is done beside the tests, for those that come last."""
    from tests import ahead

    with ahead.begun(request.session.items) as process:
        yield process


@dataclass
class Daemon:
    """A daemon with roots of its own, and the clients that talk to it."""

    root: Path
    extra: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    """A command that the daemon is executed by, e.g. in other namespaces."""
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def host(self) -> str:
        return f"unix://{self.run}/cove.sock"

    def start(self) -> None:
        """Start it and wait until its socket answers."""
        log = (self.root / "daemon.log").open("ab")
        command = [
            *self.around,
            BIN / "cove",
            "daemon",
            "--data-root",
            self.data,
            "--run-root",
            self.run,
            *self.extra,
        ]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        if not eventually(self._answers, 60, pause=0.02):
            pytest.fail(f"the daemon does not answer: {self.log()}")

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            pytest.fail(f"the daemon ended: {self.log()}")
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.run / "cove.sock")) == 0

    def log(self) -> str:
        return (self.root / "daemon.log").read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """SIGKILL, as a fault."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the daemon did not stop within a minute of SIGTERM: {self.log()}")

    def cove(self, *words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """The cove command against this daemon."""
        return self._client([str(BIN / "cove"), *words], check, options)

    def docker(self, *words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """The real docker client against this daemon."""
        program = shutil.which("docker")
        if program is None:
            pytest.skip("the docker client is not installed on this machine")
        return self._client([program, *words], check, options)

    def _client(
        self, command: list[str], check: bool, options: dict[str, object]
    ) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 120 * PATIENCE}
        environment = os.environ | {"COVE_HOST": self.host, "DOCKER_HOST": self.host} | self.environment
        done = subprocess.run(command, env=environment, **(settings | options))  # type: ignore[call-overload]
        if check and done.returncode:
            pytest.fail(f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}\n--- daemon:\n{self.log()}")
        return done  # type: ignore[no-any-return]

    def clean(self) -> None:
        """Remove every container and image, as a user would, and end the daemon."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        names = self.cove("ps", "-aq", "--no-trunc").stdout.split()
        if names:
            self.cove("rm", "-f", "-v", *names)
        self.stop()


def new_daemon(*extra: str) -> Daemon:
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="cove-test-", dir="/var/tmp")), extra)
    daemon.environment["DOCKER_CONFIG"] = str(daemon.root / "docker-config")
    return daemon


@contextmanager
def stocked(archive: Path, *extra: str) -> Iterator[Daemon]:
    """A daemon with these flags and the image busybox:latest; it goes with everything that it has."""
    daemon = new_daemon(*extra)
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def busybox_archive(path: Path) -> Path:
    """A root file system of one static busybox and its applets' links, as a tar."""
    tree = path / "tree"
    for name in ("bin", "etc", "tmp", "root", "dev", "proc", "sys", "var/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    shutil.copy2(BUSYBOX, tree / "bin/busybox")
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n")
    archive = path / "busybox.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "--owner=0", "--group=0", "."], check=True)
    shutil.rmtree(tree)
    return archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small image's root file system."""
    if not BUSYBOX.exists():
        pytest.fail("the package busybox-static is missing; `make test` installs it")
    return busybox_archive(tmp_path_factory.mktemp("busybox"))


@pytest.fixture(scope="session")
def daemon(archive: Path) -> Iterator[Daemon]:
    """One daemon for all tests that need no fault, with the image busybox:latest in it."""
    with stocked(archive) as daemon:
        yield daemon


@pytest.fixture
def own_daemon(archive: Path) -> Iterator[Daemon]:
    """A daemon for one test alone, which may kill and restart it; busybox:latest is in it."""
    with stocked(archive) as daemon:
        yield daemon
