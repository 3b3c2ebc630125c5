"""Binds as users write them, and the local driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cove.errors import InvalidArgument
from cove.paths import DataRoot
from cove.volume import binds
from cove.volume.local import LocalDriver


@pytest.mark.parametrize(
    ("text", "source", "destination", "rw"),
    [
        ("/a:/b", "/a", "/b", True),
        ("/a/../c:/b/:ro", "/c", "/b", False),
        ("name:/b:rw,nocopy", "name", "/b", True),
        ("/only", "", "/only", True),
    ],
)
def test_binds(text: str, source: str, destination: str, rw: bool) -> None:
    bind = binds.parse(text)
    assert (bind.source, bind.destination, bind.rw) == (source, destination, rw)


@pytest.mark.parametrize(
    "text", ["/a:b", "/a:/", "/a:/..", "./a:/b", "a/b:/c", "/a:/b:odd", "/a:/b:ro,rw", "n:/b:shared", "a:b:c:d", ":"]
)
def test_bad_binds(text: str) -> None:
    with pytest.raises(InvalidArgument):
        binds.parse(text)


def test_a_missing_source(tmp_path: Path) -> None:
    missing = tmp_path / "x" / "y"
    with pytest.raises(InvalidArgument, match="bind source path does not exist"):
        binds.check_source(str(missing), make=False)
    binds.check_source(str(missing), make=True)
    assert missing.is_dir()


class _NoLimits:
    """A file system without project quotas."""

    def hold(self, directory: Path) -> bool:
        return False

    def limit(self, directories: Sequence[Path], size: int) -> None:
        raise AssertionError

    def release(self, directory: Path) -> None:
        """Nothing is limited."""

    def used(self, directory: Path) -> int | None:
        return None

    def check(self, directory: Path) -> None:
        """Nothing is limited."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "nfs", "device": ":/x", "o": "addr=localhost,vers=4,soft"}, {"vers=4", "soft", "addr="}),
        ({"type": "nfs4", "device": ":/x", "o": "addr=127.0.0.1"}, {"addr=127.0.0.1"}),
        ({"type": "cifs", "device": "//localhost/share", "o": "username=u"}, {"username=u", "addr="}),
        ({"type": "cifs", "device": "//localhost/share", "o": "ip=127.0.0.1"}, {"ip=127.0.0.1"}),
        ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, {"size=1m"}),
    ],
)
def test_servers_are_looked_up_by_name(tmp_path: Path, options: dict[str, str], words: set[str]) -> None:
    driver = LocalDriver(DataRoot(tmp_path), _NoLimits())
    driver.prepare(options)
    found = set(driver.mount("v", "/d", options).options)
    if "addr=" in words:
        words = {word for word in words if word != "addr="} | (found & {"addr=127.0.0.1", "addr=::1"})
    assert found == words


def test_local_volumes(tmp_path: Path) -> None:
    driver = LocalDriver(DataRoot(tmp_path), _NoLimits())
    driver.create("v", {})
    assert driver.empty("v")
    (driver.path("v") / "file").write_bytes(b"12345")
    with (driver.path("v") / "holes").open("wb") as file:
        file.truncate(1 << 30)
    taken = sum(each.stat().st_blocks * 512 for each in driver.path("v").iterdir())
    assert not driver.empty("v") and driver.size("v") == taken < 1 << 20
    assert driver.mount("v", "/d", {}, readonly=True).options == ("rbind", "ro")
    driver.remove("v")
    driver.remove("v")
    assert not driver.exists("v")


def test_a_subpath_is_left_to_the_kernel(tmp_path: Path) -> None:
    driver = LocalDriver(DataRoot(tmp_path), _NoLimits())
    driver.create("v", {})
    (driver.path("v") / "link").symlink_to("/")
    (driver.path("v") / "empty").mkdir()
    shown = driver.mount("v", "/d", {}, subpath="empty")
    assert (shown.source, shown.options) == (str(driver.path("v")), ("rbind", "rw", "X-mount.subdir=empty"))
    assert driver.empty("v", "empty") and not driver.empty("v", "link/tmp") and not driver.empty("v", "missing")


def test_devices_and_unknown_options(tmp_path: Path) -> None:
    driver = LocalDriver(DataRoot(tmp_path), _NoLimits())
    with pytest.raises(InvalidArgument):
        driver.create("v", {"nonsense": "1"})
    mount = driver.mount("v", "/d", {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    assert (mount.type, mount.options) == ("tmpfs", ("size=1m",))
    assert driver.mount("v", "/d", {"type": "tmpfs", "device": "tmpfs"}, readonly=True).options == ("ro",)
