"""The two forms of a process's output on one connection, and the keys that let go of it. Pure.

terminal:     the bytes as they are
otherwise:    frames of  stream (1 byte) 0 0 0 length (4 bytes, big-endian) payload
"""

from __future__ import annotations

import struct

from cove.errors import InvalidArgument

STDOUT, STDERR = 1, 2
_HEADER = struct.Struct(">BxxxL")
DEFAULT_DETACH = b"\x10\x11"
"""Ctrl-P, Ctrl-Q."""


class Detached(Exception):
    """The user typed the detach keys."""


def frame(stream: int, data: bytes) -> bytes:
    """One frame of the multiplexed form."""
    return _HEADER.pack(stream, len(data)) + data


def parse_keys(text: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q" or "a,b"; raises InvalidArgument."""
    if not text:
        return DEFAULT_DETACH
    keys = bytearray()
    for word in text.split(","):
        if len(word) == 1:
            keys += word.encode()
            continue
        letter = word.removeprefix("ctrl-")
        if letter == word or len(letter) != 1 or not ("a" <= letter <= "z" or letter in "@[\\]^_"):
            raise InvalidArgument(f"Invalid detach keys ({text}) provided: unknown character: '{word}'")
        keys.append(ord(letter.upper()) & 0x1F)
    return bytes(keys)


class DetachKeys:
    """Finds the keys in what is typed, however it is cut into pieces; a beginning of them is held back."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the keys were typed)."""
        if not self._matched and self._keys[0] not in data:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                passed.append(byte)
        return bytes(passed), False
