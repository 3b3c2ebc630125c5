"""The processors that a further process starts on: process.execCPUAffinity.

`initial` holds before the process enters the container's control group, so that not even that disturbs processors
that are kept for others; `final` from then on. Without `final` the group's own processors apply.
"""

from __future__ import annotations

import os

from cove.oci.spec import Process
from cove.runtime.child.common import Failure
from cove.runtime.numbers import numbers


def before(process: Process) -> None:
    """To be called before the control group is entered."""
    if process.exec_cpu_affinity is not None and process.exec_cpu_affinity.initial:
        _set("process.execCPUAffinity.initial", process.exec_cpu_affinity.initial)


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
