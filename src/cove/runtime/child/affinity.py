"""The processors that a process starts on: those of its control group, whatever its maker is bound to.

A further process may be told others, by process.execCPUAffinity: `initial` holds before it enters the container's
control group, so that not even that disturbs processors that are kept for others; `final` from then on. Without
`final` the group's own processors apply.
"""

from __future__ import annotations

import os

from cove.oci.spec import Process
from cove.runtime.child.common import Failure
from cove.runtime.numbers import numbers

_EVERY = range(max(1024, os.cpu_count() or 1))


def reset() -> None:
    """Every processor that the control group has, not those that this process' maker was bound to (taskset(1))."""
    os.sched_setaffinity(0, _EVERY)


def before(process: Process) -> None:
    """To be called before the control group is entered."""
    if process.exec_cpu_affinity is not None and process.exec_cpu_affinity.initial:
        _set("process.execCPUAffinity.initial", process.exec_cpu_affinity.initial)
    else:
        reset()


def after(process: Process) -> None:
    """To be called in the control group."""
    if process.exec_cpu_affinity is not None and process.exec_cpu_affinity.final:
        _set("process.execCPUAffinity.final", process.exec_cpu_affinity.final)


def _set(member: str, text: str) -> None:
    try:
        os.sched_setaffinity(0, numbers(text, member))
    except OSError as error:
        raise Failure(
            f"{member} {text!r} cannot be set: this host, or the container, has none of these processors",
            number=error.errno or 0,
        ) from None
