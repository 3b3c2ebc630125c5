"""What tests in here share that change the machine they run on: they run in the guest of `make test-guest` alone."""

from __future__ import annotations

import os
import subprocess

import pytest

only_inside = pytest.mark.skipif(
    os.environ.get("COVE_GUEST") != "1",
    reason="changes the machine itself (its services, swap, disks, modules): only in the guest of `make test-guest`",
)


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program of the guest's."""
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        pytest.fail(f"{words} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
