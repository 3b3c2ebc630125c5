"""`cove explain` and `cove run --explain`: what they say is what the kernel says, and a plan makes nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, eventually, free_port

_KINDS = {"mount": "mnt", "network": "net"}


def explained(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.cove("explain", "--format", "json", name).stdout)
    return found


def limit(found: dict[str, Any], resource: str) -> dict[str, Any]:
    return next(each for each in found["Limits"] if each["Resource"] == resource)


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _is_busy(found: dict[str, Any]) -> bool:
    """Whether the server listens, beside its shell alone, which has used some CPU time."""
    cpu, processes = limit(found, "cpu"), limit(found, "processes")
    return bool(found["Network"]["Ports"][0]["Listener"]) and processes["Used"] == 2 and (cpu["Used"] or 0) > 0.01


@pytest.fixture(scope="module")
def web(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A busy web server with a limit of everything, explained once."""
    given = tmp_path_factory.mktemp("given")
    port = free_port()
    limits = (
        "--cpus",
        "0.5",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--net-rate",
        "in=1m",
        "--ulimit",
        "nofile=512",
    )
    mounts = ("-v", f"{given}:/given:ro", "-v", "explained:/data", "--tmpfs", "/fast")
    script = "httpd -p 80 -h /data; while :; do :; done"
    daemon.cove(
        "run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", *limits, *mounts, "busybox", "sh", "-c", script
    )
    assert eventually(lambda: _is_busy(explained(daemon, "web")))
    yield explained(daemon, "web") | {"given": str(given), "port": port}
    daemon.cove("rm", "-f", "web")
    daemon.cove("volume", "rm", "explained")


def test_namespaces_have_the_kernels_numbers(web: dict[str, Any]) -> None:
    kinds = {each["Type"]: each for each in web["Namespaces"]}
    assert {"mount", "pid", "network", "ipc", "uts", "cgroup", "user"} <= set(kinds)
    for kind, space in kinds.items():
        file = _KINDS.get(kind, kind)
        assert f"[{space['Id']}]" in os.readlink(f"/proc/{web['Pid']}/ns/{file}")
        assert f"[{space['HostId']}]" in os.readlink(f"/proc/self/ns/{file}")
        assert (space["Id"] == space["HostId"]) == (space["Mode"] == "host")
    assert kinds["user"]["Mode"] == "host"
    assert "root in it is root on the host" in kinds["user"]["Text"]


def test_limits_stand_beside_their_use(web: dict[str, Any]) -> None:
    cpu, memory, processes = (limit(web, name) for name in ("cpu", "memory", "processes"))
    assert cpu["Limit"] == 0.5
    assert 0 < cpu["Used"] < 0.8
    assert cpu["Pressure"]["Scope"] in ("container", "host")
    assert memory["Limit"] == 64 << 20
    assert 0 < memory["Used"] <= memory["Peak"] <= memory["Limit"]
    assert int(Path(memory["Source"]).read_text()) == 64 << 20
    assert (processes["Limit"], processes["Used"]) == (50, 2)
    assert limit(web, "network in")["Limit"] == 1 << 20
    assert limit(web, "network out")["Limit"] is None
    assert limit(web, "ulimit nofile")["Limit"] == 512


def test_rights_are_told_in_words(web: dict[str, Any]) -> None:
    rights = web["Security"]
    held = {each["Name"] for each in rights["Capabilities"]}
    assert {"CHOWN", "NET_RAW"} <= held
    assert all(each["Text"] for each in rights["Capabilities"])
    assert "SYS_ADMIN" in {each["Name"] for each in rights["Without"]}
    calls = rights["Seccomp"]
    assert calls["Profile"] == "default"
    assert 250 < calls["Allowed"] < calls["Known"]
    assert {"mount", "unshare", "bpf", "keyctl", "io_uring_setup"} <= {each["Name"] for each in calls["Refused"]}
    assert "/proc/kcore" in rights["Masked"]


def test_mounts_say_where_they_come_from(daemon: Daemon, web: dict[str, Any]) -> None:
    mounts = {each["Destination"]: each for each in web["Mounts"]}
    assert "layer of the image busybox" in mounts["/"]["Origin"]
    assert (mounts["/given"]["Writable"], mounts["/given"]["Source"]) == (False, web["given"])
    assert mounts["/data"]["Origin"] == "the volume explained"
    assert mounts["/fast"]["Type"] == "tmpfs"
    assert "own control group" in mounts["/sys/fs/cgroup"]["Origin"]
    assert not any(each["MadeInside"] for each in web["Mounts"])
    assert not {"/proc/kcore", "/proc/sys"} & set(mounts)


@pytest.mark.parametrize("bound", [True, False])
def test_the_mounts_of_a_user_namespace_are_told(daemon: Daemon, *, bound: bool) -> None:
    """Made by root of that namespace, as those parameters want it, it has devices that were made outside."""
    words = ["--sysctl", "kernel.msgmax=4096"] if bound else []
    daemon.cove("run", "-d", "-t", "--name", "mapped", "--userns", "auto", *words, "busybox", "sleep", "60")
    try:
        found = explained(daemon, "mapped")
        mounts = {each["Destination"]: each for each in found["Mounts"]}
        assert ("/dev/null" in mounts) == bound
        if bound:
            assert mounts["/dev/null"]["Origin"] == "this one device of the host's"
        assert mounts["/dev/console"]["Origin"] == "its own terminal"
        assert not any(each["MadeInside"] for each in found["Mounts"])
        root = Path(f"/proc/{found['Pid']}/uid_map").read_text().split()[1]
        assert f"{root} on the host" in next(each for each in found["Namespaces"] if each["Type"] == "user")["Text"]
    finally:
        daemon.cove("rm", "-f", "mapped")


def test_a_mount_made_inside_is_told(daemon: Daemon) -> None:
    script = "mount -t tmpfs none /tmp && sleep 60"
    daemon.cove("run", "-d", "--name", "mounter", "--cap-add", "SYS_ADMIN", "busybox", "sh", "-c", script)
    try:
        daemon.cove("exec", "mounter", "sh", "-c", "until grep -q ' /tmp ' /proc/mounts; do :; done")
        found = explained(daemon, "mounter")
        assert next(each for each in found["Mounts"] if each["Destination"] == "/tmp")["MadeInside"]
        assert any("SYS_ADMIN" in text for text in found["Warnings"])
    finally:
        daemon.cove("rm", "-f", "mounter")


def test_the_way_of_a_port_ends_at_the_process(web: dict[str, Any]) -> None:
    (port,) = web["Network"]["Ports"]
    assert (port["HostIp"], port["HostPort"], port["ContainerPort"]) == ("127.0.0.1", web["port"], 80)
    assert [hop["Place"] for hop in port["Path"]] == ["host", "firewall", "bridge", "rate", "veth", "process"]
    (interface,) = web["Network"]["Interfaces"]
    assert {interface["HostInterface"], interface["Bridge"]} <= interfaces()
    listener = port["Listener"]
    assert listener["Command"] == "httpd"
    assert Path(f"/proc/{listener['Pid']}/comm").read_text() == "httpd\n"
    assert f"{listener['InnerPid']} in the container" in port["Path"][-1]["Text"]


def test_a_port_that_nobody_listens_on_is_told(daemon: Daemon) -> None:
    daemon.cove("run", "-d", "--name", "deaf", "-p", "80", "--expose", "81", "busybox", "sleep", "60")
    try:
        ports = explained(daemon, "deaf")["Network"]["Ports"]
        assert all("nobody listens" in port["Path"][-1]["Text"] for port in ports)
        assert any("not published" in port["Path"][0]["Text"] for port in ports if port["ContainerPort"] == 81)
    finally:
        daemon.cove("rm", "-f", "deaf")


def test_the_page_is_for_people(daemon: Daemon, web: dict[str, Any]) -> None:
    page = daemon.cove("explain", "web").stdout
    for heading in ("NAMESPACES", "LIMITS", "RIGHTS", "MOUNTS", "NETWORK", "PORTS"):
        assert heading in page
    assert "httpd, pid" in page
    assert "█" in page
    assert "\033" not in page
    assert max(len(line) for line in page.splitlines()) <= 120
    assert daemon.cove("explain", "--format", "{{.State}} {{.Pid}}", "web").stdout == f"running {web['Pid']}\n"
    verbose = daemon.cove("explain", "-v", "web").stdout
    assert "/proc/kcore" in verbose
    assert web["Id"] in verbose


# ── plans ─────────────────────────────────────────────────────────────────────────────────────────


def everything(daemon: Daemon) -> set[str]:
    """All that a daemon could have made."""
    found = [daemon.cove(*words).stdout for words in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))]
    files = {str(path) for top in daemon.data.iterdir() if top.is_dir() for path in top.iterdir()}
    return {*" ".join(found).split(), *files, *interfaces()}


def test_a_plan_shows_all_and_makes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    before = everything(daemon)
    missing = tmp_path / "not-there"
    words = ("--name", "planned", "--security", "hardened", "-p", "8080:80", "-v", f"{missing}:/x", "-v", "fresh:/v")
    done = daemon.cove("run", "--explain", "--format", "json", *words, "-m", "32m", "busybox", "true")
    found = json.loads(done.stdout)
    assert (found["State"], found["Name"], found["Id"], found["Pid"]) == ("planned", "planned", "", 0)
    spaces = {each["Type"]: each for each in found["Namespaces"]}
    assert (spaces["time"]["Mode"], spaces["user"]["Mode"]) == ("own", "own")
    assert "on the host" in spaces["user"]["Text"]
    assert limit(found, "memory")["Limit"] == 32 << 20
    assert limit(found, "processes")["Limit"] == 2048
    assert found["Security"]["NoNewPrivileges"] is True
    mounts = {each["Destination"]: each for each in found["Mounts"]}
    assert not mounts["/"]["Writable"]
    assert (mounts["/x"]["Source"], mounts["/v"]["Origin"]) == (str(missing), "the volume fresh")
    assert found["Network"]["Ports"][0]["HostIp"] == "127.0.0.1"
    assert not missing.exists()
    assert not everything(daemon) - before  # what earlier tests had may still be going


def test_a_plan_refuses_what_a_create_refuses(daemon: Daemon) -> None:
    done = daemon.cove("run", "--explain", "-m", "1", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "Minimum memory limit" in done.stderr
    done = daemon.cove("run", "--explain", "no-such-image", "true", check=False)
    assert done.returncode == 125
    assert "no-such-image" in done.stderr
    done = daemon.cove("run", "--format", "json", "busybox", "true", check=False)
    assert "--format is for --explain" in done.stderr


def test_what_weakens_it_is_told(daemon: Daemon) -> None:
    words = ("--pid", "host", "--network", "host", "--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined")
    done = daemon.cove("run", "--explain", *words, "-v", "/:/host", "busybox", "true")
    weak = done.stdout[done.stdout.index("WEAK SPOTS") :]
    for text in ("--pid host", "--network host", "SYS_PTRACE", "seccomp=unconfined", "whole file system"):
        assert text in " ".join(weak.split())
    plain = daemon.cove("run", "--explain", "busybox", "true").stdout
    assert "WEAK SPOTS" not in plain


def test_a_stopped_and_a_lent_one(daemon: Daemon) -> None:
    daemon.cove("create", "--name", "stopped", "busybox", "true")
    daemon.cove("run", "-d", "--name", "lender", "busybox", "sleep", "60")
    daemon.cove("run", "-d", "--name", "guest", "--network", "container:lender", "busybox", "sleep", "60")
    try:
        assert "what follows holds at its next start" in daemon.cove("explain", "stopped").stdout
        spaces = {each["Type"]: each for each in explained(daemon, "guest")["Namespaces"]}
        assert (spaces["network"]["Mode"], spaces["network"]["SharedWith"]) == ("shared", "lender")
    finally:
        daemon.cove("rm", "-f", "stopped", "lender", "guest")


def test_an_unknown_one_is_one_sentence(daemon: Daemon) -> None:
    done = daemon.cove("explain", "nobody", check=False)
    assert done.returncode == 1
    assert "No such container: nobody" in done.stderr
