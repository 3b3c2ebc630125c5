"""Archives that are cut off, through both clients: one sentence, and nothing of them stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.integration.faults_world import leftovers

pytestmark = pytest.mark.root


def _store(daemon: Daemon) -> list[list[str]]:
    return [sorted(os.listdir(daemon.data / name)) for name in ("image/blobs/sha256", "layers", "tmp")]


@pytest.fixture
def archives(own_daemon: Daemon, tmp_path: Path) -> dict[str, Path]:
    """An image and a backup, of much that cannot be compressed; nothing of them is there any more."""
    own_daemon.cove("run", "--name", "made", "busybox", "sh", "-c", "head -c 1000000 /dev/urandom > /noise")
    own_daemon.cove("commit", "made", "noisy")
    made = {"load": tmp_path / "image.tar", "restore": tmp_path / "backup.tar"}
    own_daemon.cove("save", "-o", str(made["load"]), "noisy")
    own_daemon.cove("backup", "-o", str(made["restore"]), "made")
    own_daemon.cove("rm", "made")
    own_daemon.cove("rmi", "noisy")
    return made


def test_what_is_cut_off_leaves_nothing(own_daemon: Daemon, archives: dict[str, Path]) -> None:
    before = _store(own_daemon)
    for verb, path in archives.items():
        whole = path.read_bytes()
        for length in (len(whole) // 2, len(whole) - 12_000):
            path.write_bytes(whole[:length])
            words = ("load", "-i", str(path)) if verb == "load" else ("restore", str(path))
            refused = [own_daemon.cove(*words, check=False)]
            if verb == "load":
                refused.append(own_daemon.docker(*words, check=False))
            for each in refused:
                assert each.returncode == 1 and "cut off" in each.stderr and "Traceback" not in each.stderr
            said = {each.stderr.split(": ", 1)[1] for each in refused}
            assert len(said) == 1, "both are told the same"
            assert _store(own_daemon) == before
        path.write_bytes(whole)
    for restored in (0, 1):
        done = own_daemon.cove("restore", "--name", "again", str(archives["restore"]), check=False)
        assert done.returncode == restored and ("already in use" in done.stderr) == bool(restored)
        assert _store(own_daemon) == before, "what travelled is not kept"
    assert not leftovers(own_daemon)
