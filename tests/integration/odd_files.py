"""Everything that a file system can hold and a copy can lose; `seen` tells it all, so that two trees can be compared.

Left out are sockets and `trusted.` attributes, which no archive carries.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path

_HOLE = 192 << 20
_NOBODY = 0xFFFFFFFF


def make(root: Path) -> None:
    """Fill an empty directory."""
    base = os.fsencode(root)
    _plain(root, base)
    _attributes(root)
    (root / "deep").joinpath(*["d" * 100] * 12).mkdir(parents=True)
    (root / "deep").joinpath(*["d" * 100] * 12, "leaf").touch()
    os.mkfifo(root / "fifo", 0o600)
    os.chown(root / "fifo", 3, 4)
    for name, kind, device in (("null", stat.S_IFCHR, (1, 3)), ("block", stat.S_IFBLK, (7, 200))):
        os.mknod(root / name, kind | 0o620, os.makedev(*device))
    os.mknod(root / "nothing", stat.S_IFCHR | 0o600, os.makedev(0, 0))  # overlayfs would take it for a whiteout
    with (root / "holes").open("wb") as file:
        file.truncate(_HOLE)
        os.pwrite(file.fileno(), b"A" * 5000, 1 << 20)
        os.pwrite(file.fileno(), b"Z" * 100_000, (160 << 20) + 123)
    with (root / "one-hole").open("wb") as file:
        file.truncate(8 << 20)
    for name, mode in (("handing-down", 0o2775), ("sticky", 0o1777), ("closed", 0), ("read-only", 0o555)):
        (root / name).mkdir()
        if name != "closed":
            (root / name / "inside").touch()
        os.chown(root / name, 0, 555)
        (root / name).chmod(mode)
        os.utime(root / name, ns=(1, 1_000_000_000_000_000_001))
    times = {"then": 1_234_567_890_123_456_789, "before-all": -86_400_500_000_000, "late": 9 * 10**18 + 7}
    for name, when in times.items():
        (root / name).touch()
        os.utime(root / name, ns=(0, when))
    os.chown(root, 11, 12)
    root.chmod(0o1751)
    os.utime(root, ns=(1, 1_222_222_222_222_222_222))


def _plain(root: Path, base: bytes) -> None:
    file = root / "set-id"
    file.write_bytes(b"hello")
    os.chown(file, 1000, 2000)
    file.chmod(0o6755)
    (root / "sub").mkdir()
    os.link(file, root / "hard")
    os.link(file, root / "sub/hard")
    for name in (
        b"not\xff\xfeutf8",
        b"new\nline",
        b" blank ",
        "ü".encode(),
        b"back\\slash",
        b"l" * 255,
        b".wh.plain",
    ):
        Path(os.fsdecode(base + b"/" + name)).write_bytes(name)
    os.symlink(b"target\xff", base + b"/link\xff")
    (root / "absolute").symlink_to("/abs/olute")
    os.lchown(root / "absolute", 7, 8)
    os.utime(root / "absolute", ns=(5, 1_111_111_111_111_111_111), follow_symlinks=False)
    (root / "long-link").symlink_to("x" * 3000)
    (root / "large-ids").touch()
    os.chown(root / "large-ids", 3_000_000_000, 4_000_000_000)


def _attributes(root: Path) -> None:
    values = {"binary": bytes(range(256)), "empty": b"", "lines": b"a\nb=c\n", "ü": b"u", "large": b"B" * 3000}
    for name in ("attributes", "capable", "listed"):
        (root / name).touch()
    for key, value in values.items():
        os.setxattr(root / "attributes", f"user.{key}", value)
    os.setxattr(root / "capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    entries = [(1, 6, _NOBODY), (2, 4, 1234), (4, 4, _NOBODY), (8, 6, 5678), (16, 6, _NOBODY), (32, 0, _NOBODY)]
    os.setxattr(root / "listed", "system.posix_acl_access", _acl(entries))
    (root / "inheriting").mkdir()
    default = [(1, 7, _NOBODY), (2, 5, 99), (4, 5, _NOBODY), (16, 7, _NOBODY), (32, 5, _NOBODY)]
    os.setxattr(root / "inheriting", "system.posix_acl_default", _acl(default))
    (root / "inheriting/child").touch()
    os.setxattr(root, "user.top", b"t")


def _acl(entries: list[tuple[int, int, int]]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def seen(root: Path) -> dict[bytes, object]:
    """All of every file below, and of the directory itself, but when it was read and changed."""
    found: dict[bytes, object] = {}
    first: dict[int, bytes] = {}
    base = os.fsencode(root)
    for directory, directories, files in os.walk(base):
        for name in (b"", *directories, *files) if directory == base else (*directories, *files):
            path = os.path.join(directory, name) if name else base
            told = os.lstat(path)
            what: list[object] = [stat.filemode(told.st_mode), told.st_uid, told.st_gid, told.st_mtime_ns]
            if stat.S_ISREG(told.st_mode):
                what += [first.setdefault(told.st_ino, path[len(base) :]), told.st_nlink, told.st_size, _data(path)]
                what.append(told.st_blocks * 512 < told.st_size // 2)
            elif stat.S_ISLNK(told.st_mode):
                what.append(os.readlink(path))
            else:
                what.append(told.st_rdev)
            keys = [] if stat.S_ISLNK(told.st_mode) else sorted(os.listxattr(path))
            found[path[len(base) :]] = (*what, tuple((key, os.getxattr(path, key)) for key in keys))
    return found


def _data(path: bytes) -> str:
    """A digest of what a file holds, read where it has data."""
    digest, at = hashlib.sha256(), 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - at, at).strip(b"\0")
            digest.update(data)
            at = end
    return digest.hexdigest()
