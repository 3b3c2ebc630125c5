"""What takes minutes is begun with the run, beside the tests without it: images of Debian's packages, the guest.

collection ──▶ tests that need one of them come last
beginning  ──▶ a process of this module does one after the other, with what the tests leave of the machine
need       ──▶ an image is waited for (a lock), and is made by who needs it if it is not there then;
               the guest's run is waited for, and what it said is what its test judges
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import test_guest
from tests.integration import debian_image

PROJECT = Path(__file__).parents[1]
GUEST = "guest"


@dataclass
class Beside:
    """The process, and the directory where it leaves what the guest said."""

    process: subprocess.Popen[bytes]
    place: Path

    def hurry(self) -> None:
        """Somebody waits for it: it is no longer what has time."""
        if self.process.poll() is None:
            os.setpriority(os.PRIO_PGRP, self.process.pid, 0)

    def guest(self) -> subprocess.CompletedProcess[str] | None:
        """How the guest's run ended, waited for; None when it did not come to that."""
        self.hurry()
        self.process.wait()
        code = self.place / "code"
        if not code.exists():
            return None
        said = [(self.place / name).read_text(errors="replace") for name in ("output", "errors")]
        return subprocess.CompletedProcess(test_guest.COMMAND, int(code.read_text()), *said)


def _needs(item: pytest.Item) -> set[str]:
    """The images of packages that a test stands on, or the guest."""
    fixtures = set(getattr(item, "fixturenames", ())) & set(debian_image.FIXTURES)
    found = {debian_image.FIXTURES[name] for name in fixtures}
    return found | ({GUEST} if item.path == Path(test_guest.__file__) else set())


def put_last(items: list[pytest.Item]) -> None:
    """Those that need something after all the others, and the guest's after these."""
    items.sort(key=lambda item: (bool(_needs(item)), GUEST in _needs(item)))


@contextmanager
def begun(items: list[pytest.Item]) -> Iterator[Beside | None]:
    """Begin with what they need, if there are others to pass meanwhile."""
    wanted = list(dict.fromkeys(name for item in items for name in _needs(item)))
    if os.geteuid() != 0 or not wanted or all(map(_needs, items)):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cove-ahead-") as place:
        # In a mount namespace of its own, for there are tests that compare what is mounted on the host.
        words = ["setpriv", "--pdeathsig", "TERM", "nice", "-n", "19", "unshare", "--mount"]
        words += [sys.executable, "-m", "tests.ahead", place, *wanted]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(words, cwd=PROJECT, process_group=0, **quiet) as process:  # type: ignore[call-overload]
            try:
                yield Beside(process, Path(place))
            finally:
                process.terminate()


def _main(place: Path, names: list[str]) -> None:
    """What fails here is tried again by the test that needs it, which says why."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in names:
        if name != GUEST:
            try:
                debian_image.had(name)
            except pytest.skip.Exception as reason:
                print(reason)
        elif shutil.which("qemu-system-x86_64"):
            with (place / "output").open("w") as output, (place / "errors").open("w") as errors:
                guest = subprocess.Popen(test_guest.COMMAND, stdout=output, stderr=errors)
                try:
                    code = guest.wait()
                finally:
                    guest.terminate()
                    guest.wait()
            (place / "code").write_text(str(code))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
