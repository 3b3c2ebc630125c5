"""The eBPF device filter of cgroup v2, on any host that has a v2 hierarchy (with or without controllers)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.kernel import device_filter
from cove.oci.spec import DeviceRule

pytestmark = pytest.mark.root

_PROBE = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
tries = (("/dev/null", os.O_RDWR), ("/dev/zero", os.O_RDONLY), ("/dev/zero", os.O_WRONLY), ("/dev/full", os.O_RDONLY))
for path, flags in tries:
    try:
        os.close(os.open(path, flags))
        print("yes")
    except PermissionError:
        print("no")
"""


def _mounted() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    root = _mounted()
    if root is None or os.geteuid() != 0:
        pytest.skip("needs root and a mounted cgroup v2 hierarchy")
    directory = root / f"cove-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    directory.rmdir()


def _tried(group: Path) -> list[str]:
    command = [sys.executable, "-c", _PROBE, str(group / "cgroup.procs")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_denies_and_replaces(group: Path) -> None:
    deny = DeviceRule(allow=False)
    null = DeviceRule(allow=True, type="c", major=1, minor=3)
    read_zero = DeviceRule(allow=True, type="c", major=1, minor=5, access="r")
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        device_filter.install(fd, (deny, null, read_zero))
        assert _tried(group) == ["yes", "yes", "no", "no"]
        device_filter.install(fd, (deny, null))
        assert _tried(group) == ["yes", "no", "no", "no"]
        no_writes = DeviceRule(allow=False, type="c", major=1, minor=None, access="w")
        device_filter.install(fd, (DeviceRule(allow=True), no_writes))
        assert _tried(group) == ["no", "yes", "no", "yes"]
    finally:
        os.close(fd)
