"""`cove-oci` for somebody who is not root: a user namespace of one's own, and no control group."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cove

pytestmark = pytest.mark.root

NOBODY = 65534
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(archive: Path) -> Iterator[Path]:
    """A bundle, and the state below it, all of nobody's; with it an interpreter that nobody may read."""
    path = Path(tempfile.mkdtemp(prefix="cove-rootless-", dir="/var/tmp"))
    try:
        (path / "bundle/rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-C", path / "bundle/rootfs", "--exclude", "./dev/*", "-xf", archive], check=True)
        for name in ("src", "packages"):
            source = Path(cove.__file__).parents[1] if name == "src" else Path(_packages())
            shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", path], check=True)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _packages() -> str:
    import msgspec

    return str(Path(msgspec.__file__).parents[1])


@pytest.fixture(scope="module")
def cove_oci(home: Path) -> Command:
    interpreter = next((each for each in ("/usr/bin/python3", sys.executable) if _fits(each)), "")
    if not interpreter:
        pytest.skip(
            "there is no Python that a user other than root may run, of the version that the packages are for"
        )

    def call(*words: str, user: int = NOBODY, **options: Any) -> subprocess.CompletedProcess[str]:
        code = "from cove.runtime.oci.main import main; main()"
        command = [interpreter, "-c", code, "--root", str(home / "state"), *words]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{home}/src:{home}/packages"}
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "env": environment}
        settings |= {"user": user, "group": user, "extra_groups": [], "cwd": home / "bundle", "stdin": -3}
        return subprocess.run(command, **(settings | options))

    return call


def _fits(interpreter: str) -> bool:
    """Whether nobody may run it, and it is of our version."""
    code = "import sys; print(sys.version_info[:2])"
    try:
        done = subprocess.run(
            [interpreter, "-c", code], capture_output=True, text=True, user=NOBODY, group=NOBODY, cwd="/"
        )
    except OSError:
        return False
    return done.stdout.strip() == str(tuple(sys.version_info[:2]))


def _configure(home: Path, cove_oci: Command, *args: str) -> dict[str, Any]:
    file = home / "bundle/config.json"
    file.unlink(missing_ok=True)
    done = cove_oci("spec", "--rootless")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(file.read_text())
    content["process"] |= {"terminal": False, "args": list(args)}
    file.write_text(json.dumps(content))
    return content


def test_one_is_root_inside_and_oneself_outside(home: Path, cove_oci: Command) -> None:
    _configure(home, cove_oci, "sh", "-c", "id -u; cat /proc/self/uid_map; echo x > /dev/null && echo written")
    done = cove_oci("run", "rootless-1")
    assert done.stdout.split() == ["0", "0", str(NOBODY), "1", "written"], done.stderr
    assert not list((home / "state").iterdir())


def test_the_whole_life(home: Path, cove_oci: Command) -> None:
    _configure(home, cove_oci, "sleep", "60")
    quiet: dict[str, Any] = {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert cove_oci("create", "rootless-2", **quiet).returncode == 0
    try:
        assert cove_oci("start", "rootless-2").returncode == 0
        pid = json.loads(cove_oci("state", "rootless-2").stdout)["pid"]
        assert f"Uid:\t{NOBODY}\t{NOBODY}" in Path(f"/proc/{pid}/status").read_text()
        done = cove_oci("exec", "rootless-2", "sh", "-c", "id -u; readlink /proc/self/ns/pid")
        assert done.stdout.split() == ["0", os.readlink(f"/proc/{pid}/ns/pid")], done.stderr
        assert str(pid) in cove_oci("ps", "--format", "json", "rootless-2").stdout
    finally:
        assert cove_oci("delete", "--force", "rootless-2").returncode == 0


def test_more_than_one_can_do_is_said(home: Path, cove_oci: Command) -> None:
    content = _configure(home, cove_oci, "true")
    limited = content | {"linux": content["linux"] | {"resources": {"pids": {"limit": 5}}}}
    (home / "bundle/config.json").write_text(json.dumps(limited))
    assert "without a control group nothing can be limited" in cove_oci("run", "rootless-3").stderr
    ids = [{"containerID": 0, "hostID": 0, "size": 1000}]
    others = content | {"linux": content["linux"] | {"uidMappings": ids, "gidMappings": ids}}
    (home / "bundle/config.json").write_text(json.dumps(others))
    done = cove_oci("run", "rootless-3")
    assert done.returncode == 1 and "newuidmap" in done.stderr and "Traceback" not in done.stderr
    assert not list((home / "state").iterdir())
