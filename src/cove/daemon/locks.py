"""One daemon to a data root and one to a run root, held by locks that die with their holder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cove.errors import Internal, describe
from cove.paths import DataRoot, RunRoot
from cove.store.locks import lock

_DATA_MODE = 0o710
_RUN_MODE = 0o700


@contextmanager
def held(data: DataRoot, run: RunRoot) -> Iterator[None]:
    """Make both roots with their modes and hold both locks. Raises Conflict naming who has them."""
    with ExitStack() as stack:
        for root, mode, path in ((data.root, _DATA_MODE, data.daemon_lock), (run.root, _RUN_MODE, run.daemon_lock)):
            _make(root, mode)
            stack.callback(os.close, lock(path, root))
        yield


def _make(root: Path, mode: int) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(mode)
    except OSError as error:
        raise Internal(f"Cannot use {root} as a directory of Cove's own: {describe(error)}") from error
