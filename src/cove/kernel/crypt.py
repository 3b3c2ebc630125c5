"""crypt(3): passwords against what password files keep of them.

The system's own libcrypt (libxcrypt everywhere but on musl, whose libc has it) knows bcrypt; Python's module
of that name is gone from 3.13 on. The call is slow by design and lets go of the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import secrets
from functools import cache

_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2", "libc.so")
_WORKSPACE = 256 << 10
"""More than any libcrypt's `struct crypt_data`; all zeros is its fresh state."""

_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SALT_LENGTH = 22


@cache
def _crypt_r() -> ctypes._NamedFuncPointer:
    for name in (*_LIBRARIES, ctypes.util.find_library("crypt") or ""):
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        function.restype = ctypes.c_char_p
        return function
    raise OSError("this host has no libcrypt with crypt_r(3)")


def crypt(password: str, setting: str) -> str:
    """What a password file keeps of `password`; `setting` is such a text, or its beginning with the salt.

    Raises OSError when the library does not know that kind of setting.
    """
    if "\0" in password:
        raise OSError("a password cannot hold a zero byte")
    workspace = ctypes.create_string_buffer(_WORKSPACE)
    found: bytes | None = _crypt_r()(password.encode(), setting.encode(), workspace)
    if found is None or found.startswith(b"*"):
        raise OSError(f"libcrypt does not know passwords of the kind {setting[:4]}")
    return found.decode("ascii")


def bcrypt(password: str, *, cost: int = 10) -> str:
    """A new bcrypt entry of `password` with 2^cost rounds."""
    # The last character holds two bits only; "." and three others are the ones that every library accepts.
    salt = "".join(secrets.choice(_ALPHABET) for _ in range(_SALT_LENGTH - 1)) + secrets.choice(".Oeu")
    return crypt(password, f"$2y${cost:02d}${salt}")
