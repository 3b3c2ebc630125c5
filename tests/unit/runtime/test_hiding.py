"""What a process gives up before it enters a container's mount namespace."""

from __future__ import annotations

import os
import sys

from cove.runtime.child.common import hide


def test_no_code_is_loaded_any_more() -> None:
    """A module that was looked for then would be the container's."""
    assert "this" not in sys.modules and "encodings.rot_13" not in sys.modules
    pid = os.fork()
    if pid == 0:
        hide()
        loaded = 0
        for load in (lambda: __import__("this"), lambda: "a".encode("rot_13")):
            try:
                load()
                loaded += 1
            except (ImportError, LookupError):
                continue
        os._exit(loaded)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
