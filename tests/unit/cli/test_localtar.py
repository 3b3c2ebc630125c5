"""Archives of `cove cp`: faithful both ways, and harmless when the container lies."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from cove.cli.localtar import pack, unpack
from cove.errors import InvalidArgument


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "from"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(b"x" * 1000)
    (source / "sub" / "file").chmod(0o640)
    os.link(source / "sub" / "file", source / "twin")
    (source / "link").symlink_to("/absolute")
    target = tmp_path / "to"
    target.mkdir()
    unpack(
        pack(str(source), "name", follow=False, keep_ids=False), str(target), rename=("name", "other"), keep_ids=False
    )
    other = target / "other"
    assert (other / "sub" / "file").read_bytes() == b"x" * 1000
    assert (other / "sub" / "file").stat().st_mode & 0o777 == 0o640
    assert (other / "twin").samefile(other / "sub" / "file")
    assert os.readlink(other / "link") == "/absolute"


def archive(*entries: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize(
    "entries",
    [
        [("../evil", tarfile.REGTYPE, "x")],
        [("a", tarfile.SYMTYPE, ".."), ("a/evil", tarfile.REGTYPE, "x")],
        [("a", tarfile.DIRTYPE, ""), ("a/b", tarfile.SYMTYPE, "../.."), ("a/b/evil", tarfile.REGTYPE, "x")],
        [("evil", tarfile.LNKTYPE, "../secret")],
    ],
)
def test_nothing_lands_outside(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    target = tmp_path / "in" / "target"
    target.mkdir(parents=True)
    (tmp_path / "in" / "secret").write_text("secret")
    with pytest.raises((InvalidArgument, OSError)):
        unpack(iter([archive(*entries)]), str(target), rename=None, keep_ids=False)
    assert sorted(os.listdir(tmp_path / "in")) == ["secret", "target"]
    assert not (target / "evil").exists()


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "t"
    target.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (target / "f").symlink_to(victim)
    unpack(iter([archive(("f", tarfile.REGTYPE, "new"))]), str(target), rename=None, keep_ids=False)
    assert victim.read_text() == "kept" and (target / "f").read_text() == "new"
