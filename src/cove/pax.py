"""What a file is in a tar archive, exactly: times to the nanosecond, attributes, holes. Client and daemon share it.

    member ─▶ header                          most files, in one block if that holds it (`cove.ustar`)
           └▶ sparse, then the runs' bytes    a file with holes

Sources: POSIX pax; star's SCHILY.xattr records; GNU tar's manual, "PAX Format, Version 1.0".
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from cove import ustar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Runs = list[tuple[int, int]]

BLOCK = 512
_MOST_RUNS = 200_000
_XATTRS = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_PREFIX = "SCHILY.xattr."
_HOLES = "GNUSparseFile.0"
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def member(name: str, found: os.stat_result, attributes: Mapping[str, bytes] | None = None) -> tarfile.TarInfo:
    """A file as it was found, which must be no socket; a link's target is the caller's to add."""
    info = tarfile.TarInfo(name)
    info.type = _KINDS[stat.S_IFMT(found.st_mode)]
    info.mode = stat.S_IMODE(found.st_mode)
    info.uid, info.gid = found.st_uid, found.st_gid
    if info.type == tarfile.REGTYPE:
        info.size = found.st_size
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
    seconds, rest = divmod(found.st_mtime_ns, 1_000_000_000)
    info.mtime = seconds
    pax: dict[str, str] = {}
    if rest:
        whole, fraction = divmod(abs(found.st_mtime_ns), 1_000_000_000)
        pax["mtime"] = f"{'-' if seconds < 0 else ''}{whole}.{fraction:09d}"
    for key in sorted(attributes or ()):
        pax[_PREFIX + key] = (attributes or {})[key].decode("utf-8", "surrogateescape")
    info.pax_headers = pax
    return info


def at_whole_second(info: tarfile.TarInfo, seconds: int | None = None) -> None:
    """Take the fraction off a member's time, or give it another one."""
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if key != "mtime"}
    info.mtime = info.mtime if seconds is None else seconds


def header(info: tarfile.TarInfo) -> bytes:
    """A member's header."""
    plain = None if info.pax_headers else _plain(info)
    return plain if plain is not None else info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _plain(info: tarfile.TarInfo) -> bytes | None:
    return ustar.header(
        info.name.encode("utf-8", "surrogateescape"),
        mode=info.mode,
        uid=info.uid,
        gid=info.gid,
        size=info.size,
        mtime=int(info.mtime),
        kind=info.type,
        link=info.linkname.encode("utf-8", "surrogateescape"),
        device=(info.devmajor, info.devminor),
    )


def mtime_ns(info: tarfile.TarInfo) -> int:
    """A member's time, of which tarfile keeps a float only."""
    whole, _, fraction = info.pax_headers.get("mtime", str(int(info.mtime))).partition(".")
    digits = f"{whole.lstrip('-')}{fraction[:9]:0<9}"
    return -int(digits) if whole.startswith("-") else int(digits)


# ── attributes ────────────────────────────────────────────────────────────────────────────────────


def attributes(file: int | str) -> dict[str, bytes]:
    """What of a file's attributes an archive holds; the file is no link, or a descriptor."""
    return {key: os.getxattr(file, key) for key in os.listxattr(file) if _is_kept(key)}


def attributes_of(info: tarfile.TarInfo) -> dict[str, bytes]:
    """The attributes that a member's header names."""
    return {
        key.removeprefix(_PREFIX): value.encode("utf-8", "surrogateescape")
        for key, value in info.pax_headers.items()
        if key.startswith(_PREFIX) and _is_kept(key.removeprefix(_PREFIX))
    }


def _is_kept(key: str) -> bool:
    """`trusted.` is overlayfs' own, the rest of `security.` the host policy's."""
    return key in _XATTRS or (key.startswith("user.") and not key.startswith("user.overlay."))


# ── holes ─────────────────────────────────────────────────────────────────────────────────────────


def runs(fd: int, size: int) -> Runs | None:
    """(offset, length) of a file's data, and of its end; None when it has no holes, or too many."""
    found: Runs = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return None
            break  # a hole up to the end
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if at > start:
            found.append((start, at - start))
    os.lseek(fd, 0, os.SEEK_SET)
    if found == [(0, size)] or len(found) > _MOST_RUNS:
        return None
    return ended(found, size)


def ended(found: Runs, size: int) -> Runs:
    """Runs that tell where the file ends."""
    return found if found and sum(found[-1]) == size else [*found, (size, 0)]


def sparse(info: tarfile.TarInfo, found: Runs) -> bytes:
    """The header and the map of a file with holes; the bytes of its runs follow, filled up to a block.

    Afterwards `info.size` is what the archive stores.
    """
    listed = "".join(f"{number}\n" for number in (len(found), *(part for run in found for part in run))).encode()
    listed += bytes(-len(listed) % BLOCK)
    info.pax_headers = {
        **without_holes(info.pax_headers),
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(info.size),
    }
    directory, _, name = info.name.rpartition("/")
    info.name = f"{directory}/{_HOLES}/{name}" if directory else f"{_HOLES}/{name}"
    info.size = len(listed) + sum(length for _, length in found)
    return header(info) + listed


def without_holes(headers: Mapping[str, str]) -> dict[str, str]:
    """A member's pax headers but for what they say of holes."""
    return {key: value for key, value in headers.items() if not key.startswith("GNU.sparse.")}
