"""Root file systems of several platforms as one archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from cove.buildkit.tars import together


def archive(content: bytes) -> Iterator[bytes]:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        file = tarfile.TarInfo("./a/" + "long" * 40)
        file.size, file.pax_headers = len(content), {"SCHILY.xattr.user.k": "v"}
        tar.addfile(file, io.BytesIO(content))
        for kind, name, target_name in ((tarfile.LNKTYPE, "hard", file.name), (tarfile.SYMTYPE, "soft", "/a")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target_name
            tar.addfile(link)
    whole = target.getvalue()
    yield from (whole[at : at + 700] for at in range(0, len(whole), 700))


def test_each_is_in_a_directory_of_its_own() -> None:
    whole = b"".join(together({"one": lambda: archive(b"1" * 1000), "two": lambda: archive(b"")}))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        long = "a/" + "long" * 40
        assert tar.getnames() == [
            f"{top}{name}" for top in ("one", "two") for name in ("", f"/{long}", "/hard", "/soft")
        ]
        file = tar.extractfile(f"one/{long}")
        assert file is not None and file.read() == b"1" * 1000
        assert tar.getmember(f"one/{long}").pax_headers["SCHILY.xattr.user.k"] == "v"
        assert tar.getmember("two/hard").linkname == f"two/{long}" and tar.getmember("two/soft").linkname == "/a"
