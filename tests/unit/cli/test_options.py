"""What the flags of `run` become in the body of a create request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cove.cli.commands.run import RUN
from cove.cli.flags import UsageError, parse
from cove.cli.options import mounts, ports, values
from cove.cli.options.body import create_body


def body(*words: str) -> dict[str, Any]:
    call = parse("run", RUN, [*words, "img", "prog", "arg"])
    assert call is not None
    return create_body(call, "img", call.arguments[1:], attached=not call.flag("detach"))


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        ("80", {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        ("8080:80", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        ("127.0.0.1::53/udp", {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        ("[::1]:80:80", {"80/tcp": [{"HostIp": "::1", "HostPort": "80"}]}),
        (
            "9000-9001:80-81",
            {"80/tcp": [{"HostIp": "", "HostPort": "9000"}], "81/tcp": [{"HostIp": "", "HostPort": "9001"}]},
        ),
        ("9000-9010:80", {"80/tcp": [{"HostIp": "", "HostPort": "9000-9010"}]}),
        ("target=80,published=8080,protocol=udp", {"80/udp": [{"HostIp": "", "HostPort": "8080"}]}),
    ],
)
def test_published_ports(text: str, bindings: object) -> None:
    assert ports.published([text]) == bindings


@pytest.mark.parametrize(
    "text", ["", "x", "0", "65536", "80/icmp", "1-3:80-81", "::1:80:80", "999.1.1.1:80:80", "5-4"]
)
def test_bad_ports(text: str) -> None:
    with pytest.raises(UsageError):
        ports.published([text])


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    binds, anonymous = mounts.binds(["data:/data", "/a:/b:ro,z", "./here:/there", "/only"])
    assert binds == ["data:/data", "/a:/b:ro,z", f"{tmp_path}/here:/there"]
    assert anonymous == ["/only"]
    for bad in ("a:b", "a:/", ":/x", "a:/b:ro:x", "relative"):
        with pytest.raises(UsageError):
            mounts.binds([bad])


def test_mounts() -> None:
    assert mounts.mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }
    assert mounts.mount('target=/d,source=v,"volume-opt=o=addr=1,rw",volume-nocopy')["VolumeOptions"] == {
        "NoCopy": True,
        "DriverConfig": {"Name": "", "Options": {"o": "addr=1,rw"}},
    }
    assert mounts.mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777")["TmpfsOptions"] == {
        "SizeBytes": 1 << 20,
        "Mode": 0o1777,
    }
    for bad in (
        "type=bind,src=/a",
        "type=nfs,target=/x",
        "target=/x,colour=red",
        "type=tmpfs,target=/t,volume-nocopy",
    ):
        with pytest.raises(UsageError):
            mounts.mount(bad)


@pytest.mark.parametrize(
    ("text", "count"),
    [("512", 512), ("64k", 65536), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("9MB", 9 << 20), ("-1", -1)],
)
def test_sizes(text: str, count: int) -> None:
    assert values.size(text, "memory") == count


def test_durations() -> None:
    assert values.nanoseconds("1m30s", "x") == 90 * 10**9
    assert values.nanoseconds("500ms", "x") == 5 * 10**8
    for bad in ("5", "fast", "1y"):
        with pytest.raises(UsageError):
            values.nanoseconds(bad, "x")


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED", "on")
    monkeypatch.delenv("ABSENT", raising=False)
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\nPASSED\nABSENT\n")
    found = body("-e", "B=2=3", "-e", "ABSENT", "--env-file", str(file))["Env"]
    assert found == ["A=1", "PASSED=on", "B=2=3", "ABSENT"]


def test_a_whole_request() -> None:
    found = body(
        *("-d", "-p", "80:80", "--expose", "9000", "-v", "v:/v", "-m", "64m", "--cpus", "1.5", "--init"),
        *("--restart", "on-failure:3", "--network", "mine", "--ip", "10.0.0.9", "--network-alias", "db"),
        *("--device", "/dev/fuse:r", "--add-host", "a=1.2.3.4", "--health-cmd", "ok", "--health-interval", "5s"),
        *("--entrypoint", "", "--tmpfs", "/run:size=1m", "--sysctl", "net.a=1", "-l", "x"),
    )
    host = found["HostConfig"]
    assert found["Cmd"] == ["prog", "arg"] and found["Entrypoint"] == [""]
    assert found["ExposedPorts"] == {"80/tcp": {}, "9000/tcp": {}}
    assert found["Healthcheck"] == {"Test": ["CMD-SHELL", "ok"], "Interval": 5 * 10**9}
    assert found["Labels"] == {"x": ""}
    assert (host["Memory"], host["NanoCpus"]) == (64 << 20, 1_500_000_000)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Devices"] == [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "r"}]
    assert host["NetworkMode"] == "mine" and host["ExtraHosts"] == ["a:1.2.3.4"] and host["Init"] is True
    assert found["NetworkingConfig"]["EndpointsConfig"] == {
        "mine": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Aliases": ["db"]}
    }
    assert not found["AttachStdout"]


@pytest.mark.parametrize(
    "words",
    [
        ("--rm", "--restart", "always"),
        ("--no-healthcheck", "--health-cmd", "x"),
        ("--restart", "sometimes"),
        ("-m", "much"),
        ("--add-host", "lonely"),
    ],
)
def test_contradictions_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        body(*words)
