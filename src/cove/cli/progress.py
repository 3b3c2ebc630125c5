"""The progress of a pull, a push, a load or a build: live lines on a terminal, plain ones elsewhere.

A message of the stream is one of: an error (raised as ApiError, after the screen is left
tidy), a status of one layer (`id`, `status`, perhaps `progressDetail`), a status of the
whole, or text (`stream`). On a terminal each layer has a line of its own that is written
again; in a pipe only what changed for good is written, never a bar.
"""

from __future__ import annotations

import os
import sys

from cove.cli import humanize
from cove.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO

    Messages = Iterable[dict[str, Any]]


def show(
    messages: Iterable[dict[str, Any]], out: TextIO | None = None, *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Show a stream to its end; returns its `aux` values. Raises ApiError where the stream says error."""
    out = out or sys.stdout
    live = out.isatty() and not quiet
    screen = _Screen(out) if live else _Lines(out)
    found = []
    for message in messages:
        error = message.get("error") or (message.get("errorDetail") or {}).get("message")
        if error:
            raise ApiError(500, str(error))
        if message.get("aux"):
            found.append(message["aux"])
        elif not quiet:
            screen.add(message)
    return found


class _Lines:
    """For pipes and files: one line for each status that is not a passing one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def add(self, message: dict[str, Any]) -> None:
        if message.get("progressDetail"):
            return
        if "stream" in message:
            self._out.write(message["stream"])
        else:
            head = f"{message['id']}: " if message.get("id") else ""
            self._out.write(f"{head}{message.get('status', '')}\n")
        self._out.flush()


class _Screen:
    """For terminals: the lines of all layers stay in place and are written again."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: dict[str, int] = {}

    def add(self, message: dict[str, Any]) -> None:
        key = message.get("id", "")
        if "stream" in message or not key:
            self._lines.clear()
            self._out.write(message.get("stream") or f"{message.get('status', '')}\n")
        elif key in self._lines:
            up = len(self._lines) - self._lines[key]
            self._out.write(f"\033[{up}A\r\033[2K{self._text(key, message)}\r\033[{up}B")
        else:
            self._lines[key] = len(self._lines)
            self._out.write(f"{self._text(key, message)}\n")
        self._out.flush()

    def _text(self, key: str, message: dict[str, Any]) -> str:
        detail = message.get("progressDetail") or {}
        width = os.get_terminal_size(self._out.fileno()).columns
        return f"{key}: {message.get('status', '')} {_bar(detail, width)}".rstrip()[: max(width - 1, 20)]


def _bar(detail: dict[str, Any], width: int) -> str:
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if not current and not total:
        return ""
    if total <= 0:
        return humanize.size(current)
    share = min(current / total, 1.0)
    sizes = f"{humanize.size(current)}/{humanize.size(total)}"
    if width < 100:
        return f"{share:4.0%}  {sizes}"
    filled = int(share * 40)
    return f"{'━' * filled}{'╌' * (40 - filled)}  {sizes}"
