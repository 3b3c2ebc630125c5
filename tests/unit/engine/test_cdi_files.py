"""CDI files: what is read, what is refused, and which of two files wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cove.engine.isolation import cdi, cdi_files
from cove.errors import InvalidArgument


def write(directory: Path, name: str, **changes: object) -> None:
    directory.mkdir(exist_ok=True)
    devices = [{"name": "one", "containerEdits": {"env": [f"FROM={name}"]}}]
    spec = {"cdiVersion": "0.6.0", "kind": "vendor.com/class", "devices": devices} | changes
    (directory / name).write_text(json.dumps(spec))


def test_the_later_directory_wins_and_two_files_of_one_are_ambiguous(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    write(low, "a.json")
    write(low, "b.json")
    with pytest.raises(InvalidArgument, match=r"a\.json and .*b\.json"):
        cdi.resolve(["vendor.com/class=one"], cdi_files.load([str(low)]))
    write(high, "c.json")
    found = cdi.resolve(["vendor.com/class=one"], cdi_files.load([str(low), str(high)]))
    assert found.env == ("FROM=c.json",)


@pytest.mark.parametrize(
    "changes",
    [
        {"cdiVersion": "2.0.0"},
        {"kind": "nothing"},
        {"devices": []} | {"surprise": 1},
        {"devices": [{"name": "../up", "containerEdits": {}}]},
        {"devices": [{"name": "one", "containerEdits": {"deviceNodes": [{"path": "dev/x"}]}}]},
        {"devices": [{"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "permissions": "rx"}]}}]},
        {"devices": [{"name": "one", "containerEdits": {"mounts": [{"hostPath": "x", "containerPath": "/y"}]}}]},
    ],
)
def test_a_wrong_file_offers_nothing_and_says_why(tmp_path: Path, changes: dict[str, object]) -> None:
    write(tmp_path, "wrong.json", **changes)
    catalogue = cdi_files.load([str(tmp_path)])
    assert not catalogue.devices
    assert "wrong.json cannot be used" in catalogue.broken[0]


@pytest.mark.parametrize("text", ["vendor.com/class=one", "nvidia.com/gpu=GPU-1a:2", "a1.b/c=0"])
def test_names(text: str) -> None:
    assert cdi_files.is_name(text)


@pytest.mark.parametrize("text", ["/dev/null", "vendor.com=one", "vendor.com/class", "vendor.com/class=", "../x/y=z"])
def test_what_is_no_name(text: str) -> None:
    assert not cdi_files.is_name(text)
