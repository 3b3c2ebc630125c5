"""The daemon's end of a process that waits at its barrier."""

from __future__ import annotations

import os
import threading

import pytest

from cove.errors import StartFailed
from cove.ipc import channel
from cove.runtime.newborn import Process


def test_a_look_for_a_failure_waits_for_nothing_and_hears_what_was_said() -> None:
    near, far = channel.pair()
    process = Process(1, [os.open("/", os.O_PATH)], near, terminal=False)
    looking = threading.Thread(target=process.check, daemon=True)
    looking.start()
    looking.join(10)
    assert not looking.is_alive(), "nobody has said anything, so there is nothing to wait for"
    far.send(b'{"type":"Failed","stage":"mounts","errno":2,"message":"no such thing"}')
    with pytest.raises(StartFailed, match="no such thing"):
        process.check()
    process.close()
    far.close()
