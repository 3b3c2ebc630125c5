"""What inspections say, and what they leave out: clients ask whether a field is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, stocked
from tests.integration.api_client import Api


@pytest.fixture
def api(daemon: Daemon) -> Api:
    return Api(daemon)


@pytest.fixture
def make(api: Api) -> Iterator[Callable[..., str]]:
    """Makes containers that run, and removes them."""
    made: list[str] = []

    def create(**body: Any) -> str:
        asked = {"Image": "busybox", "Cmd": ["sleep", "600"], **body}
        status, answer = api.call("POST", "/containers/create", asked)
        assert status == 201, answer
        made.append(answer["Id"])
        assert api.call("POST", f"/containers/{answer['Id']}/start")[0] == 204
        return str(answer["Id"])

    yield create
    for identity in made:
        api.call("DELETE", f"/containers/{identity}", force=1, v=1)


_CONFIG = {
    "ExposedPorts": {"80/tcp": {}}, "Healthcheck": {"Test": ["NONE"]}, "StopSignal": "SIGINT", "StopTimeout": 0,
    "Shell": ["/bin/sh", "-c"],
}  # fmt: skip
_HOST = {
    "Annotations": {"a": "b"}, "Tmpfs": {"/s": "size=1m"}, "Sysctls": {"net.ipv4.ip_forward": "1"},
    "Mounts": [{"Type": "tmpfs", "Target": "/m"}], "Init": False, "NetRate": "in=1048576",
}  # fmt: skip


@pytest.mark.parametrize("version", ["1.24", "1.45", "1.56"])
def test_a_container_shows_what_was_said_alone(daemon: Daemon, make: Callable[..., str], version: str) -> None:
    api = Api(daemon, version)
    said = api.call("GET", f"/containers/{make(**_CONFIG, HostConfig=_HOST)}/json")[1]
    unsaid = api.call("GET", f"/containers/{make()}/json")[1]
    for part, fields in (("Config", _CONFIG), ("HostConfig", _HOST)):
        assert {name: said[part].get(name) for name in fields} == fields
        assert not fields.keys() & unsaid[part].keys()
    assert "ArgsEscaped" not in said["Config"] and "NetworkDisabled" not in said["Config"]


def test_only_volumes_have_a_name_and_a_driver(api: Api, make: Callable[..., str]) -> None:
    made = make(Volumes={"/v": {}}, HostConfig={"Binds": ["/tmp:/t"]})
    mounts = {each["Destination"]: each for each in api.call("GET", f"/containers/{made}/json")[1]["Mounts"]}
    assert mounts["/v"]["Name"] and mounts["/v"]["Driver"] == "local"
    assert not {"Name", "Driver"} & mounts["/t"].keys()


def test_a_tmpfs_is_shown_where_it_was_asked_for(api: Api, make: Callable[..., str]) -> None:
    made = make(HostConfig={"Tmpfs": {"/s": ""}, "Mounts": [{"Type": "tmpfs", "Target": "/m"}]})
    (shown,) = api.call("GET", f"/containers/{made}/json")[1]["Mounts"]
    assert (shown["Type"], shown["Destination"], shown["Source"], shown["RW"]) == ("tmpfs", "/m", "", True)
    (line,) = api.call("GET", "/containers/json", filters=json.dumps({"id": [made]}))[1]
    assert [each["Destination"] for each in line["Mounts"]] == ["/m"]


def test_an_exec_shows_a_user_who_was_named(api: Api, make: Callable[..., str]) -> None:
    container = make()

    def shown(**body: object) -> dict[str, Any]:
        made = api.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"], **body})[1]["Id"]
        process: dict[str, Any] = api.call("GET", f"/exec/{made}/json")[1]["ProcessConfig"]
        return process

    assert "user" not in shown()
    assert shown(User="worker")["user"] == "worker"


def test_a_containers_files_are_where_its_graph_driver_says(api: Api, make: Callable[..., str]) -> None:
    container = make(Cmd=["sh", "-c", "echo hi > /new; exec sleep 600"])
    api.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"]})
    data = api.call("GET", f"/containers/{container}/json")[1]["GraphDriver"]["Data"]
    assert Path(data["MergedDir"], "new").exists() or Path(data["MergedDir"], "bin/busybox").exists()
    assert Path(data["UpperDir"]).is_dir() and Path(data["WorkDir"]).is_dir()
    assert any(Path(layer, "bin/busybox").exists() for layer in data["LowerDir"].split(":"))
    api.call("POST", f"/containers/{container}/kill")
    api.call("POST", f"/containers/{container}/wait")
    stopped = api.call("GET", f"/containers/{container}/json")[1]["GraphDriver"]["Data"]
    assert "MergedDir" not in stopped and stopped["UpperDir"] == data["UpperDir"]
    assert Path(stopped["UpperDir"], "new").read_text() == "hi\n"


def test_details_of_logs_are_in_order(daemon: Daemon, make: Callable[..., str]) -> None:
    log = {"Type": "json-file", "Config": {"labels": "shade", "env": "A"}}
    made = make(Cmd=["echo", "hi"], Labels={"shade": "blue"}, Env=["A=b"], HostConfig={"LogConfig": log})
    daemon.docker("wait", made)
    assert daemon.docker("logs", "--details", made).stdout == "A=b,shade=blue hi\n"


def test_an_images_layers_are_where_its_graph_driver_says(api: Api) -> None:
    data = api.call("GET", "/images/busybox/json")[1]["GraphDriver"]["Data"]
    assert Path(data["UpperDir"], "bin/busybox").exists() and "LowerDir" not in data


def test_lists_of_networks_tell_older_clients_of_no_containers(daemon: Daemon) -> None:
    older, newest = (Api(daemon, version).call("GET", "/networks")[1] for version in ("1.45", "1.56"))
    assert all(each["Containers"] == {} for each in older)
    assert not any("Containers" in each for each in newest)


def test_the_default_network_shows_what_it_is_like(api: Api) -> None:
    shown = api.call("GET", "/networks/bridge")[1]["Options"]
    bridge = "com.docker.network.bridge."
    assert shown.pop(f"{bridge}name").startswith("cove") and int(shown.pop("com.docker.network.driver.mtu")) >= 68
    assert shown == {
        f"{bridge}default_bridge": "true",
        f"{bridge}enable_icc": "true",
        f"{bridge}enable_ip_masquerade": "true",
        f"{bridge}host_binding_ipv4": "0.0.0.0",
    }


def test_info_tells_the_file_system_of_the_data_root(daemon: Daemon, api: Api) -> None:
    words = ("stat", "--file-system", "--format=%t", str(daemon.data))
    magic = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    names = {
        "ef53": "extfs",
        "58465342": "xfs",
        "9123683e": "btrfs",
        "1021994": "tmpfs",
        "794c7630": "overlayfs",
        "2fc12fc1": "zfs",
        "f2f52010": "f2fs",
        "6969": "nfs",
        "ca451a4e": "bcachefs",
    }
    told = dict(api.call("GET", "/info")[1]["DriverStatus"])
    assert told["Backing Filesystem"] == names.get(magic, f"0x{magic}")


def test_info_tells_mirrors_and_insecure_registries(archive: Path, tmp_path: Path) -> None:
    said = tmp_path / "registries.toml"
    (tmp_path / "daemon.toml").write_text(
        f'insecure_registries = ["plain.lan:5000", "10.9.0.0/16"]\nregistries = "{said}"\n'
    )
    with stocked(archive, "--config", str(tmp_path / "daemon.toml")) as daemon:
        shown = Api(daemon).call("GET", "/info")[1]["RegistryConfig"]
        assert shown["Mirrors"] is None and "10.9.0.0/16" in shown["InsecureRegistryCIDRs"]
        assert {name: each["Secure"] for name, each in shown["IndexConfigs"].items()} == {
            "docker.io": True,
            "plain.lan:5000": False,
        }
        said.write_text(
            '[[registry]]\nprefix = "docker.io"\nmirrors = ["mirror.lan:5000/hub", "other.lan"]\n'
            '[host."mirror.lan:5000"]\nplain_http = true\n'
        )
        shown = Api(daemon).call("GET", "/info")[1]["RegistryConfig"]
        mirrors = ["http://mirror.lan:5000/hub/", "https://other.lan/"]
        assert shown["Mirrors"] == shown["IndexConfigs"]["docker.io"]["Mirrors"] == mirrors
        assert not shown["IndexConfigs"]["mirror.lan:5000"]["Secure"]
        said.write_text("[[registry]]\n")
        assert any("the file of registries" in each for each in Api(daemon).call("GET", "/info")[1]["Warnings"])
