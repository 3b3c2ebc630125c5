"""An archive's digest without times."""

from __future__ import annotations

import io
import os
import tarfile

from cove.build.timeless import digest


def held(mtime: float, form: int = tarfile.PAX_FORMAT, **changed: bytes) -> int:
    """A descriptor of a small archive."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for name, content in {"a": b"1" * 700, "é" * 90: b"2", "empty": b"", **changed}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), mtime
            archive.addfile(member, io.BytesIO(content))
    fd = os.memfd_create("archive")
    os.write(fd, raw.getvalue())
    return fd


def test_times_do_not_count() -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert digest(held(1, form)) == digest(held(1_700_000_000, form)) is not None
    assert digest(held(1.5)) == digest(held(99.25))  # as records of an extended header


def test_everything_else_does() -> None:
    same = digest(held(1))
    assert digest(held(1, a=b"1" * 699 + b"2")) != same
    assert digest(held(1, a=b"1" * 699)) != same
    assert digest(held(1, further=b"")) != same


def test_what_is_no_archive_has_none() -> None:
    fd = os.memfd_create("none")
    assert digest(fd) is None
    os.write(fd, b"\x1f\x8b" + bytes(2000))
    assert digest(fd) is None


def test_a_size_beyond_the_end_ends_it() -> None:
    fd = held(1)
    os.pwrite(fd, b"\x80" + b"\xff" * 11, 124)
    assert digest(fd) is not None
