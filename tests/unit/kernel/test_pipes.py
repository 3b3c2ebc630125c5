"""Pipes are widened as far as the kernel lets their user."""

from __future__ import annotations

import fcntl
import os

import pytest

from cove.kernel import pipes

_GETPIPE_SZ = 1032
_STRANGER = 54321
"""A user id that owns no other pipe of this host."""


def test_a_pipe_is_widened() -> None:
    reader, writer = os.pipe()
    try:
        pipes.widen(writer, 256 << 10)
        assert fcntl.fcntl(reader, _GETPIPE_SZ) >= 4096
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.root
def test_a_user_whose_pipes_hold_all_that_is_allowed_gets_narrower_ones() -> None:
    """In a child of another user, for the kernel counts by user."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(_STRANGER)
            ends = [os.pipe() for _ in range(150)]
            for _, writer in ends:
                pipes.widen(writer, 1 << 20)
            sizes = [fcntl.fcntl(writer, _GETPIPE_SZ) for _, writer in ends]
            code = 0 if sizes[0] == 1 << 20 and min(sizes) < 1 << 20 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
