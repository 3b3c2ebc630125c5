"""The kernel takes the default filter, and does what it says, also to 32-bit calls."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform

import pytest

from cove.kernel import seccomp, syscalls
from cove.oci import seccomp_profile

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine code below is x86_64's")

PR_SET_NO_NEW_PRIVS = 38


def _i386(number: int, argument: int) -> int:
    """Make a call through int 0x80, as a 32-bit program does."""
    code = b"\x53\x89\xf8\x89\xf3\x31\xc9\x31\xd2\xcd\x80\x5b\xc3"  # push rbx; eax, ebx = edi, esi; int 0x80; pop rbx
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(
        ctypes.addressof(ctypes.c_char.from_buffer(page))
    )
    result: int = function(number, argument)
    return result


def _observe() -> list[int]:
    """Install the filter in this process, and the error numbers of calls under it (0 for success)."""
    libc = ctypes.CDLL(None, use_errno=True)
    native, old = seccomp.numbers()["x86_64"], seccomp.numbers()["i386"]
    profile = seccomp_profile.resolve(
        seccomp_profile.default(), capabilities=frozenset(), machine="x86_64", kernel=platform.release()
    )
    _i386(old["getpid"], 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    syscalls.seccomp_set_filter(seccomp.compile(profile))

    def error(number: int, *args: int) -> int:
        ctypes.set_errno(0)
        return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) < 0 else 0

    return [
        error(native["getpid"]),
        error(native["unshare"], 0x10000000),
        error(native["clone3"], 0, 0),
        error(native["socket"], 38, 5, 0),
        error(native["socket"], 1, 1, 0),
        error(native["keyctl"], 0, 0),
        error(900),
        -min(_i386(old["getpid"], 0), 0),
        -_i386(old["unshare"], 0x10000000),
        -_i386(old["clone3"], 0),
    ]


def test_the_default_filter_in_a_real_process() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, bytes(_observe()))
        finally:
            os._exit(0)
    os.close(writer)
    seen = list(os.read(reader, 64))
    os.close(reader)
    assert os.waitpid(pid, 0)[1] == 0
    eperm, enosys = errno.EPERM, errno.ENOSYS
    assert seen == [0, eperm, enosys, eperm, 0, eperm, enosys, 0, eperm, enosys]
