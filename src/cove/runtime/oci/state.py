"""`state`: a container as the runtime specification describes it."""

from __future__ import annotations

import sys

from cove.runtime.oci import compact, store
from cove.runtime.oci.main import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = "1.2.1"


def describe(container: store.Container) -> dict[str, Any]:
    """The State, with what runc adds to it."""
    status, record = container.status(), container.record
    pid = 0 if record is None or status == "stopped" else record.pid
    found: dict[str, Any] = {"ociVersion": _VERSION, "id": container.id, "pid": pid, "status": status}
    if record is None:
        return found | {"bundle": ""}
    return found | {
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "owner": record.owner,
    }


def state(call: Call, words: list[str]) -> int:
    """Print it."""
    call.parse(words, (), 1, 1)
    container = store.find(call.root, call.arguments[0])
    sys.stdout.write(compact.readable(describe(container)) + "\n")
    return 0
