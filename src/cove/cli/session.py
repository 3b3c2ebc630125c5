"""An attached program: this command's stdin, stdout, stderr and signals, and the daemon's stream.

    stdin ──▶ stream.send          at its end: half_close, so that the program sees an end too
    stream.receive ──▶ stdout      (cut into stdout and stderr when there is no terminal)
    SIGWINCH ──▶ resize            SIGINT, SIGTERM, … ──▶ forward

One loop around `poll`, no thread. It ends when the daemon ends the stream: the program is
over, or the detach keys were typed. The daemon acts on those keys; `DetachKeys` only watches
them go by, because an ended stream alone does not tell why it ended.
"""

from __future__ import annotations

import os
from select import POLLHUP, POLLIN, poll

from cove.cli.flags import UsageError
from cove.cli.terminal import FORWARDED, RESIZED, Raw, Signals, is_terminal, size
from cove.client.frames import STDERR, Frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cove.client.http import Hijacked

    Resize = Callable[[int, int], object]
    Forward = Callable[[int], object]

_PIECE = 64 * 1024


class DetachKeys:
    """Watches typed bytes for the keys that detach: `ctrl-p,ctrl-q`, or what --detach-keys says."""

    def __init__(self, keys: str) -> None:
        self._wanted = bytes(_key(name) for name in (keys or "ctrl-p,ctrl-q").split(","))
        self._matched = 0
        self.typed = False

    def watch(self, data: bytes) -> None:
        for byte in data:
            if byte == self._wanted[self._matched]:
                self._matched += 1
            else:
                self._matched = int(byte == self._wanted[0])
            if self._matched == len(self._wanted):
                self.typed, self._matched = True, 0


def _key(name: str) -> int:
    """`a` is itself; `ctrl-a` to `ctrl-z`, `ctrl-@`, `ctrl-[` … are the control characters."""
    letter = name.removeprefix("ctrl-")
    if len(letter) != 1:
        raise UsageError(f"the detach key {name!r} is neither one character nor ctrl- and one character")
    return ord(letter.upper()) & 0x1F if name.startswith("ctrl-") else ord(letter)


class Session:
    """What is connected, and where to: `resize(rows, columns)` and `forward(signal number)`.

    `stdin` False leaves this command's stdin alone. `forward` None lets signals act here.
    """

    def __init__(
        self,
        stream: Hijacked,
        *,
        tty: bool,
        stdin: bool,
        resize: Resize,
        forward: Forward | None = None,
        detach_keys: str = "",
    ) -> None:
        self._keys = DetachKeys(detach_keys)
        self._stream = stream
        self._tty = tty
        self._stdin = stdin
        self._resize = resize
        self._forward = forward
        self._frames = Frames()

    def run(self, started: Callable[[], object] | None = None) -> None:
        """Pump until the stream ends; `started` is called once the terminal is ready."""
        numbers = [*(FORWARDED if self._forward else ()), *([RESIZED] if self._tty else ())]
        try:
            with Signals(numbers) as signals:
                if started:
                    started()
                if self._tty:
                    self._tell_size()
                if self._tty and self._stdin and is_terminal(0):
                    with Raw(0):
                        self._pump(signals)
                else:
                    self._pump(signals)
        finally:
            self._stream.close()

    @property
    def detached(self) -> bool:
        """Whether the user left a program that goes on."""
        return self._tty and self._stdin and self._keys.typed

    def _pump(self, signals: Signals) -> None:
        events = poll()
        events.register(self._stream.fileno(), POLLIN)
        events.register(signals.fd, POLLIN)
        if self._stdin:
            events.register(0, POLLIN)
        while True:
            ready = [self._stream.fileno()] if self._stream.waiting() else [fd for fd, _ in events.poll()]
            if signals.fd in ready:
                self._pass_on(signals.read())
            if 0 in ready and not self._send():
                events.unregister(0)
            if self._stream.fileno() in ready and not self._receive():
                return

    def _send(self) -> bool:
        try:
            data = os.read(0, _PIECE)
        except OSError:
            data = b""  # the terminal went away: the same as its end
        try:
            if data:
                self._keys.watch(data)
                self._stream.send(data)
                return True
            self._stream.half_close()
        except (BrokenPipeError, ConnectionResetError):
            return False  # the program is gone; its last output is still to be read
        return False

    def _receive(self) -> bool:
        data = self._stream.receive()
        if not data:
            return False
        if self._tty:
            write_all(1, data)
        else:
            for stream, piece in self._frames.feed(data):
                write_all(2 if stream == STDERR else 1, piece)
        return True

    def _pass_on(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == RESIZED:
                self._tell_size()
            elif self._forward:
                self._forward(number)

    def _tell_size(self) -> None:
        found = size(1) or size(0)
        if found:
            self._resize(*found)


def write_all(fd: int, data: bytes) -> None:
    """Write everything, waiting where the descriptor does not block by itself."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            waiting = poll()
            waiting.register(fd, 4 | POLLHUP)
            waiting.poll()
