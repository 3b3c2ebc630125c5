"""OCI bundles of the small image, and `cove-oci` to run them: what the tests of the configuration stand on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, PATIENCE, eventually

SAFE = ["nosuid", "noexec", "nodev"]
SLEEP = ("sh", "-c", "trap 'exit 9' TERM; while true; do sleep 0.05; done")


def config(*args: str) -> dict[str, Any]:
    """A configuration that runs `args` as root with all capabilities, in namespaces of its own."""
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": SAFE},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "pts", "options": ["newinstance", "ptmxmode=0666"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*SAFE, "ro"]},
    ]
    sets = [f"CAP_{name}" for name in "CHOWN DAC_OVERRIDE SETUID SETGID SYS_ADMIN NET_ADMIN MKNOD".split()]
    return {
        "ociVersion": "1.2.1",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "cwd": "/",
            "args": list(args),
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), sets),
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
        },
    }


@dataclass
class Bundle:
    """A directory with a root file system; each run writes its configuration there."""

    path: Path
    state: Path
    counter: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    def write(self, content: dict[str, Any]) -> None:
        (self.path / "config.json").write_text(json.dumps(content))

    def call(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """One cove-oci command."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
        settings["timeout"] = 60 * PATIENCE
        return subprocess.run([str(BIN / "cove-oci"), "--root", str(self.state), *words], **(settings | options))

    def name(self) -> str:
        return f"conf-{os.getpid()}-{next(self.counter)}"

    def run(self, content: dict[str, Any], **options: Any) -> subprocess.CompletedProcess[str]:
        """The configuration, run to its end."""
        self.write(content)
        return self.call("run", "--bundle", str(self.path), self.name(), **options)

    def out(self, content: dict[str, Any]) -> str:
        """What it printed; it must succeed."""
        done = self.run(content)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def refusal(self, content: dict[str, Any]) -> str:
        """The one sentence that says why it was refused."""
        done = self.run(content)
        assert done.returncode != 0, done.stdout
        return done.stderr

    @contextmanager
    def living(self, content: dict[str, Any]) -> Iterator[str]:
        """A container that runs in the background; its name."""
        self.write(content)
        name = self.name()
        with (self.path / "said").open("w") as said:  # a pipe would stay open as long as the container lives
            streams: dict[str, Any] = {"capture_output": False, "stdout": said, "stderr": said}
            done = self.call("run", "--detach", "--bundle", str(self.path), name, **streams)
        assert done.returncode == 0, (self.path / "said").read_text()
        try:
            yield name
        finally:
            self.call("delete", "--force", name)

    def pid(self, name: str) -> int:
        return int(json.loads(self.call("state", name).stdout)["pid"])


@contextmanager
def made(archive: Path) -> Iterator[Bundle]:
    """A bundle of the image's files, in a directory that any user may enter."""
    path = Path(tempfile.mkdtemp(prefix="cove-bundle-", dir="/var/tmp"))
    try:
        path.chmod(0o755)
        (path / "rootfs").mkdir()
        subprocess.run(["tar", "-C", path / "rootfs", "-xf", archive], check=True)
        yield Bundle(path, path / "state")
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def bundle(archive: Path) -> Iterator[Bundle]:
    """One bundle for a module's tests."""
    with made(archive) as found:
        yield found


@pytest.fixture
def name(bundle: Bundle) -> Iterator[str]:
    """Of one container, which is gone at the end."""
    given = bundle.name()
    yield given
    bundle.call("delete", "--force", given)


@pytest.fixture(scope="module")
def living(bundle: Bundle) -> Iterator[str]:
    """A container that runs as long as a module's tests."""
    with bundle.living(config(*SLEEP)) as name:
        yield name


# ── one command, and what it must say ─────────────────────────────────────────────────────────────


def create(bundle: Bundle, name: str, content: dict[str, Any], *flags: str, **options: Any) -> Path:
    """Create a container whose output goes to the file that is returned."""
    bundle.write(content)
    output, errors = bundle.path / f"{name}.out", bundle.path / f"{name}.err"
    with output.open("wb") as file, errors.open("wb") as told:
        done = bundle.call(
            "create",
            "--bundle",
            str(bundle.path),
            *flags,
            name,
            **({"capture_output": False, "stdout": file, "stderr": told} | options),
        )
    assert done.returncode == 0, errors.read_text()
    return output


def good(bundle: Bundle, *words: str) -> str:
    done = bundle.call(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def refused(bundle: Bundle, *words: str, code: int = 1) -> str:
    """What the failed command says: one sentence."""
    done = bundle.call(*words)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("cove-oci: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def status(bundle: Bundle, name: str) -> str:
    return str(json.loads(good(bundle, "state", name))["status"])


def until(condition: Callable[[], bool]) -> None:
    assert eventually(condition)


def groups_of(name: str) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"*/cove-oci/{name}"), *Path("/sys/fs/cgroup").glob(f"cove-oci/{name}")]
