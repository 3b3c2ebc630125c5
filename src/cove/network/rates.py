"""How fast a container or a network may send and receive: read from text, and written as text.

    "in=1m,out=512k"     bytes a second, k m g in powers of 1024 as with every other limit of bytes
    "in=10mbit"          bits a second, in powers of 1000 as links are sold
    "in=0" or "in=off"   no limit; a direction that is not named stays as it was

`in` is what a container receives, `out` what it sends, Ethernet headers included. Pure.
"""

from __future__ import annotations

import re

import msgspec

from cove.errors import InvalidArgument

OPTION = "cove.net-rate"
"""The option of a network, and the annotation of a container, that has such a text."""

_SLOWEST, _FASTEST = 1024, 1 << 36
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt]?)(?:i?b)?|([kmgt]?)bit)(?:/s|ps)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Rate(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Bytes a second towards a container and from it; 0 is no limit."""

    inward: int = 0
    outward: int = 0

    def __bool__(self) -> bool:
        return bool(self.inward or self.outward)

    def __str__(self) -> str:
        """The text that `parse` reads; "" without any limit."""
        parts = (f"in={self.inward}" if self.inward else "", f"out={self.outward}" if self.outward else "")
        return ",".join(filter(None, parts))


NO_LIMIT = Rate()


def parse(text: str, base: Rate = NO_LIMIT) -> Rate:
    """The rate that a text asks for, over `base`; raises InvalidArgument."""
    inward, outward = base.inward, base.outward
    for part in filter(None, (part.strip() for part in text.split(","))):
        direction, equals, amount = part.partition("=")
        if not equals or direction not in ("in", "out"):
            raise InvalidArgument(f"{text!r} is no network rate: write in=RATE,out=RATE, for example in=10m,out=512k")
        if direction == "in":
            inward = _amount(amount, text)
        else:
            outward = _amount(amount, text)
    return Rate(inward=inward, outward=outward)


def _amount(amount: str, text: str) -> int:
    if amount in ("off", "max", "unlimited", "0"):
        return 0
    match = _AMOUNT.fullmatch(amount.strip())
    if match is None:
        raise InvalidArgument(
            f"{amount!r} in the network rate {text!r} is no amount a second: write bytes like 512k or 10m, bits like "
            "100mbit, or off"
        )
    if match[3] is not None:
        rate = int(float(match[1]) * 1000 ** _POWERS[match[3].lower()] / 8)
    else:
        rate = int(float(match[1]) * 1024 ** _POWERS[(match[2] or "").lower()])
    if rate and not _SLOWEST <= rate <= _FASTEST:
        raise InvalidArgument(f"The network rate {text!r} is out of bounds: from 1k to 64g bytes a second, or off")
    return rate
