"""`run`: create and start at once, and stay until the program has ended (or not, with --detach)."""

from __future__ import annotations

import os

from cove.kernel import syscalls
from cove.runtime.oci import afterwards, create, foreground, groups, notify
from cove.runtime.oci.delete import destroy
from cove.runtime.oci.main import Call

_PR_SET_CHILD_SUBREAPER = 36


def run(call: Call, words: list[str]) -> int:
    """Run the bundle: the program's exit code, or 0 once it runs with --detach."""
    call.parse(words, (*create.FLAGS, "detach|d", "keep"), 1, 1)
    detach = call.options.switch("detach")
    if not detach and not call.options.switch("no-subreaper"):
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with create.made(call, detached=detach, listen=False) as (container, newborn, _):
        master = None if call.options.text("console-socket") else newborn.master
        if master is not None:
            foreground.without_returns(master)
        readiness = notify.listen(container, call.log)
        newborn.go()
        groups.begin(container.known)
        if container.known.poststart:
            afterwards.run_poststart(container, call.log)
        if detach:
            if readiness is not None:
                readiness.await_(newborn.pid, newborn.pidfd, barrier=True)
            return 0
        code = foreground.wait(newborn.pid, newborn.pidfd, master, readiness)
    if not call.options.switch("keep"):
        destroy(container, call.log)
        _bury()
    return code


def _bury() -> None:
    """Orphans of the container that came to us, now that all are killed."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue
    except ChildProcessError:
        return
