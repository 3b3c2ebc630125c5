"""Where an error goes: to standard error for people, and to the file of --log for the program that called."""

from __future__ import annotations

import os
import sys
import time

from cove.errors import InvalidArgument


class Log:
    """`path` is "" for none; `form` is "text" or "json"; `debug` also tells what is done."""

    __slots__ = ("debugging", "form", "path")

    def __init__(self, path: str, form: str, *, debug: bool) -> None:
        kind, colon, rest = path.partition(":")
        if colon and kind == "file":
            path = rest
        elif colon and kind.isalpha():
            raise InvalidArgument(f"--log {path} is not supported, errors are logged to a file: give its path")
        if form not in ("text", "json"):
            raise InvalidArgument(f'unknown log-format "{form}", it is text or json')
        self.path = os.path.abspath(path) if path else ""
        self.form = form
        self.debugging = debug
        if self.path:
            os.close(self._open())  # a caller that reads it shall find it

    def error(self, message: str) -> None:
        """The one sentence that a failed command ends with."""
        try:
            self._write("error", message)
        except OSError as failure:
            print(f"cove-oci: the log {self.path} cannot be written: {failure.strerror}", file=sys.stderr)
        print(f"cove-oci: {message}", file=sys.stderr)

    def warning(self, message: str) -> None:
        self._write("warning", message)
        print(f"cove-oci: {message}", file=sys.stderr)

    def debug(self, message: str) -> None:
        if self.debugging:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        if not self.path and level != "debug":
            return
        line = self._line(level, message)
        if not self.path:
            print(line, file=sys.stderr)
            return
        fd = self._open()
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def _line(self, level: str, message: str) -> str:
        import json

        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.form == "json":
            return json.dumps({"level": level, "msg": message, "time": now}, ensure_ascii=False)
        return f'time="{now}" level={level} msg={json.dumps(message, ensure_ascii=False)}'
