"""What mount options mean."""

from __future__ import annotations

import pytest

from cove.kernel import mounts
from cove.kernel.mounts import Options, parse_options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("rbind", "ro"), Options(bind=True, recursive=True, named=True, attributes=(mounts.ATTR_RDONLY, 0))),
        (("ro", "rw"), Options(named=True, attributes=(0, mounts.ATTR_RDONLY))),
        (("rro",), Options(recursive_attributes=(mounts.ATTR_RDONLY, 0))),
        (("noatime",), Options(named=True, attributes=(mounts.ATTR_NOATIME, mounts.ATTR_ATIME))),
        (("noatime", "relatime"), Options(named=True, attributes=(0, mounts.ATTR_ATIME))),
        (("rslave",), Options(propagation=mounts.MS_SLAVE, propagation_recursive=True)),
        (("noatime", "atime"), Options(named=True, attributes=(mounts.ATTR_NOATIME, mounts.ATTR_ATIME))),
        (("size=64m", "mode=1777", "defaults"), Options(data=("size=64m", "mode=1777"))),
    ],
)
def test_options(options: tuple[str, ...], expected: Options) -> None:
    assert parse_options(options) == expected


def test_empty_words_are_no_options() -> None:
    assert parse_options(["", "size=1m", "ro"]).data == ("size=1m",)
