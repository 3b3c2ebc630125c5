"""A host that is short of something other than disk space."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import Daemon


def test_an_import_needs_no_large_pipes(daemon: Daemon, archive: Path) -> None:
    """Where other pipes of root hold all the pages that an unprivileged process may have (pipe(7))."""
    pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    size = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    with ExitStack() as stack:
        for _ in range(pages * os.sysconf("SC_PAGESIZE") // size + 1):
            ends = os.pipe()
            for end in ends:
                stack.callback(os.close, end)
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, size)
        daemon.cove("import", str(archive), "among-pipes:latest")
        assert daemon.cove("run", "--rm", "among-pipes:latest", "echo", "hello").stdout == "hello\n"
    daemon.cove("rmi", "among-pipes:latest")
