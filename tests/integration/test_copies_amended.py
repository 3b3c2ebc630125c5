"""A copy of a kept directory of which little changed: made of the earlier copy's files, the same as a whole copy."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.integration.test_build import context

_FILE = "FROM busybox\nCOPY --exclude=out tree /etc/tree\n"
_EPOCH = "1000000000"
"""So that the time of what a copy itself makes, its directory, is not in a layer's digest."""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A directory that is so large that a copy of it is kept."""
    where = context(tmp_path / "c", _FILE, tree__a__in="0", tree__out="0")
    for number in range(300):
        path = where / f"tree/{number % 7}/{number % 3}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    os.symlink("a", where / "tree/soft")
    (where / "large").touch()
    os.truncate(where / "large", 17 << 20)
    return where


def layers(daemon: Daemon, where: Path, *words: str) -> list[str]:
    image = daemon.cove(
        "build", "-q", "--build-arg", f"SOURCE_DATE_EPOCH={_EPOCH}", *words, str(where)
    ).stdout.strip()
    return list(json.loads(daemon.cove("image", "inspect", image).stdout)[0]["RootFS"]["Layers"])


def members(daemon: Daemon, where: Path, to: Path, *words: str) -> dict[str, tuple[object, ...]]:
    """All that a build's result has below /etc/tree."""
    out = ["--output", f"type=tar,dest={to}", *words]
    daemon.cove("build", *out, str(where))
    with tarfile.open(to) as tar:
        below = [each for each in tar if each.name.lstrip("./").startswith("etc/tree/")]
        assert below
        return {each.name: _shown(tar, each) for each in below}


def _shown(tar: tarfile.TarFile, each: tarfile.TarInfo) -> tuple[object, ...]:
    file = tar.extractfile(each) if each.isreg() else None
    content = file.read() if file else each.linkname
    return (each.type, each.mode, each.uid, each.gid, int(each.mtime), content)


def edited(where: Path, chance: random.Random) -> None:
    """A few changes of every kind."""
    tree = where / "tree"

    def some(wanted: Callable[[Path], bool]) -> Path:
        return chance.choice([each for each in sorted(tree.rglob("*")) if wanted(each)])

    def file() -> Path:
        return some(lambda each: each.is_file() and not each.is_symlink())

    def directory() -> Path:
        return some(lambda each: each.is_dir() and not each.is_symlink() and each.parent != tree)

    def replaced(old: Path) -> Path:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        return old

    kinds: list[Callable[[], object]] = [
        lambda: file().write_text(str(chance.random())),
        lambda: file().chmod(chance.choice([0o600, 0o755, 0o4711])),
        lambda: directory().chmod(0o750),
        lambda: file().unlink(),
        lambda: os.utime(file(), ns=(chance.randrange(10**18),) * 2),
        lambda: (directory() / f"new-{chance.random()}").write_text("new"),
        lambda: (directory() / f"new-{chance.random()}/deep").mkdir(parents=True),
        lambda: replaced(file()).mkdir(),
        lambda: os.symlink("/nowhere", replaced(file())),
        lambda: replaced(directory()).write_text("was a directory"),
        lambda: file().rename(directory() / "moved"),
        lambda: shutil.copytree(directory(), tree / f"copy-{chance.random()}", symlinks=True),
        lambda: (tree / "out").write_text(str(chance.random())),
    ]
    for kind in chance.choices(kinds, k=chance.randrange(1, 6)):
        kind()


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_same_as_a_whole_copy(daemon: Daemon, many: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    layers(daemon, many)
    for turn in range(4):
        edited(many, chance)
        mine, amended = layers(daemon, many), members(daemon, many, tmp_path / "amended.tar")
        fresh = tmp_path / f"fresh-{turn}"
        subprocess.run(["cp", "-a", str(many), str(fresh)], check=True)
        whole = members(daemon, fresh, tmp_path / "whole.tar", "--no-cache")
        assert amended.keys() == whole.keys()
        assert {name: (amended[name], whole[name]) for name in whole if amended[name] != whole[name]} == {}
        assert mine[-1] == layers(daemon, fresh, "--no-cache")[-1]
        shutil.rmtree(fresh)


def test_what_did_not_change_is_shared(daemon: Daemon, many: Path) -> None:
    """A file that is not copied again has a further name in the earlier layer."""
    first = daemon.cove("build", "-q", str(many)).stdout.strip()
    (many / "tree/1/1/1").write_text("changed")
    image = daemon.cove("build", "-q", str(many)).stdout.strip()
    told = daemon.cove("run", "--rm", image, "sh", "-c", "cd /etc/tree && stat -c %h 1/1/1 2/2/2 && cat 1/1/1")
    assert told.stdout.split() == ["1", "2", "changed"]
    assert daemon.cove("run", "--rm", first, "cat", "/etc/tree/1/1/1").stdout == "1"


def test_a_name_that_went_shows_what_the_base_has(daemon: Daemon, many: Path, tmp_path: Path) -> None:
    base = context(tmp_path / "b", "FROM busybox\nCOPY 0 /etc/tree/0/0/\n", **{"0": "the base's"})
    daemon.cove("build", "-q", "-t", "below", str(base))
    (many / "Dockerfile").write_text(_FILE.replace("busybox", "below"))
    daemon.cove("build", "-q", str(many))
    (many / "tree/0/0/0").unlink()
    image = daemon.cove("build", "-q", str(many)).stdout.strip()
    assert daemon.cove("run", "--rm", image, "cat", "/etc/tree/0/0/0").stdout == "the base's"


def test_files_with_several_names_stay_together(daemon: Daemon, many: Path) -> None:
    os.link(many / "tree/1/1/1", many / "tree/other")
    daemon.cove("build", "-q", str(many))
    (many / "tree/1/1/1").write_text("changed")
    image = daemon.cove("build", "-q", str(many)).stdout.strip()
    told = daemon.cove("run", "--rm", image, "sh", "-c", "cd /etc/tree && ls -i other 1/1/1 && cat other")
    one, _, other, _, content = told.stdout.split()
    assert one == other and content == "changed"


def test_a_layer_that_was_pruned_is_not_missed(own_daemon: Daemon, many: Path) -> None:
    own_daemon.cove("build", "-q", "-t", "x", str(many))
    own_daemon.cove("rmi", "x")
    own_daemon.cove("builder", "prune", "-af", "--filter", "type=regular")
    (many / "tree/1/1/1").write_text("changed")
    image = own_daemon.cove("build", "-q", str(many)).stdout.strip()
    told = own_daemon.cove("run", "--rm", image, "sh", "-c", "cat /etc/tree/1/1/1; find /etc/tree -type f | wc -l")
    assert told.stdout == "changed301\n"
