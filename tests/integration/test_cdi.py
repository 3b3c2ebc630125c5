"""Devices that vendors describe in CDI files, by name and by `--gpus`, through `cove` and the docker client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, new_daemon

_SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "example.com/gpu",
    "containerEdits": {"env": ["VENDOR=example"]},
    "devices": [
        {
            "name": str(number),
            "containerEdits": {
                "env": [f"GPU{number}=yes"],
                "deviceNodes": [{"path": f"/dev/gpu{number}", "type": "c", "major": 1, "minor": minor}],
                "mounts": [{"hostPath": "/etc/hostname", "containerPath": f"/opt/gpu{number}", "options": ["ro"]}],
            },
        }
        for number, minor in ((0, 5), (1, 7))
    ],
}
_YAML = """
cdiVersion: "0.5.0"
kind: example.com/net
devices:
  - name: card
    containerEdits:
      deviceNodes:
        - path: /dev/card
          hostPath: /dev/fuse
          permissions: r
"""
_HOOKED = {
    "cdiVersion": "1.0.0",
    "kind": "hooks.example/thing",
    "devices": [
        {
            "name": "one",
            "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/usr/bin/vendor-hook"}]},
        }
    ],
}


@pytest.fixture(scope="module")
def vendor(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose CDI directories are the test's own."""
    place = tmp_path_factory.mktemp("cdi")
    first, second = place / "first", place / "second"
    first.mkdir()
    second.mkdir()
    (first / "gpu.json").write_text(json.dumps(_SPEC))
    (first / "net.yaml").write_text(_YAML)
    (first / "hooked.json").write_text(json.dumps(_HOOKED))
    (first / "broken.yaml").write_text("cdiVersion: [")
    (second / "over.json").write_text(json.dumps(_SPEC | {"containerEdits": {"env": ["VENDOR=newer"]}}))
    (place / "daemon.toml").write_text(f'cdi_directories = ["{first}", "{second}"]\n')
    daemon = new_daemon("--config", str(place / "daemon.toml"))
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


@pytest.mark.parametrize("client", ["cove", "docker"])
def test_a_device_brings_node_environment_and_mount(vendor: Daemon, client: str) -> None:
    script = (
        "stat -c '%t:%T' /dev/gpu1; echo $GPU1 $VENDOR $GPU0; cat /opt/gpu1; head -c1 /dev/gpu1 | wc -c; ls /dev/gpu0"
    )
    run = getattr(vendor, client)
    done = run("run", "--rm", "--device", "example.com/gpu=1", "busybox", "sh", "-c", script, check=False)
    assert done.stdout == f"1:7\nyes newer\n{Path('/etc/hostname').read_text()}1\n"


def test_yaml_and_permissions(vendor: Daemon) -> None:
    script = "(: < /dev/card) && echo opened; (: > /dev/card)"
    done = vendor.cove("run", "--rm", "--device", "example.com/net=card", "busybox", "sh", "-c", script, check=False)
    assert done.stdout == "opened\n"
    assert "not permitted" in done.stderr


@pytest.mark.parametrize("client", ["cove", "docker"])
@pytest.mark.parametrize(("gpus", "found"), [("all", "0 1"), ("1", "0"), ("device=1", "1")])
def test_gpus(vendor: Daemon, client: str, gpus: str, found: str) -> None:
    run = getattr(vendor, client)
    done = run("run", "--rm", "--gpus", gpus, "busybox", "sh", "-c", "cd /dev; ls -d gpu*")
    assert done.stdout.split() == [f"gpu{number}" for number in found.split()]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--device", "example.com/gpu=9"), "unresolvable CDI devices example.com/gpu=9"),
        (("--device", "nobody.example/x=y"), "broken.yaml cannot be used"),
        (("--device", "hooks.example/thing=one"), "needs /usr/bin/vendor-hook to run as a createContainer hook"),
        (("--gpus", "3"), "3 GPUs were asked for and the CDI files of this host name 2"),
        (("--gpus", "driver=nvidia,count=1"), "no CDI file in the CDI directories of this host describes a GPU"),
        (("--gpus", "count=some"), "is not all, a number"),
    ],
)
def test_what_is_not_there_is_said(vendor: Daemon, words: tuple[str, ...], sentence: str) -> None:
    done = vendor.cove("run", "--rm", *words, "busybox", "true", check=False)
    assert done.returncode == 125
    assert sentence in done.stderr
    assert not vendor.cove("ps", "-aq").stdout


def test_info_names_the_directories(vendor: Daemon) -> None:
    shown = json.loads(vendor.cove("info", "--format", "json").stdout)
    assert [Path(each).name for each in shown["CDISpecDirs"]] == ["first", "second"]


def test_a_build_step_gets_its_devices(vendor: Daemon, tmp_path: Path) -> None:
    step = "RUN --device=example.com/gpu=0 --device=example.com/gpu=9 test $GPU0 = yes && test -c /dev/gpu0"
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{step}\n")
    refused = vendor.cove("build", "-q", str(tmp_path), check=False)
    assert refused.returncode and "--allow device" in refused.stderr
    assert vendor.cove("build", "-q", "--allow", "device", str(tmp_path)).stdout.startswith("sha256:")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN --device=example.com/gpu=9,required true\n")
    missing = vendor.cove("build", "-q", "--allow", "device", str(tmp_path), check=False)
    assert missing.returncode and "example.com/gpu=9" in missing.stderr
