"""SIGHUP: a daemon that runs reads its configuration again, and says what must wait for its next start."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, Daemon, eventually, new_daemon

pytestmark = pytest.mark.root


@pytest.fixture
def told(archive: Path, tmp_path: Path) -> Iterator[tuple[Daemon, Path]]:
    """A daemon and its configuration file."""
    file = tmp_path / "daemon.toml"
    file.write_text('labels = ["rack=1"]\n')
    daemon = new_daemon("--config", str(file))
    daemon.start()
    try:
        daemon.cove("import", str(archive), "busybox:latest")
        yield daemon, file
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def _log(daemon: Daemon) -> str:
    """All of it: at the level "debug" a sentence is soon far up."""
    return (daemon.root / "daemon.log").read_text()


def _again(daemon: Daemon, text: str, file: Path, sentence: str) -> None:
    """Write the file, send the signal, and wait for what the log says to it."""
    file.write_text(text)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: sentence in _log(daemon)), daemon.log()


def _labels(daemon: Daemon) -> list[str]:
    return list(json.loads(daemon.docker("info", "--format", "{{json .Labels}}").stdout))


def test_a_configuration_is_read_again(told: tuple[Daemon, Path]) -> None:
    daemon, file = told
    running = daemon.cove("run", "-d", "busybox", "sleep", "300").stdout.strip()
    assert _labels(daemon) == ["rack=1"]
    text = 'labels = ["rack=2"]\nlog_level = "debug"\n[network]\ndns = ["192.0.2.7"]\nexpose_to = "lan"\n'
    _again(daemon, text, file, "the configuration was read again")
    assert _labels(daemon) == ["rack=2"]
    assert "network.expose_to in the configuration counts from the next start of the daemon on" in _log(daemon)
    names = daemon.cove("run", "--rm", "busybox", "cat", "/etc/resolv.conf").stdout
    assert "nameserver 192.0.2.7" in names
    assert daemon.docker("info", "--format", "{{.Debug}}").stdout == "true\n"
    assert daemon.cove("exec", running, "echo", "lives").stdout == "lives\n"
    until = f"{time.time():.9f}"  # "0s" is to the docker client the second that has begun
    told_of = daemon.docker("events", "--since", "1", "--until", until, "--filter", "type=daemon").stdout
    assert "daemon reload" in told_of


def test_a_file_with_an_error_changes_nothing(told: tuple[Daemon, Path]) -> None:
    daemon, file = told
    _again(daemon, 'labels = ["rack=3"]\nlables = []\n', file, "the configuration stays as it was")
    assert "there is no key `lables`" in _log(daemon)
    _again(daemon, "labels = [}\n", file, "at line")
    assert _labels(daemon) == ["rack=1"]


def test_a_configuration_is_tried_without_a_daemon(tmp_path: Path) -> None:
    file = tmp_path / "daemon.toml"
    words = [str(BIN / "cove"), "daemon", "--validate", "--config", str(file)]
    refused = f"cove daemon: The configuration file {file} is refused"
    for text, code, said in (
        ('labels = ["rack=1"]', 0, "configuration OK\n"),
        ('label = ["rack=1"]', 1, f"{refused}: there is no key `label`\n"),
        ('image_limit = "many"', 1, "cove daemon: 'many' is no size; write 512m, 50g or 1.5t\n"),
    ):
        file.write_text(text)
        done = subprocess.run(words, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (code, said)
