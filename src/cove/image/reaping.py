"""Deleting directory trees: their names go at once, their files in the background.

    discard(tree) ─▶ renamed to .<random> beside the others ─▶ the reaper's thread deletes it
    killed between ─▶ the next start finds .<random> and deletes it

So nobody who removes an image waits for the disk, and no lock is held while it works.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import subprocess
import threading
import time
from pathlib import Path

from cove.errors import describe

_log = logging.getLogger(__name__)


def set_aside(directory: Path, within: Path) -> Path | None:
    """Take a tree's name away; what it is called until it is deleted, None when there is none."""
    gone = within / f".{secrets.token_hex(8)}"
    try:
        directory.rename(gone)
    except FileNotFoundError:
        return None
    return gone


def delete(tree: Path) -> None:
    """Delete a tree; links in it are removed, never followed."""
    try:
        shutil.rmtree(tree)
    except RecursionError:
        # A container may nest directories deeper than Python's stack; rm(1) knows no such bound.
        subprocess.run(["rm", "-rf", "--", str(tree)], check=True)


def discard(directory: Path, within: Path) -> None:
    """Take a tree's name away at once, then delete it."""
    gone = set_aside(directory, within)
    if gone is not None:
        delete(gone)


class Reaper:
    """Deletes what it is given, one tree after the other; its thread is there as long as there is something."""

    def __init__(self, patience: float = 0.0) -> None:
        """It begins `patience` seconds after the first tree, when others may have nothing else to do."""
        self._patience = patience
        self._changed = threading.Condition()
        self._waiting: list[Path] = []
        self._running = False

    def take(self, tree: Path) -> None:
        """Delete this tree, whose name nobody uses any more, soon."""
        with self._changed:
            self._waiting.append(tree)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="reaper", daemon=True).start()

    def finish(self) -> None:
        """Wait until everything that was given is deleted."""
        with self._changed:
            while self._running:
                self._changed.wait()

    def _run(self) -> None:
        time.sleep(self._patience)
        while True:
            with self._changed:
                if not self._waiting:
                    self._running = False
                    self._changed.notify_all()
                    return
                tree = self._waiting.pop(0)
            try:
                delete(tree)
            except (OSError, subprocess.CalledProcessError) as error:
                why = describe(error) if isinstance(error, OSError) else str(error)
                _log.warning(
                    "what was removed and is called %s now is not deleted before the next start: %s", tree.name, why
                )
