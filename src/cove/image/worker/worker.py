"""What a confined worker does with archives; `cove.image.worker.workshop` makes one for each job.

    daemon                                        worker
      │  job (JSON), descriptors                     │
      ├─────────────────────────────────────────────▶│ confine itself (cove.image.worker.confine)
      │  stdin: the archive                          │ unpack, put
      │  stdout: the archive                         │ pack
      │◀─────────────────────────────────────────────┤ report: JSON lines
      │        {"opaque": path} …  {"done": {…}} or {"error": class, "message": sentence}

Verbs: `unpack` a layer into the root · `put` an archive below a path · `pack` a tree · `stat` a path;
for builds `copy` from another tree · `amend` a copy of before · `digest` what would be copied · `make` a directory ·
`seal` a layer.
One job, then it ends. Everything is imported before the root changes.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1
import encodings.utf_8  # noqa: F401  codecs must be there before the root is another one's
import errno
import json
import os
import sys
import tarfile  # noqa: F401
from typing import Any, NoReturn

from cove.errors import CoveError, Internal, InvalidArgument, describe
from cove.image.pump import Pump, wide_pipe
from cove.image.worker import accounts, amending, confine, copying, extract, inside, members, pack, sealing, trees
from cove.image.worker.index import Change, Index
from cove.kernel.rootpath import open_directory
from cove.kernel.syscalls import filesystem_magic

Report = dict[str, Any]


def run(job: dict[str, Any]) -> NoReturn:
    """Do the job and report; the exit status says only whether the report is complete."""
    say(job["report"], _once(job))
    os._exit(0)  # a decompressing thread may still wait


def _once(job: dict[str, Any]) -> Report:
    try:
        if job["verb"] in ("unpack", "put"):
            job["pump"] = wide_pipe()
        root = _confined(job)
    except CoveError as error:
        return {"error": type(error).__name__, "message": error.message}
    except OSError as error:
        kind, message = _explain(error)
        return {"error": kind, "message": message}
    return answered(job["verb"], job, root)[0]


def answered(verb: str, job: dict[str, Any], root: int) -> tuple[Report, bool]:
    """What a job came to, as it is reported; and whether this process is as sound as before."""
    try:
        return {"done": _VERBS[verb](job, root)}, True
    except CoveError as error:
        return {"error": type(error).__name__, "message": error.message}, True
    except OSError as error:
        kind, message = _explain(error)
        return {"error": kind, "message": message}, True
    except MemoryError:
        return {"error": "InvalidArgument", "message": "the archive needs more memory than is allowed"}, False
    except RecursionError:
        return {"error": "InvalidArgument", "message": "the archive's directories are nested too deeply"}, False


def _confined(job: dict[str, Any]) -> int:
    """Change the root, after which nothing may be imported: it would be the container's code."""
    try:
        if job["verb"] in ("pack", "put"):
            job["proc"] = confine.processes()
        if job.get("below"):
            job["source"] = confine.readonly(job["below"])
        root = confine.enter(
            job["root"],
            job["mounts"],
            job["place"],
            userns=job["userns"],
            reads_trusted=job.get("layer", False),
        )
    except OSError as error:
        raise Internal(f"cannot confine the archive worker: {describe(error)}") from error
    sys.path.clear()
    sys.meta_path.clear()
    return root


def _unpack(job: dict[str, Any], root: int) -> Report:
    limits = members.Limits(**job["limits"])
    pump = Pump(0, limits.size, job["pump"])
    rules = extract.Rules(layer=True)
    totals = extract.extract(
        members.Source(pump), root, "", rules, limits, lambda path: say(job["report"], {"opaque": path})
    )
    if pump.digest != job["diff_id"] and job["diff_id"]:
        raise InvalidArgument(
            f"the layer's content is not what its image's configuration says: expected {job['diff_id']}, "
            f"got {pump.digest}"
        )
    return {"diff_id": pump.digest, "archive": pump.total, "size": totals.size, "members": totals.members}


def _put(job: dict[str, Any], root: int) -> Report:
    base = inside.directory(root, job["path"])
    _refuse_unwritable(root, base)
    limits = members.Limits(**job["limits"])
    owner = accounts.user_of(root, job["owner"], job["proc"]) if job["owner"] else None
    rules = extract.Rules(keep_kinds=job["keep_kinds"], owner=owner, top=job.get("top", False))
    source = members.Source(Pump(0, limits.size, job["pump"]))
    # The path was resolved once; from here its directory is the root of all names, and links in the
    # archive's way are followed inside the container's root only.
    totals = extract.extract(source, root, base, rules, limits, lambda _: None)
    return {"size": totals.size, "members": totals.members}


def _refuse_unwritable(root: int, base: str) -> None:
    """No file can be made in /proc and its like, where the kernel's own reasons would be odd ones; and what may only
    be read takes no archive, an empty one neither.
    """
    fd = open_directory(root, base or "/")
    try:
        if filesystem_magic(fd) in pack.KERNEL_FILE_SYSTEMS:
            raise InvalidArgument(f"/{base} is a file system of the kernel's own: no file can be put there")
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"/{base}")
    finally:
        os.close(fd)


def _pack(job: dict[str, Any], root: int) -> Report:
    view = pack.View(
        layer=job["layer"],
        one_device=job["one_device"],
        moment=job.get("moment"),
        skip=frozenset(job["skip"]),
        bare=job["bare"],
        whole_seconds=job.get("whole_seconds", False),
        sparse=job.get("sparse", False),
    )
    parent, name, arcname = inside.subject(root, job["path"])
    buffer = bytearray()

    def write(data: bytes) -> None:
        buffer.extend(data)
        if len(buffer) >= 256 << 10:
            _flush(buffer)

    pack.pack(write, parent, name, job["arcname"] or arcname, view, proc=job["proc"])
    _flush(buffer)
    return {}


def _copy(job: dict[str, Any], root: int) -> Report:
    asked, limits = trees.Copy(**job["copy"]), members.Limits(**job["limits"])
    return copying.copy(job["source"], root, job.get("upper", -1), asked, limits)


def _amend(job: dict[str, Any], root: int) -> Report:
    asked, limits = trees.Copy(**job["copy"]), members.Limits(**job["limits"])
    return amending.amend(job["source"], root, job["upper"], asked, Change(**job["change"]), limits)


def _digest(job: dict[str, Any], root: int) -> Report:
    asked = trees.Copy(**job["copy"])
    if "after" not in job:
        return trees.digest(root, asked, listed=job["listed"])
    with open(job["before"], "rb", closefd=False) as before, open(job["after"], "wb", closefd=False) as after:
        return trees.digest(root, asked, listed=job["listed"], index=Index(before, after))


def _make(job: dict[str, Any], root: int) -> Report:
    return sealing.make_directory(root, job["path"], job["owner"])


def _seal(job: dict[str, Any], root: int) -> Report:
    return sealing.seal(root, job["floor"], job["stubs"])


def _flush(buffer: bytearray) -> None:
    view = memoryview(bytes(buffer))
    buffer.clear()
    while view:
        view = view[os.write(1, view) :]


def _stat(job: dict[str, Any], root: int) -> Report:
    return inside.stat(root, job["path"])


def say(report: int, message: Report) -> None:
    """Write one line of a report."""
    os.write(report, json.dumps(message).encode() + b"\n")


def _explain(error: OSError) -> tuple[str, str]:
    """The class and sentence for what the kernel refused in the middle of a job."""
    if error.errno == errno.ENOSPC:
        return "Internal", "no space is left on the device; free some and try again"
    if error.errno == errno.EDQUOT:
        return "Internal", "the disk quota is exceeded; free some space and try again"
    if error.errno == errno.EROFS:
        return "Forbidden", f"{describe(error)}: the destination is read-only"
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return "InvalidArgument", f"the archive cannot be unpacked: {describe(error)}"
    if error.errno == errno.EPIPE:
        return "Unavailable", "the reader of the archive went away"
    return "Internal", f"the archive cannot be handled: {describe(error)}"


_VERBS = {
    "unpack": _unpack,
    "put": _put,
    "pack": _pack,
    "stat": _stat,
    "copy": _copy,
    "amend": _amend,
    "digest": _digest,
    "make": _make,
    "seal": _seal,
}
