"""Amounts in words: sizes in powers of 1024, counts, rates. Pure."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(bytes_: float) -> str:
    """ "64 MiB", "1.5 GiB"."""
    step = 0
    while abs(bytes_) >= 1024 and step < len(_UNITS) - 1:
        bytes_ /= 1024
        step += 1
    return f"{bytes_:.4g} {_UNITS[step]}"


def amount(value: float, unit: str) -> str:
    """A rate in its unit."""
    return f"{size(value)}/s" if unit == "bytes/s" else f"{value:g} {unit}"


def count(value: float) -> str:
    """A number; negative is unlimited."""
    return "unlimited" if value < 0 else f"{value:,.0f}".replace(",", " ")
