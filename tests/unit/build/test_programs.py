"""Programs of the host: what they begin ends with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import has_ended

from cove.build import programs
from cove.errors import Unavailable
from cove.kernel.syscalls import prctl

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    """As the daemon is."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    yield
    prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _sh(tmp_path: Path, script: str, seconds: float = 60) -> str:
    return programs.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, seconds=seconds).stdout


def test_what_it_left_is_ended_and_buried(tmp_path: Path) -> None:
    said = _sh(tmp_path, "(sleep 1000 >/dev/null 2>&1 & echo $!); (true >/dev/null & echo $!); echo end")
    *pids, end = said.split()
    assert end == "end" and len(pids) == 2
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists(), "neither alive nor a zombie"


def test_one_that_does_not_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="sh did not end within 1 seconds"):
        _sh(tmp_path, "sleep 1000 & echo $! > pid; wait", 1)
    assert has_ended(int((tmp_path / "pid").read_text()))
