"""Docker's user string against hostile passwd and group files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.runtime.child.common import Failure
from cove.runtime.child.users import Identity, resolve

PASSWD = (
    "# a comment\nroot:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:/bin/sh\nbad:x:-1:0::/:/bin/sh\n"
    "big:x:4294967296:0::/:/bin/sh\nshort:x\nweb:x:33:34::/srv:\n"
)
GROUP = "root:x:0:\nweb:x:34:\nextra:x:55:other,web\n77:x:0:web\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(PASSWD)
    (etc / "group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("", Identity(0, 0, (0,), "/root")),
        ("web", Identity(33, 34, (34, 55, 0), "/srv")),
        ("1000", Identity(1000, 0, (0,), "/")),
        ("web:77", Identity(33, 77, (77,), "/srv")),
        (":extra", Identity(0, 55, (55,), "/root")),
        ("2147483647", Identity(2147483647, 0, (0,), "/")),
    ],
)
def test_who_is_meant(root: int, user: str, identity: Identity) -> None:
    assert resolve(root, user, ()) == identity


@pytest.mark.parametrize("user", ["bad", "big", "short", "x", "-1", "2147483648", "0:none", "٣", "+0", "0x0", " 0"])
def test_what_means_nobody(root: int, user: str) -> None:
    with pytest.raises(Failure):
        resolve(root, user, ())


def test_further_groups_by_name_and_number(root: int) -> None:
    assert resolve(root, "web:web", ("extra", "7", "extra")).groups == (34, 55, 7)


def test_passwd_that_is_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    os.symlink("/../../../../../../etc/group", tmp_path / "etc/group")
    with open(tmp_path / "etc/huge", "wb") as file:
        file.truncate(10 << 30)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve(fd, "", ()) == Identity(0, 0, (0,), "/")
        with pytest.raises(Failure):
            resolve(fd, "root", ())
        os.replace(tmp_path / "etc/huge", tmp_path / "etc/passwd")
        with pytest.raises(Failure):
            resolve(fd, "root", ())
    finally:
        os.close(fd)


@given(st.text(max_size=12).filter(lambda text: text.partition(":")[0] not in ("", "root")))
def test_no_text_becomes_root_by_accident(text: str) -> None:
    fd = os.open("/proc/self/task", os.O_PATH)  # a root without /etc
    try:
        identity = resolve(fd, text, ())
    except Failure:
        return
    finally:
        os.close(fd)
    assert identity.uid != 0 or int(text.partition(":")[0]) == 0
