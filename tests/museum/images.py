"""Images that no honest builder makes, and programs of one system call: what the exhibits are tried with."""

from __future__ import annotations

import io
import platform
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import BUSYBOX, Daemon

Member = tuple[str, bytes | str | None]
"""A file's content, a link's target, or None for a directory."""

SH = "/bin/sh"


def archive(path: Path, *members: Member, modes: dict[str, int] | None = None) -> Path:
    """A root file system of busybox and these members; whatever a later member replaces is gone."""
    found: dict[str, bytes | str | None] = {"bin/busybox": BUSYBOX.read_bytes()}
    found |= {"bin/sh": "busybox", "etc/passwd": b"root:x:0:0::/:/bin/sh\n", "etc/group": b"root:x:0:\n", "tmp": None}
    found |= dict(members)
    with tarfile.open(path, "w") as out:
        for name, content in found.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                info.mode = (modes or {}).get(name, 0o755)
                out.addfile(info, io.BytesIO(content))
            else:
                info.type = tarfile.DIRTYPE if content is None else tarfile.SYMTYPE
                info.linkname = content or ""
                info.mode = 0o755
                out.addfile(info)
    return path


@contextmanager
def image(daemon: Daemon, path: Path, *members: Member) -> Iterator[str]:
    """An imported image, removed afterwards."""
    name = f"hostile-{path.name[-24:].lower().strip('-_.')}"
    daemon.cove("import", str(archive(path / "image.tar", *members)), name)
    try:
        yield name
    finally:
        daemon.cove("rmi", "-f", name)


def libraries(program: Path) -> list[Member]:
    """What the dynamic loader needs to start a program of the host's, at the same places."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [Path(word) for word in listed.split() if word.startswith("/")]
    return [(str(path).lstrip("/"), path.read_bytes()) for path in paths]


def interpreter() -> Path:
    """The program that Cove itself runs in."""
    return Path(sys.executable).resolve()


def calling(number: int, *arguments: int) -> bytes:
    """An ELF program for x86_64 that makes one system call and exits with its error number, 0 for success."""
    if platform.machine() != "x86_64":
        pytest.skip("the program of one system call is assembled for x86_64 only")
    code = b"".join(
        prefix + struct.pack("<Q", argument & (1 << 64) - 1)
        for prefix, argument in zip(
            (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9"), arguments, strict=False
        )
    )  # mov rdi, rsi, rdx, r10, r8, r9
    code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"  # mov eax, number; syscall
    code += b"\x31\xff\x85\xc0\x79\x04\x89\xc7\xf7\xdf"  # edi = 0; if eax < 0: edi = -eax
    code += b"\xb8\x3c\x00\x00\x00\x0f\x05"  # exit(edi)
    base, head = 0x400000, 64 + 56
    size = head + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code
