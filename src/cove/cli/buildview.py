"""A build's progress: a live screen of the steps that run on a terminal, plain lines elsewhere, or JSON.

#3 [web 2/4] RUN make            a step begins
#3 why: file src/a.c changed     with --explain
#3 0.41 cc -c a.c                what it writes, with seconds since it began
#3 DONE 0.9s                     or CACHED, or ERROR
"""

from __future__ import annotations

import os
import sys
import time

from cove.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO

    Message = dict[str, Any]

_SHOWN = 6
_PERIOD = 0.1


def show(messages: Iterable[Message], kind: str, *, explain: bool, quiet: bool) -> list[Message]:
    """Show a build to its end; its `aux` values. Raises ApiError where it failed."""
    out = sys.stderr
    if kind == "auto":
        kind = "tty" if out.isatty() and os.environ.get("TERM") not in (None, "dumb") else "plain"
    view: Json | Plain | Screen
    if kind == "json":
        view = Json(sys.stdout)
    elif kind == "tty" and not quiet:
        view = Screen(out, explain=explain)
    else:
        view = Plain(out, explain=explain, quiet=quiet)
    found: list[Message] = []
    failure: Message | None = None
    try:
        for message in messages:
            if message.get("error"):
                failure = message
                if kind == "json":
                    view.add(message)
                continue
            if "aux" in message:
                found.append(message["aux"])
            view.add(message)
    finally:
        view.close()
    if failure is not None:
        raise ApiError(500, str(failure["error"]))
    return found


class Json:
    """Every message as it came, one a line."""

    def __init__(self, out: TextIO) -> None:
        import json

        self._out = out
        self._dump = json.dumps

    def add(self, message: Message) -> None:
        self._out.write(self._dump(message) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""


class Plain:
    """Lines that only ever follow each other."""

    def __init__(self, out: TextIO, *, explain: bool, quiet: bool = False) -> None:
        self._out = out
        self._explain = explain
        self._quiet = quiet
        self._began: dict[int, float] = {}
        self._rest: dict[int, str] = {}
        self._logs: dict[int, list[str]] = {}

    def add(self, message: Message) -> None:
        if "warning" in message:
            warning = message["warning"]
            self._say(f"WARNING: {warning['rule']}: {warning['message']} (line {warning['line']})")
        elif "vertex" in message:
            self._vertex(message)
        elif "status" in message and not message.get("progressDetail"):
            head = f"{message['id']}: " if message.get("id") else ""
            self._say(f"{head}{message['status']}")

    def _vertex(self, message: Message) -> None:
        number, kind = message["vertex"], message["event"]
        if kind == "start":
            self._began[number] = message["at"]
            self._say(f"#{number} {message['name']}")
            if self._explain and message.get("reason"):
                self._say(f"#{number} why: {message['reason']}")
        elif kind == "cached":
            self._say(f"#{number} {message['name']}\n#{number} CACHED")
        elif kind == "log":
            self._log(number, message)
        else:
            self._flush(number, message)
            took = message["at"] - self._began.get(number, message["at"])
            if kind == "done":
                self._say(f"#{number} DONE {took:.1f}s")
            else:
                self._say(f"#{number} ERROR {message.get('reason', '')}")
                if self._quiet:
                    self._out.write("".join(self._logs.get(number, [])))

    def _log(self, number: int, message: Message) -> None:
        *lines, self._rest[number] = (self._rest.get(number, "") + message["data"]).split("\n")
        for line in lines:
            self._line(number, message["at"], line)

    def _flush(self, number: int, message: Message) -> None:
        rest = self._rest.pop(number, "")
        if rest:
            self._line(number, message["at"], rest)

    def _line(self, number: int, at: float, line: str) -> None:
        text = f"#{number} {at - self._began.get(number, at):.2f} {line.rstrip(chr(13))}"
        if self._quiet:
            self._logs.setdefault(number, []).append(text + "\n")
        self._say(text)

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._out.write(text + "\n")
            self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""


class Screen:
    """Finished steps as lines that stay; below them, written again and again, the steps that run."""

    def __init__(self, out: TextIO, *, explain: bool) -> None:
        self._out = out
        self._explain = explain
        self._running: dict[int, tuple[str, float, list[str], str]] = {}
        self._height = 0
        self._drawn = 0.0

    def add(self, message: Message) -> None:
        if "warning" in message:
            warning = message["warning"]
            self._keep(f"! {warning['rule']}: {warning['message']} (line {warning['line']})")
            return
        if "vertex" not in message:
            return
        number, kind = message["vertex"], message["event"]
        name, began, lines, why = self._running.get(number, (message["name"], message["at"], [], ""))
        if kind == "start":
            self._running[number] = (name, message["at"], [], message.get("reason", ""))
        elif kind == "log":
            lines += [line.rstrip("\r") for line in message["data"].split("\n") if line.strip()]
            del lines[:-200]
        else:
            self._running.pop(number, None)
            self._end(kind, name, message["at"] - began, lines, why)
        if kind != "log" or time.monotonic() - self._drawn > _PERIOD:
            self._draw(message["at"])

    def _end(self, kind: str, name: str, took: float, lines: list[str], why: str) -> None:
        mark = {"cached": "CACHED", "failed": "ERROR"}.get(kind, f"{took:.1f}s")
        self._keep(f"=> {name}  {mark}")
        if self._explain and why and kind != "cached":
            self._keep(f"   why: {why}")
        for line in lines[-20:] if kind == "failed" else ():
            self._keep(f"   {line}")

    def _keep(self, line: str) -> None:
        self._clear()
        self._out.write(self._cut(line) + "\n")
        self._out.flush()

    def _draw(self, now: float) -> None:
        self._drawn = time.monotonic()
        self._clear()
        rows = max(2, os.get_terminal_size(self._out.fileno()).lines - 2)
        text: list[str] = []
        for name, began, lines, _ in self._running.values():
            text.append(self._cut(f"=> {name}  {now - began:.1f}s"))
            text += [self._cut(f"   | {line}") for line in lines[-_SHOWN:]]
        text = text[:rows]
        self._out.write("".join(f"{line}\n" for line in text))
        self._out.flush()
        self._height = len(text)

    def _clear(self) -> None:
        if self._height:
            self._out.write(f"\033[{self._height}A\033[J")
        self._height = 0

    def _cut(self, line: str) -> str:
        plain = "".join(char if char.isprintable() else " " for char in line)
        return plain[: max(os.get_terminal_size(self._out.fileno()).columns - 1, 20)]

    def close(self) -> None:
        self._clear()
        self._out.flush()
