"""Devices that vendors describe in CDI files, by name and by `--gpus`, through `cove` and the docker client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, stocked
from tests.integration.test_build import context

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
    annotations:
      org.mobyproject.buildkit.device.autoallow: true
      org.mobyproject.buildkit.device.class: cards
    containerEdits:
      deviceNodes:
        - path: /dev/card
          hostPath: /dev/fuse
          permissions: r
"""
_HOOK = """#!/bin/sh
# As vendors' tools do: from the state to the bundle, from there to the root file system, and links made in it.
bundle=$(sed 's/.*"bundle":"\\([^"]*\\)".*/\\1/')
root=$(sed 's/.*"root":{"path":"\\([^"]*\\)".*/\\1/' "$bundle/config.json")
test "$1" = links -a "$PWD" = "$root" -a -d "$root/proc/self" || exit 3
test -z "$SECRET_OF_THE_DAEMON" || exit 4
ln -s "$2" "$root/lib-of-the-vendor" && hostname > "$root/hook-was-here"
"""


def _hooked(place: Path) -> dict[str, object]:
    """Devices whose file has programs to run."""

    def device(name: str, hook: str, program: str) -> dict[str, object]:
        asked = {"hookName": hook, "path": f"{place}/{program}", "args": ["vendor-hook", "links", "/opt/driver"]}
        return {"name": name, "containerEdits": {"hooks": [asked]}}

    devices = [
        device("one", "createContainer", "hook"),
        device("outside", "prestart", "hook"),
        device("anybodys", "createContainer", "anybodys-hook"),
        device("failing", "createContainer", "failing-hook"),
    ]
    return {"cdiVersion": "1.0.0", "kind": "hooks.example/thing", "devices": devices}


@pytest.fixture(scope="module")
def vendor(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose CDI directories are the test's own."""
    place = tmp_path_factory.mktemp("cdi")
    first, second = place / "first", place / "second"
    first.mkdir()
    second.mkdir()
    (first / "gpu.json").write_text(json.dumps(_SPEC))
    (first / "net.yaml").write_text(_YAML)
    for name, content, mode in (
        ("hook", _HOOK, 0o755),
        ("anybodys-hook", _HOOK, 0o777),
        ("failing-hook", "#!/bin/sh\necho no such driver >&2\nexit 7\n", 0o755),
    ):
        (place / name).write_text(content)
        (place / name).chmod(mode)
    (first / "hooked.json").write_text(json.dumps(_hooked(place)))
    (first / "anybodys.json").write_text(json.dumps(_hooked(place) | {"kind": "anybody.example/thing"}))
    (first / "anybodys.json").chmod(0o666)
    (first / "broken.yaml").write_text("cdiVersion: [")
    (second / "over.json").write_text(json.dumps(_SPEC | {"containerEdits": {"env": ["VENDOR=newer"]}}))
    (place / "daemon.toml").write_text(f'cdi_directories = ["{first}", "{second}"]\n')
    with stocked(archive, "--config", str(place / "daemon.toml")) as daemon:
        yield daemon


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
        (("--device", "hooks.example/thing=outside"), "/hook to run as a prestart hook"),
        (("--device", "hooks.example/thing=anybodys"), "cannot be run: others than root may write it"),
        (
            ("--device", "anybody.example/thing=one"),
            "names programs to run (hooks), and others than root may write it",
        ),
        (("--device", "hooks.example/thing=one", "--userns", "auto"), "give the container --userns=host"),
        (("--device", "hooks.example/thing=failing"), "failed: exit status 7: no such driver"),
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


@pytest.mark.parametrize("client", ["cove", "docker"])
def test_the_hooks_of_a_device_prepare_its_container(vendor: Daemon, client: str) -> None:
    """As a GPU's need: they make links, and a cache of libraries, in the container's own tree and nowhere else."""
    run = getattr(vendor, client)
    script = "readlink /lib-of-the-vendor; cat /hook-was-here; hostname"
    done = run("run", "--rm", "--device", "hooks.example/thing=one", "busybox", "sh", "-c", script)
    link, by_the_hook, own = done.stdout.split()
    assert (link, by_the_hook) == ("/opt/driver", own)
    name = vendor.cove("create", "--device", "hooks.example/thing=one", "busybox", "test", "-e", "/hook-was-here")
    for _ in range(2):  # each start runs them anew, in a tree that has what they left
        assert vendor.cove("start", "-a", name.stdout.strip(), check=False).returncode in (0, 125)
    vendor.cove("rm", name.stdout.strip())


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


def test_explain_tells_what_of_the_host_a_device_runs(vendor: Daemon) -> None:
    words = ("--device", "hooks.example/thing=one", "busybox", "sleep", "600")
    page = vendor.cove("run", "--explain", *words).stdout
    plan = json.loads(vendor.cove("run", "--explain", "--format", "json", *words).stdout)
    (hook,) = plan["Security"]["Hooks"]
    assert (hook["Stage"], hook["Args"]) == ("createContainer", ["vendor-hook", "links", "/opt/driver"])
    assert f"{hook['Path']} links /opt/driver: of the host, run as root at each start" in " ".join(page.split())
    identity = vendor.cove("run", "-d", *words).stdout.strip()
    try:
        found = json.loads(vendor.cove("explain", "--format", "json", identity).stdout)
        assert found["Security"]["Hooks"] == [hook]
    finally:
        vendor.cove("rm", "-f", identity)


def built(daemon: Daemon, place: Path, run: str, *words: str) -> str:
    """What a build whose one step is `run` says."""
    where = context(place / "c", f"FROM busybox\n{run}\n")
    done = daemon.cove("build", "--no-cache", "--progress", "plain", *words, str(where), check=False)
    return done.stderr if done.returncode else f"done {done.stderr}"


def test_a_builds_devices_are_granted(vendor: Daemon, tmp_path: Path) -> None:
    """CVE-2024-23653: no device that nobody granted; one by one, all, or those that their file allows every build."""
    asked = "RUN --device=example.com/gpu=1,required test -e /dev/gpu1"
    told = built(vendor, tmp_path, asked)
    assert "device example.com/gpu=1 is requested by the build but not allowed" in told
    assert "not allowed" in built(vendor, tmp_path, asked, "--allow", "device=example.com/gpu=0")
    assert built(vendor, tmp_path, asked, "--allow", "device=example.com/gpu=1").startswith("done")
    assert built(vendor, tmp_path, asked, "--allow", "device").startswith("done")


@pytest.mark.parametrize("name", ["example.com/net=card", "name=example.com/net=*", "example.com/net", "cards"])
def test_a_file_may_allow_its_device_to_every_build(vendor: Daemon, tmp_path: Path, name: str) -> None:
    assert built(vendor, tmp_path, f"RUN --device={name} test -e /dev/card").startswith("done")


def test_a_build_without_a_device_that_it_can_do_without(vendor: Daemon, tmp_path: Path) -> None:
    assert built(vendor, tmp_path, "RUN --device=nobody.example/x=y true").startswith("done")
    told = built(vendor, tmp_path, "RUN --device=nobody.example/x=y,required true")
    assert 'required device "nobody.example/x=y" is not registered' in told
    assert "device name already set" in built(vendor, tmp_path, "RUN --device=a.example/x=y,name=z true")
