"""Builds, with each engine's own command: contexts are made once, the cache is what the row is about.

podman builds by itself, buildah over a storage of its own. Beside dockerd it is its BuildKit, where a docker command
on this machine speaks its protocol (with buildx, or before version 23 by itself); elsewhere its older builder.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engines import IN_NAMESPACES, BuildahEngine, DockerEngine, Engine, PodmanEngine

_FROM = "FROM localhost/bench:latest\n"
_COUNTER = itertools.count(int(time.time()))
_ROOT = Path(tempfile.gettempdir()) / "cove-bench-contexts"


def context(name: str, files: int, dockerfile: str, size: int = 200) -> Path:
    """A directory with that many files and a Dockerfile."""
    where = _ROOT / name
    if not where.exists():
        (where / "files").mkdir(parents=True)
        for number in range(files):
            (where / f"files/{number:05}").write_bytes(os.urandom(size))
    (where / "Dockerfile").write_text(_FROM + dockerfile)
    return where


def build(engine: Engine, where: Path) -> float:
    """Milliseconds of one build."""
    environment = os.environ | {"DOCKER_HOST": f"unix://{engine.socket}", "COVE_HOST": f"unix://{engine.socket}"}
    environment["CONTAINER_HOST"] = f"unix://{engine.socket}"
    words = [*_command(engine, environment), "--network", "none", "-q", "-t", "built", str(where)]
    began = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr[-400:]}")
    return (time.perf_counter() - began) * 1000


def _command(engine: Engine, environment: dict[str, str]) -> list[str]:
    if isinstance(engine, DockerEngine):
        environment["DOCKER_BUILDKIT"] = "1" if _buildkit() else "0"
        return [_buildkit() or engine.command, "build"]
    if not isinstance(engine, PodmanEngine):
        return [engine.command, "build"]
    if not isinstance(engine, BuildahEngine):
        return [engine.command, "--remote", "build", "--layers"]
    run = engine.root / "buildah"
    run.mkdir(exist_ok=True)
    environment |= engine.environment() | {"RUN": str(run), "BUILDAH_ISOLATION": "oci"}
    roots = ["--root", str(engine.root / "data"), "--runroot", str(run / "run")]
    return [*IN_NAMESPACES, "buildah", *roots, "bud", "--layers", "--runtime", "runc", "--cgroup-parent", "/buildah"]


@functools.cache
def _buildkit() -> str:
    """A docker command that speaks BuildKit's protocol; "" for none."""
    for place in os.environ.get("PATH", "").split(":"):
        program = f"{place}/docker"
        if not os.access(program, os.X_OK):
            continue
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        major = version.partition("version ")[2].partition(".")[0]
        buildx = subprocess.run([program, "buildx", "version"], capture_output=True)
        if not buildx.returncode or (major.isdecimal() and int(major) < 23):
            return program
    return ""


def _unique() -> str:
    return f"ENV ROUND={next(_COUNTER)}\n"


def _five() -> str:
    runs = "".join(f"RUN echo {number} > /made-{number}\n" for number in range(1, 5))
    return "RUN true\nCOPY files /files\n" + runs


def cold(engine: Engine) -> float:
    return build(engine, context("thousand", 1000, _unique() + _five()))


def unchanged(engine: Engine) -> float:
    where = context("again", 1000, _five())
    build(engine, where)
    return build(engine, where)


def one_file(engine: Engine) -> float:
    where = context("ten-thousand", 10_000, "COPY files /files\n")
    build(engine, where)
    (where / "files/00042").write_text(str(next(_COUNTER)))
    return build(engine, where)


def parallel(engine: Engine) -> float:
    stages = "".join(
        f"{'' if number == 0 else _FROM}RUN sleep 0.2 && echo {next(_COUNTER)} > /out\n".replace(
            _FROM, f"{_FROM.strip()} AS s{number}\n"
        )
        for number in range(9)
    )
    copies = "".join(f"COPY --from=s{number} /out /out-{number}\n" for number in range(1, 9))
    return build(engine, context("parallel", 0, stages + _FROM + copies))


def large(engine: Engine) -> float:
    """On another base each time, so that everybody copies it again."""
    where = context("large", 0, f"RUN echo {next(_COUNTER)} > /round\nCOPY large /large\n")
    if not (where / "large").exists():
        with open(where / "large", "wb") as file:
            for _ in range(500):
                file.write(os.urandom(1 << 20))
    return build(engine, where)


ROWS: list[tuple[str, Callable[[Engine], float], int]] = [
    ("build, cold: 5 RUN, 1000 files copied", cold, 3),
    ("build, unchanged", unchanged, 3),
    ("build, one of 10,000 files changed", one_file, 5),
    ("build, eight parallel stages", parallel, 5),
    ("build, 500 MB copied", large, 15),
]
