"""Finding and executing the program, with the sentences that people and tools know for what goes wrong.

Runs inside the container's root, as the container's user. A path is first resolved without magic links:
/proc/self/exe and the like would be the host's interpreter.
"""

from __future__ import annotations

import errno
import os
import stat

from cove.kernel import rootpath
from cove.runtime.child.common import Failure

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_FOUND, NOT_EXECUTABLE = 127, 126

_HOST_MACHINE = os.uname().machine
_MACHINES = {
    3: "386",
    8: "mips",
    20: "ppc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}
_HOST_ELF = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21, "s390x": 22, "loongarch64": 258}.get(
    _HOST_MACHINE, 0
)


def find(root: int, name: str, path: str | None) -> str:
    """The path to execute for args[0] `name` and the container's own $PATH; Failure when there is none."""
    if "/" in name:
        _check(root, name)
        return name
    for directory in (DEFAULT_PATH if path is None else path).split(":"):
        candidate = f"{directory or '.'}/{name}"
        try:
            _check(root, candidate)
        except Failure:
            continue
        return candidate
    raise Failure(f'exec: "{name}": executable file not found in $PATH', number=errno.ENOENT, exit_code=NOT_FOUND)


def _check(root: int, path: str) -> None:
    """Failure unless `path` is a file that this process may execute."""
    try:
        found = rootpath.open_in(root, _absolute(path))
    except OSError as error:
        number = error.errno or 0
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        raise Failure(
            f'exec: "{path}": stat {path}: {os.strerror(number).lower()}',
            number=number,
            exit_code=NOT_FOUND if missing else NOT_EXECUTABLE,
        ) from None
    try:
        mode = os.fstat(found).st_mode
    finally:
        os.close(found)
    if stat.S_ISDIR(mode):
        raise Failure(f'exec: "{path}": is a directory', number=errno.EISDIR, exit_code=NOT_EXECUTABLE)
    if not mode & 0o111 or not os.access(path, os.X_OK, effective_ids=True):
        raise Failure(f'exec: "{path}": permission denied', number=errno.EACCES, exit_code=NOT_EXECUTABLE)


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def refused(path: str, error: OSError, proc: int | None) -> Failure:
    """Why the kernel did not execute `path`; `proc` as for `rootpath.open_expected`."""
    number = error.errno or 0
    reason = os.strerror(number).lower()
    if number == errno.ENOEXEC:
        reason += _format_hint(path, proc)
    elif number == errno.ENOENT:
        reason += " (the interpreter that its first line or its ELF header names is missing)"
    code = NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE
    return Failure(f"exec {path}: {reason}", number=number, exit_code=code)


def _format_hint(path: str, proc: int | None) -> str:
    """What a file that the kernel cannot execute is, as far as its first bytes tell."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = rootpath.open_expected(root, _absolute(path), os.O_RDONLY, rootpath.expect_regular, proc=proc)
    except OSError:
        return ""
    finally:
        os.close(root)
    try:
        head = os.read(fd, 20)
    finally:
        os.close(fd)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return "" if head else " (the file is empty)"
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    if machine == _HOST_ELF:
        return ""
    built_for = _MACHINES.get(machine, f"ELF machine {machine}")
    host = _MACHINES.get(_HOST_ELF, _HOST_MACHINE)
    return (
        f" (the program is built for {built_for}, this host is {host}: use an image with --platform linux/{host}, or "
        f"let the kernel run it through an emulator: install qemu-user-static and binfmt-support on the host)"
    )
