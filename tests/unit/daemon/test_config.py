"""Flags over the file over the defaults; nothing misspelt goes unnoticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cove.daemon.config import CONSENT, SystemdHost, TcpHost, UnixHost, load
from cove.daemon.locks import held
from cove.errors import Conflict, InvalidArgument
from cove.paths import DataRoot, RunRoot


def written(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "daemon.toml"
    path.write_text(text)
    return ["--config", str(path)]


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    config = load([*written(tmp_path, 'data_root = "/d"\nrun_root = "/r"\n[log]\nfiles = 2'), "--run-root", "/s"])
    assert config.data.root == Path("/d")
    assert config.hosts == (UnixHost(Path("/s/cove.sock")),)
    assert config.file.log.files == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_rot = 1", "there is no key `data_rot`"),
        ("[log]\nfile = 1", "there is no key `file`, in table `log"),
        ('log_level = "loud"', "loud"),
        ("stop_timeout = ", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        load(written(tmp_path, text))


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(["--config", str(tmp_path / "none")])


def test_addresses(tmp_path: Path) -> None:
    consent = written(tmp_path, f'[tcp]\nwithout_tls = "{CONSENT}"')
    config = load([*consent, "-H", "unix:///a", "-H", "tcp://[::1]:1", "-H", "fd://"])
    assert config.hosts == (UnixHost(Path("/a")), TcpHost("::1", 1), SystemdHost())
    with pytest.raises(InvalidArgument, match="unix:///PATH"):
        load(["-H", "a"])


def test_tcp_without_certificates_takes_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="whoever reaches"):
        load(["-H", "tcp://127.0.0.1:1"])
    with pytest.raises(InvalidArgument, match="whoever reaches"):
        load([*written(tmp_path, '[tcp]\nwithout_tls = "yes"'), "-H", "tcp://127.0.0.1:1"])


def test_a_second_daemon_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with held(DataRoot(tmp_path / "d"), RunRoot(tmp_path / "r")):
        assert (tmp_path / "d").stat().st_mode & 0o777 == 0o710
        assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700
        with (
            pytest.raises(Conflict, match=f"process {os.getpid()}"),
            held(DataRoot(tmp_path / "d"), RunRoot(tmp_path / "other")),
        ):
            pass
    with held(DataRoot(tmp_path / "d"), RunRoot(tmp_path / "r")):
        pass
