"""Signals by name or number, as users write them. Pure."""

from __future__ import annotations

import signal

from cove.errors import InvalidArgument

_NAMES = {each.name: int(each) for each in signal.Signals} | {"SIGCLD": 17, "SIGPOLL": 29, "SIGIOT": 6}


def parse(text: str) -> int:
    """The number of "TERM", "SIGTERM", "sigterm", "15" or "RTMIN+3"; raises InvalidArgument."""
    word = text.upper()
    if word.isdecimal():
        number = int(word)
        if 1 <= number <= 64:
            return number
        raise InvalidArgument(f"invalid signal: {text}")
    word = word if word.startswith("SIG") else f"SIG{word}"
    for base in ("SIGRTMIN", "SIGRTMAX"):
        rest = word.removeprefix(base)
        if rest != word and rest[:1] in ("+", "-") and rest[1:].isdecimal():
            number = int(signal.Signals[base]) + int(rest)
            if int(signal.SIGRTMIN) <= number <= int(signal.SIGRTMAX):
                return number
    if word not in _NAMES:
        raise InvalidArgument(f"invalid signal: {text}")
    return _NAMES[word]
