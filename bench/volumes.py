"""Data on the move, with each engine's own command: volumes out, in and doubled; a container kept and brought back.

Where an engine has no such command, its users run tar in a container, or commit, save and tar one after the other.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from engines import CoveEngine, Engine, PodmanEngine

IMAGE = "localhost/bench:latest"
_LARGE = "head -c 268435456 /dev/urandom > /v/file"
_MANY = (
    "d=0; while [ $d -lt 50 ]; do mkdir /v/$d; i=0; while [ $i -lt 100 ]; do echo text $i > /v/$d/$i; i=$((i+1)); "
    "done; d=$((d+1)); done"
)


class _Commands:
    """One engine's own command."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        host = f"unix://{engine.socket}"
        hosts = {"DOCKER_HOST": host, "COVE_HOST": host, "CONTAINER_HOST": host}
        self._environment = os.environ | hosts | engine.environment()

    def __call__(self, *words: str, source: Path | None = None, target: Path | None = None) -> None:
        """Run it; `source` is what it reads, `target` what it writes."""
        local = isinstance(self._engine, PodmanEngine) and words[:2] in (("volume", "export"), ("volume", "import"))
        prefix = self._beside() if local else self._plain()
        left_out = "CONTAINER_HOST" if local else ""
        environment = {key: value for key, value in self._environment.items() if key != left_out}
        with open(source or os.devnull, "rb") as reads, open(target or os.devnull, "wb") as writes:
            done = subprocess.run(
                [*prefix, *words], env=environment, stdin=reads, stdout=writes, stderr=subprocess.PIPE
            )
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stderr[-400:]!r}")

    def _plain(self) -> list[str]:
        return [self._engine.command, *(["--remote"] if isinstance(self._engine, PodmanEngine) else [])]

    def _beside(self) -> list[str]:
        """podman, which moves volumes only where they lie, in the namespaces of its service."""
        assert self._engine.process is not None
        roots = ["--root", str(self._engine.root / "data"), "--runroot", str(self._engine.run)]
        return ["nsenter", "-m", "-t", str(self._engine.process.pid), "podman", *roots, "--cgroup-manager=cgroupfs"]

    def run(self, volume: str, *words: str, source: Path | None = None, target: Path | None = None) -> None:
        """A command in a container that has the volume at /v."""
        alone = ("run", "--rm", *(["-i"] if source else []), "--network", "none", "-v", f"{volume}:/v")
        self(*alone, IMAGE, *words, source=source, target=target)

    def out(self, volume: str, target: Path) -> None:
        if isinstance(self._engine, CoveEngine | PodmanEngine):
            self("volume", "export", volume, target=target)
        else:
            self.run(volume, "tar", "-C", "/v", "-cf", "-", ".", target=target)

    def into(self, volume: str, source: Path) -> None:
        if isinstance(self._engine, CoveEngine):
            self("volume", "import", volume, source=source)
        elif isinstance(self._engine, PodmanEngine):
            self("volume", "create", volume)
            self("volume", "import", volume, str(source))
        else:
            self.run(volume, "tar", "-C", "/v", "-xf", "-", source=source)

    def double(self, volume: str, other: str) -> None:
        if isinstance(self._engine, CoveEngine):
            self("volume", "clone", volume, other)
        else:
            both = ("-v", f"{volume}:/v", "-v", f"{other}:/w")
            self("run", "--rm", "--network", "none", *both, IMAGE, "cp", "-a", "/v/.", "/w")

    def keep(self, container: str, volume: str, directory: Path) -> None:
        if isinstance(self._engine, CoveEngine):
            self("backup", "-o", str(directory / "backup"), container)
            return
        self("commit", container, "localhost/kept:latest")
        self("save", "-o", str(directory / "image"), "localhost/kept:latest")
        self.out(volume, directory / "volume")

    def restore(self, name: str, other: str, volume: str, directory: Path) -> None:
        if isinstance(self._engine, CoveEngine):
            self("restore", "--name", name, "--volume", f"{volume}={other}", str(directory / "backup"))
            return
        self("load", "-i", str(directory / "image"))
        self.into(other, directory / "volume")
        self("create", "--name", name, "-v", f"{other}:/v", "localhost/kept:latest", "true")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _moved(content: str, verb: str) -> Callable[[Engine], float]:
    """Milliseconds to move a volume with that content."""

    def run(engine: Engine) -> float:
        command, archive = _Commands(engine), engine.root / "volume.tar"
        command.run("first", "sh", "-c", content)
        try:
            if verb == "double":
                return _timed(lambda: command.double("first", "second"))
            out = _timed(lambda: command.out("first", archive))
            return out if verb == "out" else _timed(lambda: command.into("second", archive))
        finally:
            archive.unlink(missing_ok=True)
            command("volume", "rm", "-f", "first", "second")

    return run


def _kept(*, back: bool) -> Callable[[Engine], float]:
    """Milliseconds to keep a container with a volume of 256 MiB, or to bring it back."""

    def run(engine: Engine) -> float:
        command, directory = _Commands(engine), engine.root / "kept"
        directory.mkdir(exist_ok=True)
        command.run("first", "sh", "-c", _LARGE)
        command("create", "--name", "kept", "--network", "none", "-v", "first:/v", IMAGE, "true")
        try:
            out = _timed(lambda: command.keep("kept", "first", directory))
            return _timed(lambda: command.restore("again", "second", "first", directory)) if back else out
        finally:
            for name in ("kept", "again") if back else ("kept",):
                command("rm", "-f", name)
            command("volume", "rm", "-f", "first", "second")

    return run


ROWS = (
    ("volume of 256 MiB out as an archive", _moved(_LARGE, "out"), 5),
    ("volume of 5000 files out as an archive", _moved(_MANY, "out"), 5),
    ("volume of 256 MiB in from an archive", _moved(_LARGE, "into"), 5),
    ("volume of 5000 files in from an archive", _moved(_MANY, "into"), 5),
    ("volume of 5000 files doubled", _moved(_MANY, "double"), 5),
    ("container with a volume of 256 MiB kept", _kept(back=False), 5),
    ("the same brought back", _kept(back=True), 5),
)
