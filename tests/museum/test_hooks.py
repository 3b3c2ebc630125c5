"""Exhibit of programs that run for a container outside of it: hooks of a vendor's device (CDI).

CVE-2025-23266: an image's environment, LD_PRELOAD in it, reaches a hook, which stands in the container's root and so
loads the image's library with the host's rights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, stocked

_HOOK = "#!/bin/sh\nenv > hook-saw\n"
_EVIL = (
    "LD_PRELOAD=/proc/self/cwd/evil.so",
    "LD_LIBRARY_PATH=/proc/self/cwd",
    "BASH_ENV=/evil",
    "ENV=/evil",
    "PATH=/",
)


@pytest.fixture(scope="module")
def vendor(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("cdi")
    (place / "hook").write_text(_HOOK)
    (place / "hook").chmod(0o755)
    hook = {"hookName": "createContainer", "path": str(place / "hook"), "args": ["hook"], "env": ["OWN=of the hook"]}
    device = {"name": "one", "containerEdits": {"hooks": [hook]}}
    (place / "cdi").mkdir()
    described = {"cdiVersion": "1.0.0", "kind": "example.com/hooked", "devices": [device]}
    (place / "cdi/hooked.json").write_text(json.dumps(described))
    (place / "daemon.toml").write_text(f'cdi_directories = ["{place}/cdi"]\n')
    with stocked(archive, "--config", str(place / "daemon.toml")) as daemon:
        yield daemon


def _run(vendor: Daemon, *script: str) -> list[str]:
    evil = [word for entry in _EVIL for word in ("-e", entry)]
    words = ("--device", "example.com/hooked=one", *evil, "busybox", *script)
    return vendor.cove("run", "--rm", *words).stdout.splitlines()


def test_a_hook_has_nothing_of_the_containers_environment(vendor: Daemon) -> None:
    seen = _run(vendor, "/bin/cat", "/hook-saw")
    assert "OWN=of the hook" in seen
    assert not [entry for entry in seen if "evil" in entry or "cwd" in entry or entry == "PATH=/"]


def test_twin_the_program_has_all_of_it(vendor: Daemon) -> None:
    seen = _run(vendor, "/bin/env")
    assert set(_EVIL) <= set(seen) and "OWN=of the hook" not in seen
