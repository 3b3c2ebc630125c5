"""Bare runtimes on one bundle: create, start, its end, delete. No engine, no image, no network beyond loopback.

`cove-oci` and runc are programs, so their figures hold the start of a program three times, of a Python interpreter
for one of them. The warm supervisor is the one inside the daemon, asked by `cove.runtime.client` as the daemon does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from engines import BIN

from cove.errors import CoveError
from cove.ids import new_id
from cove.paths import Instance, RunRoot
from cove.runtime.client import Runtime
from cove.runtime.messages import Exited, Launch, Report
from cove.runtime.oci.bundle import complete, decode
from cove.runtime.oci.log import Log

_SILENT = Log("", "text", debug=False)
TITLE = "bare runtime: create + start + delete"
_NUMBERS = itertools.count(1)


def bundle(archive: Path, at: Path) -> Path:
    """A bundle that runs `true`, with the configuration that `runc spec` writes."""
    rootfs = at / "rootfs"
    rootfs.mkdir(parents=True)
    subprocess.run(["tar", "-C", rootfs, "-xf", archive], check=True)
    subprocess.run(["runc", "spec", "--bundle", at], check=True)
    config = json.loads((at / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["true"]}
    config["process"].pop("rlimits", None)
    (at / "config.json").write_text(json.dumps(config))
    return at


class Program:
    """A runtime that is a program of runc's command line."""

    def __init__(self, name: str, program: str, at: Path, root: Path) -> None:
        self.name = name
        self._command = [program, "--root", str(root)]
        self._bundle = at

    def _call(self, *words: str) -> None:
        null = subprocess.DEVNULL  # not a pipe, which the container would hold too
        done = subprocess.run([*self._command, *words], stdin=null, stdout=null, stderr=null)
        if done.returncode:
            raise RuntimeError(f"{self.name} {words[0]} failed with {done.returncode}")

    def life(self) -> float:
        """Milliseconds of one."""
        identity = f"bench{os.getpid()}-{next(_NUMBERS)}"
        pid_file = self._bundle / "pid"
        began = time.perf_counter()
        self._call("create", "--bundle", str(self._bundle), "--pid-file", str(pid_file), identity)
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(int(pid_file.read_text()))
            self._call("start", identity)
            select.select([pidfd], [], [])
            os.close(pidfd)
        self._call("delete", identity)
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        pass


class Supervisor:
    """The warm supervisor: one that serves a run root of its own."""

    name = "supervisor"

    def __init__(self, at: Path, root: Path) -> None:
        self._bundle = at
        self._run = RunRoot(root)
        self._ended: asyncio.Future[None]
        self._runner = asyncio.Runner()
        self._runtime = self._runner.run(Runtime.connect(self._run, on_report=self._report))

    def _report(self, report: Report) -> None:
        if isinstance(report, Exited) and not self._ended.done():
            self._ended.set_result(None)

    def life(self) -> float:
        """Milliseconds of one."""
        return self._runner.run(self._life())

    async def _life(self) -> float:
        began = time.perf_counter()
        identity = new_id()
        path = self._bundle / "config.json"
        spec = complete(decode(path.read_bytes(), str(path)), str(self._bundle), identity, _SILENT)
        assert spec.linux is not None
        group = f"/{Instance.of(self._run).cgroup_parent}/{identity}"
        spec = msgspec.structs.replace(spec, linux=msgspec.structs.replace(spec.linux, cgroups_path=group))
        self._ended = asyncio.get_running_loop().create_future()
        process = await self._runtime.create(Launch(id=identity, spec=spec))
        await process.go()
        await self._ended
        process.close()
        await self._runtime.delete(identity)
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        with suppress(CoveError):
            self._runner.run(self._runtime.shutdown())
        self._runner.close()


@contextmanager
def runtimes(archive: Path, root: Path) -> Iterator[list[Program | Supervisor]]:
    """The warm supervisor first, then `cove-oci`, runc and crun where they are installed.

    What they note of their containers lies on a tmpfs, as /run is one where people work.
    """
    at = bundle(archive, root / "bundle")
    with tempfile.TemporaryDirectory(prefix="cove-bench-", dir="/dev/shm") as run, ExitStack() as undo:
        found: list[Program | Supervisor] = [Supervisor(at, Path(run, "supervisor"))]
        programs = [("cove-oci", str(BIN / "cove-oci")), ("runc", "runc"), ("crun", "crun")]
        found += [Program(name, path, at, Path(run, name)) for name, path in programs if shutil.which(path)]
        for each in found:
            undo.callback(each.close)
        yield found
