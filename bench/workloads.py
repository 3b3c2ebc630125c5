"""What is measured: the rows of the budget table, each as one round on one engine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builds
import networks
import volumes
from engines import Engine

IMAGE = "localhost/bench:latest"
_LOGGED = 64 << 20


@dataclass(frozen=True)
class Workload:
    """`run`: one figure in `unit`. `weight` divides the rounds of a long one. `bare`: the same without an engine."""

    title: str
    unit: str
    run: Callable[[Engine], float]
    weight: int = 1
    more_is_better: bool = False
    bare: Callable[[], float] | None = None


def create(engine: Engine, command: list[str], **host: Any) -> str:
    body = {"Image": IMAGE, "Cmd": command, "HostConfig": {"NetworkMode": "none", **host}}
    identity: str = engine.json("POST", "/containers/create", body)["Id"]
    return identity


def life(engine: Engine, **host: Any) -> None:
    identity = create(engine, ["true"], **host)
    engine.call("POST", f"/containers/{identity}/start")
    engine.call("POST", f"/containers/{identity}/wait")
    engine.call("DELETE", f"/containers/{identity}")


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def whole_life(network: str) -> Callable[[Engine], float]:
    return lambda engine: milliseconds(lambda: life(engine, NetworkMode=network))


def idle(engine: Engine, count: int, **host: Any) -> list[str]:
    """Start `count` sleeping containers."""
    identities = [create(engine, ["sleep", "600"], **host) for _ in range(count)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda identity: engine.call("POST", f"/containers/{identity}/start"), identities))
    return identities


def remove(engine: Engine, identities: list[str]) -> None:
    for identity in identities:
        engine.call("DELETE", f"/containers/{identity}?force=1")


def execute(engine: Engine) -> float:
    (identity,) = idle(engine, 1)

    def once() -> None:
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["echo", "hello"]}
        exec_id = engine.json("POST", f"/containers/{identity}/exec", body)["Id"]
        output = engine.call("POST", f"/exec/{exec_id}/start", {"Detach": False, "Tty": False})
        if b"hello" not in output or engine.json("GET", f"/exec/{exec_id}/json")["ExitCode"] != 0:
            raise RuntimeError(f"exec gave {output!r}")

    try:
        once()
        return sorted(milliseconds(once) for _ in range(5))[2]
    finally:
        remove(engine, [identity])


def burst(engine: Engine) -> float:
    """100 containers started by 16 clients: starts in a second."""
    identities = [create(engine, ["sleep", "600"], NetworkMode="bridge") for _ in range(100)]
    try:
        with ThreadPoolExecutor(16) as pool:
            began = time.perf_counter()
            list(pool.map(lambda identity: engine.call("POST", f"/containers/{identity}/start"), identities))
            return 100 / (time.perf_counter() - began)
    finally:
        remove(engine, identities)


def helpers_memory(engine: Engine) -> float:
    """PSS, in KiB per container, that 20 idle containers add to the engine's processes and its helpers.

    What the first containers ever bring with them, and leave, is the engine's own. Idle is who has been left alone
    for a while: what an engine needs for many starts at once may stay for some seconds.
    """
    remove(engine, idle(engine, 2))
    time.sleep(12)
    before = processes_pss(engine)
    identities = idle(engine, 20)
    try:
        time.sleep(12)
        return max(0.0, (processes_pss(engine) - before) / 20)
    finally:
        remove(engine, identities)


def processes_pss(engine: Engine) -> float:
    """KiB of the engine's own processes, whatever they are called."""
    total = 0.0
    for pid in engine.processes():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(float(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def memory_at_rest(engine: Engine) -> float:
    """MiB of PSS of an engine that has run a container and has none now."""
    life(engine)
    time.sleep(1)
    return processes_pss(engine) / 1024


def starting(engine: Engine) -> float:
    """Milliseconds from the start of a daemon without containers until it answers."""
    engine.stop()
    return milliseconds(lambda: engine.start(pause=0.002))


def listing(running: int, stopped: int) -> Callable[[Engine], float]:
    def run(engine: Engine) -> float:
        identities = idle(engine, running) + [create(engine, ["true"]) for _ in range(stopped)]
        try:
            path = "/containers/json?all=1" if stopped else "/containers/json"
            engine.call("GET", path)
            return sorted(milliseconds(lambda: engine.call("GET", path)) for _ in range(5))[2]
        finally:
            remove(engine, identities)

    return run


def logs(read: bool) -> Callable[[Engine], float]:
    """MiB a second, of 64 MiB of text that a program copies to its stdout in large blocks.

    The text is a file of the host's, so that no engine waits for a program that makes it.
    """

    def run(engine: Engine) -> float:
        text = engine.root.parent / "text"
        if not text.exists():
            line = b"a line of text that is about as long as a usual one in a log\n"
            text.write_bytes((line * (_LOGGED // len(line) + 1))[:_LOGGED])
        identity = create(engine, ["dd", "if=/tmp/text", "bs=1M"], Binds=[f"{text}:/tmp/text:ro"])
        began = time.perf_counter()
        try:
            engine.call("POST", f"/containers/{identity}/start")
            engine.call("POST", f"/containers/{identity}/wait")
            if not read:
                return (_LOGGED >> 20) / (time.perf_counter() - began)
            began = time.perf_counter()
            size = len(engine.call("GET", f"/containers/{identity}/logs?stdout=1"))
            if size < _LOGGED:
                raise RuntimeError(f"only {size} bytes came back")
            return (_LOGGED >> 20) / (time.perf_counter() - began)
        finally:
            remove(engine, [identity])

    return run


def command_line(engine: Engine) -> float:
    """`run --rm` from the command line, with each engine's own command."""
    environment = os.environ | {"DOCKER_HOST": f"unix://{engine.socket}", "COVE_HOST": f"unix://{engine.socket}"}
    environment["CONTAINER_HOST"] = f"unix://{engine.socket}"
    remote = ["--remote"] if engine.name == "podman" else []
    words = [engine.command, *remote, "run", "--rm", "--network", "none", IMAGE, "true"]
    return milliseconds(lambda: subprocess.run(words, env=environment, check=True, capture_output=True))


WORKLOADS = [
    Workload("create + start + wait + remove, no network", "ms", whole_life("none")),
    Workload("the same on the bridge", "ms", whole_life("bridge")),
    Workload("exec echo, with output and exit code", "ms", execute, 2),
    Workload("100 containers started by 16 clients", "/s", burst, 5, more_is_better=True),
    Workload("helpers' memory per idle container", "KiB", helpers_memory, 5),
    Workload("list 100 running", "ms", listing(100, 0), 15),
    Workload("list 1000 in all", "ms", listing(100, 900), 15),
    Workload("logs written", "MiB/s", logs(False), 5, more_is_better=True),
    Workload("logs read back", "MiB/s", logs(True), 5, more_is_better=True),
    Workload("run --rm true, command line", "ms", command_line),
    *(Workload(title, unit, run, weight, unit == "/s") for title, unit, run, weight in networks.ROWS),
    *(Workload(title, unit, run, weight, unit != "µs", bare) for title, unit, run, weight, bare in networks.TRAFFIC),
    Workload("engine's memory at rest", "MiB", memory_at_rest, 5),
    Workload("engine's start until it answers", "ms", starting, 3),
    *(Workload(title, "ms", run, weight) for title, run, weight in (*builds.ROWS, *volumes.ROWS)),
]
