"""Overlays on id-mapped layers, by descriptor and, as kernels before 6.13 need it, by path."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cove.kernel import idmapped, mounts, syscalls
from cove.oci.spec import IDMapping
from cove.runtime.child import idmaps

MAPS = (IDMapping(container_id=0, host_id=400000, size=65536),)


@pytest.fixture
def layers() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="cove-idmapped-", dir="/var/tmp"))
    for name in ("top/etc", "bottom/etc", "upper", "work", "at"):
        (path / name).mkdir(parents=True)
    (path / "bottom/etc/low").write_text("low")
    (path / "top/etc/high").write_text("high")
    os.chown(path / "top/etc/high", 7, 7)
    yield path
    shutil.rmtree(path)


def within(work: Callable[[], None]) -> None:
    """Do `work` in a process and a mount namespace of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(0x00020000)
            syscalls.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("old_kernel", [False, True])
def test_an_overlay_on_mapped_layers(layers: Path, old_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = mounts.new_filesystem

    def refusing(*words: Any, **options: Any) -> int:
        if old_kernel and options.get("descriptors"):
            raise OSError(errno.EOPNOTSUPP, "no descriptors")
        return real(*words, **options)

    def look() -> None:
        with idmaps.user_namespace(MAPS, MAPS) as namespace:
            made = idmapped.overlay(
                [str(layers / "top"), str(layers / "bottom")],
                str(layers / "upper"),
                str(layers / "work"),
                ["index=off", "redirect_dir=off", "metacopy=off"],
                userns=namespace,
                owner=(400000, 400000),
            )
        at = os.open(layers / "at", os.O_PATH)
        mounts.attach(made, at)
        owners = {each.name: each.stat().st_uid for each in (layers / "at/etc").iterdir()}
        assert owners == {"low": 400000, "high": 400007}, owners
        os.setgid(400000)
        os.setuid(400000)
        os.rename(layers / "at/etc/low", layers / "at/etc/lower")
        (layers / "at/new").mkdir()
        os.unlink(layers / "at/etc/high")

    monkeypatch.setattr(mounts, "new_filesystem", refusing)
    (layers / "at").chmod(0o755)
    layers.chmod(0o755)
    within(look)
    assert (layers / "upper/new").stat().st_uid == 0
    assert (layers / "upper/etc/lower").stat().st_uid == 0
    assert (layers / "upper/etc/high").is_char_device()
    assert not os.path.ismount(layers / "at")
