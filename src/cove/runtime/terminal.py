"""The size of a terminal."""

from __future__ import annotations

import fcntl
import struct
import termios


def resize(fd: int, *, height: int, width: int) -> None:
    """Set the window size of a pty, in characters; its foreground processes get SIGWINCH (tty_ioctl(4))."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("=HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))
