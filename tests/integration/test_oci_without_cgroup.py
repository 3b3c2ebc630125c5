"""`cove-oci` where there is no control group: asked for (podman's --cgroups=disabled), or not to be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, PATIENCE, has_ended
from tests.integration import bundles
from tests.integration.bundles import SLEEP, Bundle, config, refused, status, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bundle(archive: Path) -> Iterator[Bundle]:
    with bundles.made(archive) as made:
        yield made


def without(bundle: Bundle, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return bundle.call("--cgroup-manager", "disabled", *words, **options)


@pytest.fixture
def living(bundle: Bundle) -> Iterator[str]:
    bundle.write(config(*SLEEP))
    name = bundle.name()
    with (bundle.path / "said").open("w") as said:
        streams: dict[str, Any] = {"capture_output": False, "stdout": said, "stderr": said}
        done = without(bundle, "run", "--detach", "--bundle", str(bundle.path), name, **streams)
    assert done.returncode == 0, (bundle.path / "said").read_text()
    yield name
    bundle.call("delete", "--force", name)


def test_its_processes_stay_in_their_makers_group(bundle: Bundle, living: str) -> None:
    assert Path(f"/proc/{bundle.pid(living)}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    assert bundle.call("exec", living, "echo", "inside").stdout == "inside\n"
    assert status(bundle, living) == "running"


def test_they_are_listed_and_ended_together(bundle: Bundle, living: str) -> None:
    bundle.call("exec", "--detach", living, *SLEEP, capture_output=False)
    listed = json.loads(bundle.call("ps", "--format", "json", living).stdout)
    assert bundle.pid(living) in listed and len(listed) >= 2
    assert bundle.call("kill", "--all", living, "KILL").returncode == 0
    until(lambda: all(map(has_ended, listed)))
    assert status(bundle, living) == "stopped"


def test_what_needs_a_group_is_refused(bundle: Bundle, living: str) -> None:
    assert "cannot be paused" in refused(bundle, "pause", living)
    assert "nothing can be limited" in refused(bundle, "update", "--memory", "64m", living)
    assert "no figures" in refused(bundle, "events", "--stats", living)
    content = config("true")
    content["linux"]["resources"] = {"pids": {"limit": 9}}
    bundle.write(content)
    done = without(bundle, "run", "--bundle", str(bundle.path), bundle.name())
    assert done.returncode == 1 and "the configuration limits processes" in done.stderr
    content = config("true")
    content["linux"]["namespaces"] = [{"type": "mount"}]
    content["hostname"] = ""
    bundle.write(content)
    done = without(bundle, "run", "--bundle", str(bundle.path), bundle.name())
    assert done.returncode == 1 and "needs a pid namespace of its own" in done.stderr


def test_podman_without_a_group(archive: Path, tmp_path: Path) -> None:
    """podman hands its --cgroups=disabled on to runtimes that containers.conf says can do so."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    settings = tmp_path / "containers.conf"
    names = "runtime_supports_nocgroups", "runtime_supports_nocgroup"  # documented, and what older ones read
    said = "".join(f'{name} = ["cove-oci"]\n' for name in names)
    settings.write_text(f'[engine]\n{said}[engine.runtimes]\ncove-oci = ["{BIN}/cove-oci"]\n')
    store = Path(tempfile.mkdtemp(prefix="cove-podman-", dir="/var/tmp"))  # its run root may have 50 characters
    words = ["podman", "--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs"]
    words += ["--events-backend", "none", "--cgroup-manager", "cgroupfs", "--runtime", "cove-oci"]

    def podman(*more: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"CONTAINERS_CONF": str(settings)}
        return subprocess.run(
            [*words, *more], capture_output=True, text=True, timeout=120 * PATIENCE, env=environment
        )

    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none")
    try:
        podman("import", str(archive), "localhost/box")
        done = podman("run", "--rm", "--cgroups=disabled", *limits, "localhost/box", "cat", "/proc/self/cgroup")
        assert done.returncode == 0, done.stderr
        assert "libpod" not in done.stdout
    finally:
        shutil.rmtree(store, ignore_errors=True)
