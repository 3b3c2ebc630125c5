"""Identities and names: what may be called what, and how a new object gets its name."""

from __future__ import annotations

import re
import secrets

from cove.errors import InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ID = re.compile(r"[0-9a-f]{64}")

_MOODS = (
    "agile amber bold brisk bright calm candid clever cosy crisp daring deft eager early fair fleet fond "
    "gentle glad golden hardy hazel humble ivory jolly keen kind limber lively lucid mellow merry mild nimble "
    "noble patient placid plucky prompt quick quiet ready rosy sage serene sharp silver sleek smart snug solid "
    "spry steady sunny swift tidy upbeat vivid warm wise witty zesty"
).split()
_SHORES = (
    "anchor atoll bay beacon bluff breaker breeze brine buoy cape channel cliff coast coral crest current "
    "delta dune eddy estuary fjord foam gale grotto gulf gull harbor haven heron inlet island jetty keel kelp "
    "lagoon ledge marina mist mole mooring osprey otter oyster pearl pier plover port reef rill ripple sail "
    "sandbar seal shoal shore skiff sound spray spit strait surf swell tern tide trawler wave wharf"
).split()


def new_id() -> str:
    """A fresh identity: 64 lower-case hexadecimal digits, never all decimal in its first 12."""
    while True:
        identity = secrets.token_hex(32)
        if not identity[:12].isdecimal():
            return identity


def short(identity: str) -> str:
    """The 12 digits that people see."""
    return identity.removeprefix("sha256:")[:12]


def is_id(text: str) -> bool:
    """Whether `text` is a full identity."""
    return _ID.fullmatch(text) is not None


def new_name(attempt: int = 0) -> str:
    """A friendly random name; later attempts append a digit so that they collide less."""
    name = f"{secrets.choice(_MOODS)}_{secrets.choice(_SHORES)}"
    return name if attempt == 0 else f"{name}{secrets.randbelow(10**attempt)}"


def check_name(kind: str, name: str) -> str:
    """Return `name` if an object of `kind` may bear it, else raise InvalidArgument."""
    if _NAME.fullmatch(name) is None or len(name) > 255:
        raise InvalidArgument(
            f"Invalid {kind} name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 2 to 255 characters"
        )
    return name
