"""The flags before the verb."""

from __future__ import annotations

import os

import pytest

from cove.cli.flags import Flag, UsageError, Verb, parse
from cove.cli.globals import read


@pytest.mark.parametrize(
    ("words", "host", "rest"),
    [
        (["-H", "unix:///a", "ps", "-H"], "unix:///a", ["ps", "-H"]),
        (["-Hunix:///a", "ps"], "unix:///a", ["ps"]),
        (["--host=unix:///a", "-c", "default", "ps"], "unix:///a", ["ps"]),
        (["--context=default"], "", []),
    ],
)
def test_the_daemon_and_the_rest(words: list[str], host: str, rest: list[str]) -> None:
    found = read(words)
    assert (found.host, found.rest) == (host, rest)


def test_switches_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CONFIG", "COVE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "before")
    read(["--tlsverify", "--tls=false", "--config", "/c", "ps"])
    assert os.environ["DOCKER_TLS_VERIFY"] == "1"
    assert "DOCKER_TLS" not in os.environ
    assert os.environ["DOCKER_CONFIG"] == "/c"


@pytest.mark.parametrize("words", [["--context", "other"], ["--tlscert", "x"], ["-l", "debug"], ["--nope"], ["-H"]])
def test_what_cannot_be_honoured_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        read(words)


def test_a_flag_of_docker_that_is_not_there_is_explained() -> None:
    verb = Verb(lambda call: 0, "Run.", flags=(Flag("cpus", "CPUs"),))
    with pytest.raises(UsageError, match="Windows"):
        parse("run", verb, ["--cpu-count", "1"])
