"""How many descriptors a process may use for containers: the last ones are kept, to answer and to clean with."""

from __future__ import annotations

import resource

from cove.errors import Internal

_KEPT = 64


def most() -> int:
    """The number from which on a new descriptor is one too many: the kernel gives the lowest that is free."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft - min(_KEPT, soft // 4)


def check(descriptor: int, limit: int) -> None:
    """Raises Internal when one that was just opened is `limit` or more."""
    if descriptor >= limit:
        raise Internal(
            "There are no descriptors for another container; end some, or begin the daemon with a higher limit of "
            "open files (LimitNOFILE)"
        )
