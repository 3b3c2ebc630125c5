"""What a daemon has on the host and on its disk, compared with what it says it has; and who can be killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cove.paths import Instance, RunRoot
from tests.conftest import Daemon, eventually
from tests.integration.api_client import Api

VICTIMS = ("daemon", "supervisor", "forker", "stubs", "spares", "outfitter", "resolver", "workshop")
_NAMES = {"forker": "cove-forker", "stubs": "cove-stubs", "spares": "cove-stub", "outfitter": "cove-outfitter"}
"""What the supervisor's own processes are called; "stubs" is who makes them, "spares" are those that wait."""


def _processes() -> Iterator[tuple[int, int, str, list[str]]]:
    """(pid, parent, name, words of its command line) of everything that runs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "stat").read_text()
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            name, _, rest = line.partition("(")[2].rpartition(")")
            yield int(entry.name), int(rest.split()[1]), name, words


def pids(daemon: Daemon, victim: str) -> list[int]:
    """The processes that play this part for the daemon; none when it plays no part now."""
    assert daemon.process is not None
    everyone = list(_processes())
    if victim == "daemon":
        return [daemon.process.pid]
    mine = {pid for pid, _, _, words in everyone if str(daemon.run) in words and "cove.runtime.supervisor" in words}
    if victim == "supervisor":
        return list(mine)
    if victim in _NAMES:
        return sorted(pid for pid, parent, name, _ in everyone if parent in mine and name == _NAMES[victim])
    if victim == "keeper":
        return [pid for pid, _, name, _ in everyone if name == "cove-keeper" and _holds(pid, daemon.run)]
    module = {"resolver": "cove.network.dns.server", "workshop": "cove.image.worker.workshop"}[victim]
    ours = [(pid, parent, words) for pid, parent, _, words in everyone if module in words]
    return [pid for pid, parent, words in ours if parent == daemon.process.pid or str(daemon.run) in words]


def _holds(pid: int, directory: Path) -> bool:
    """Whether a process has something open below a directory."""
    with suppress(OSError):
        return any(os.readlink(each).startswith(str(directory)) for each in Path(f"/proc/{pid}/fd").iterdir())
    return False


def kill(daemon: Daemon, victims: tuple[str, ...]) -> None:
    """SIGKILL to each; the daemon's end is waited for."""
    found = {victim: pids(daemon, victim) for victim in victims}
    for victim, doomed in found.items():
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if victim == "daemon":
            assert daemon.process is not None
            daemon.process.wait()


def leftovers(daemon: Daemon) -> dict[str, Any]:
    """Where the host or the disk differs from what the daemon says there is; empty when all is well."""
    api, data, run = Api(daemon), daemon.data, daemon.run
    instance = Instance.of(RunRoot(run))
    _, all_ = api.call("GET", "/containers/json", all=1)
    known = {each["Id"] for each in all_}
    alive = {each["Id"] for each in all_ if each["State"] in ("running", "paused")}
    _, volumes = api.call("GET", "/volumes")
    _, networks = api.call("GET", "/networks")
    found = {
        "container directories": set(os.listdir(data / "containers")) ^ known,
        "run directories": {each for each in os.listdir(run / "containers") if each not in known}
        | (alive - set(os.listdir(run / "containers"))),
        "control groups": _groups(instance) ^ alive,
        "volumes": set(os.listdir(data / "volumes")) ^ {each["Name"] for each in volumes["Volumes"] or ()},
        "temporary files": set(os.listdir(data / "tmp")),
        "hidden layers": {each for each in os.listdir(data / "layers") if each.startswith(".")},
        "downloads": set(os.listdir(data / "image/partial")),
        "bridges": _bridges(instance) - _links(instance, networks),
        "veths": _veths(daemon, alive),
        "rows": _rows(data / "cove.db", known),
        "firewall": _elements(instance, daemon, alive),
        "blobs": _unnamed(data / "image"),
    }
    return {what: sorted(left) for what, left in found.items() if left}


def settled(daemon: Daemon) -> dict[str, Any]:
    """What is still left over after a patient while."""
    left: dict[str, Any] = {}

    def nothing() -> bool:
        nonlocal left
        try:
            left = leftovers(daemon)
        except (OSError, KeyError) as error:  # something went while it was looked at
            left = {"changing": [repr(error)]}
        return not left

    eventually(nothing, pause=0.2)
    return left


def _groups(instance: Instance) -> set[str]:
    places = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    parents = [place / instance.cgroup_parent for place in places]
    return {each.name for parent in parents if parent.is_dir() for each in parent.iterdir() if each.is_dir()}


def _links(instance: Instance, networks: list[dict[str, Any]]) -> set[str]:
    named = {each["Options"].get("com.docker.network.bridge.name", "") for each in networks}
    return {instance.bridge, *named, *(f"cove-{each['Id'][:10]}" for each in networks)}


def _bridges(instance: Instance) -> set[str]:
    """Those that the tests' networks made: their names begin with the instance's mark or with fb-."""
    return {each for each in os.listdir("/sys/class/net") if each.startswith((instance.bridge, "fb-"))}


def _masters(daemon: Daemon) -> set[str]:
    _, networks = Api(daemon).call("GET", "/networks")
    return _links(Instance.of(RunRoot(daemon.run)), networks) - {""}


def _veths(daemon: Daemon, alive: set[str]) -> set[str]:
    """Ports of our bridges beyond one for each endpoint of a running container."""
    ports = set()
    for bridge in _masters(daemon):
        directory = Path("/sys/class/net") / bridge / "brif"
        ports |= set(os.listdir(directory)) if directory.is_dir() else set()
    wanted = 0
    for identity in alive:
        _, shown = Api(daemon).call("GET", f"/containers/{identity}/json")
        wanted += sum(1 for at in shown["NetworkSettings"]["Networks"].values() if at["IPAddress"])
    return ports if len(ports) != wanted else set()


def _rows(path: Path, known: set[str]) -> set[str]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        rows = {row[0] for table in ("containers", "facts") for row in connection.execute(f"SELECT id FROM {table}")}
    return rows ^ known


def _elements(instance: Instance, daemon: Daemon, alive: set[str]) -> set[str]:
    """Published ports in the firewall's maps without a container that publishes them, and the opposite."""
    shown = subprocess.run(
        ["nft", "-j", "list", "table", "inet", instance.nft_table], capture_output=True, text=True
    ).stdout
    ports = set()
    for each in json.loads(shown)["nftables"] if shown else ():
        held = each.get("map", {})
        if held.get("name") in ("publish4", "publish4_any"):
            ports |= {str(key["concat"][-1]) for key, _ in held.get("elem", ())}
    wanted = set()
    for identity in alive:
        _, about = Api(daemon).call("GET", f"/containers/{identity}/json")
        for bound in (about["NetworkSettings"]["Ports"] or {}).values():
            wanted |= {each["HostPort"] for each in bound or () if ":" not in each["HostIp"]}
    return ports ^ wanted


def _unnamed(image: Path) -> set[str]:
    """Blobs that no named image needs (documents are followed by their digests' hexadecimal words)."""
    blobs = set(os.listdir(image / "blobs/sha256"))
    reached: set[str] = set()
    waiting = [image / "index.json"]
    while waiting:
        content = waiting.pop().read_bytes()
        if content[:1] != b"{":
            continue
        for word in content.decode(errors="replace").split("sha256:")[1:]:
            name = word[:64]
            if name in blobs and name not in reached:
                reached.add(name)
                waiting.append(image / "blobs/sha256" / name)
    return blobs - reached
