"""Signals by name or number, as `kill` takes them, and the sending of one."""

from __future__ import annotations

from cove.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the C module: `signal` makes enumerations of what is in it

KILL: int = signal.SIGKILL


def send(pidfd: int, number: int) -> None:
    """Raises ProcessLookupError when the process has ended."""
    signal.pidfd_send_signal(pidfd, number)


def parse(text: str) -> int:
    """KILL, SIGKILL, kill, RTMIN+1 or 9."""
    name = text.upper().removeprefix("SIG")
    number = int(name) if name.isdecimal() else _named(name)
    if not 0 <= number < signal.NSIG:
        raise InvalidArgument(f'unknown signal "{text}": give a name such as TERM, or a number below {signal.NSIG}')
    return number


def _named(name: str) -> int:
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and (not plus or offset.isdecimal()):
        return signal.SIGRTMIN + int(offset or 0)
    base, minus, offset = name.partition("-")
    if base == "RTMAX" and (not minus or offset.isdecimal()):
        return signal.SIGRTMAX - int(offset or 0)
    found = signal.__dict__.get(f"SIG{name}", -1)
    return int(found) if isinstance(found, int) else -1
