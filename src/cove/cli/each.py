"""One action on many names: each that works is printed, each that fails is told, none stops the rest."""

from __future__ import annotations

import sys

from cove.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def each(names: Iterable[str], act: Callable[[str], object]) -> int:
    """Act on every name in turn; 1 if any failed. What `act` returns, when it is text, is printed instead."""
    code = 0
    for name in names:
        try:
            result = act(name)
        except ApiError as error:
            sys.stdout.flush()
            print(f"cove: {error.message}", file=sys.stderr)
            code = 1
        else:
            print(result if isinstance(result, str) else name)
    return code
