"""The supervisor through its client, on the real kernel: output, exits, takeover, execs, nothing left over."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cove.errors import Conflict, NotFound, StartFailed
from cove.ids import new_id
from cove.kernel import seccomp, syscalls
from cove.kernel.cgroups import Cgroups
from cove.kernel.proc_connector import ProcConnector
from cove.oci import spec as oci
from cove.paths import Instance, RunRoot
from cove.runtime.client import Runtime
from cove.runtime.logs.reader import LogReader
from cove.runtime.messages import ExecLaunch, Exited, Launch, LogPolicy, Report
from cove.runtime.newborn import Process
from tests.conftest import PATIENCE

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs a static busybox"),
]

_PR_SET_CHILD_SUBREAPER = 36
_GET_INFO = 0xC040FF0B
_KINDS: tuple[oci.NamespaceType, ...] = ("pid", "network", "mount", "ipc", "uts", "cgroup")
_MOUNTS = (
    oci.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
    oci.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=("nosuid", "mode=755", "size=65536k")),
    oci.Mount(destination="/dev/pts", type="devpts", source="devpts", options=("newinstance", "ptmxmode=0666")),
)


class World:
    """A runtime with its reports, and a root file system with nothing but busybox."""

    def __init__(self, top: Path) -> None:
        self.run = RunRoot(top / "run")
        self.logs = top / "logs"
        self.root = top / "root"
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
            (self.root / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, self.root / "bin/busybox")
        for name in ("sh", "echo", "sleep", "true", "cat", "seq", "yes", "head", "stty", "dd"):
            (self.root / "bin" / name).symlink_to("busybox")
        self.out_of_memory: list[str] = []
        self.exits: dict[str, asyncio.Future[Exited]] = {}
        self.runtime: Runtime

    def report(self, report: Report) -> None:
        if isinstance(report, Exited):
            future = self.exit_of(report.exec_id or report.id)
            if not future.done():
                future.set_result(report)
        else:
            self.out_of_memory.append(report.id)

    def exit_of(self, identity: str) -> asyncio.Future[Exited]:
        return self.exits.setdefault(identity, asyncio.get_running_loop().create_future())

    async def code(self, identity: str) -> int:
        return (await asyncio.wait_for(self.exit_of(identity), 60 * PATIENCE)).exit.code

    def process(self, *args: str, terminal: bool = False) -> oci.Process:
        return oci.Process(cwd="/", args=args, env=("PATH=/bin",), terminal=terminal)

    def launch(
        self, *args: str, stdin: bool = False, terminal: bool = False, resources: oci.Resources | None = None
    ) -> Launch:
        identity = new_id()
        parent = Instance.of(self.run).cgroup_parent
        linux = oci.Linux(
            namespaces=tuple(oci.Namespace(type=kind) for kind in _KINDS),
            cgroups_path=f"/{parent}/{identity}",
            resources=resources,
        )
        spec = oci.Spec(
            process=self.process(*args, terminal=terminal),
            root=oci.Root(path=str(self.root)),
            mounts=_MOUNTS,
            linux=linux,
        )
        bind = oci.Mount(destination="/", source=str(self.root), type="bind", options=("rbind", "rprivate"))
        log = LogPolicy(directory=str(self.logs / identity))
        return Launch(id=identity, spec=spec, rootfs=bind, stdin=stdin, log=log)

    async def start(self, launch: Launch) -> Process:
        process = await self.runtime.create(launch)
        await process.go()
        return process

    def output(self, identity: str, stream: int = 1) -> bytes:
        reader = LogReader(self.logs / identity)
        return b"".join(chunk.data for chunk in reader.read(streams=frozenset({stream})))

    async def supervisor_pid(self) -> int:
        """Of the supervisor that serves now; a new one needs a moment."""
        async with asyncio.timeout(20 * PATIENCE):
            while (pid := self._find_supervisor()) is None:
                await asyncio.sleep(0.01)
        return pid

    def _find_supervisor(self) -> int | None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"cove.runtime.supervisor" in words and str(self.run.root).encode() in words:
                    return int(entry.name)
        return None


@asynccontextmanager
async def _world(top: Path) -> AsyncIterator[World]:
    world = World(top)
    world.runtime = await Runtime.connect(world.run, on_report=world.report)
    try:
        yield world
    finally:
        for status in await world.runtime.list():
            await world.runtime.delete(status.id)
        assert await world.runtime.shutdown()
        await world.runtime.close()
        parent = Instance.of(world.run).cgroup_parent
        left = [each for each in Cgroups.detect(parent).directories(f"/{parent}") if os.path.exists(each)]
        assert left == []


def _run(tmp_path: Path, case: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _world(tmp_path) as world:
            await case(world)

    asyncio.run(main())


def test_output_and_exit_code(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        launch = world.launch("sh", "-c", "echo out; echo err >&2; exit 7")
        process = await world.start(launch)
        assert await world.code(launch.id) == 7
        assert (world.output(launch.id), world.output(launch.id, 2)) == (b"out\n", b"err\n")
        process.close()

    _run(tmp_path, case)


def test_stdin_reaches_it_and_ends(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        launch = world.launch("cat", stdin=True)
        process = await world.start(launch)
        assert process.stdin_fd is not None
        os.write(process.stdin_fd, b"there and back\n")
        process.close()
        await world.runtime.close_stdin(launch.id)
        assert await world.code(launch.id) == 0
        assert world.output(launch.id) == b"there and back\n"

    _run(tmp_path, case)


def test_terminal_has_a_size(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        launch = world.launch("sh", "-c", "sleep 0.2; stty size; exit 3", terminal=True)
        process = await world.start(launch)
        assert process.pty_fd is not None
        await world.runtime.resize(launch.id, height=33, width=99)
        assert await world.code(launch.id) == 3
        assert world.output(launch.id) == b"33 99\r\n"
        process.close()

    _run(tmp_path, case)


def test_a_missing_program_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        launch = world.launch("nothing-here")
        process = await world.runtime.create(launch)
        with pytest.raises(StartFailed) as failed:
            await process.go()
        assert failed.value.exit_code == 127
        process.close()
        await world.runtime.delete(launch.id)
        await world.runtime.delete(launch.id)
        assert not world.run.container(launch.id).root.exists()

    _run(tmp_path, case)


def test_exec_with_output_signal_and_pause(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        launch = world.launch("sleep", "100")
        process = await world.start(launch)
        inlet, outlet = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        command = ExecLaunch(id=new_id(), container=launch.id, process=world.process("sh", "-c", "echo in; exit 4"))
        run = await world.runtime.exec(command, (null, outlet, null))
        await run.go()
        os.close(outlet)
        assert await world.code(command.id) == 4
        assert os.read(inlet, 100) == b"in\n"
        await world.runtime.freeze(launch.id, True)
        assert (await world.runtime.list())[0].phase == "paused"
        await world.runtime.freeze(launch.id, False)
        await world.runtime.signal(launch.id, signal.SIGKILL)
        assert await world.code(launch.id) == 137
        with pytest.raises(Conflict):
            await world.runtime.signal(launch.id, signal.SIGTERM)
        for fd in (inlet, null):
            os.close(fd)
        run.close()
        process.close()

    _run(tmp_path, case)


def test_a_killed_supervisor_loses_no_line_and_no_code(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; sleep 0.1; exit 9"

    async def case(world: World) -> None:
        counter = world.launch("sh", "-c", "sleep 0.1; " + script)
        quick = world.launch("sh", "-c", "sleep 0.15; echo last words; exit 5")
        typist = world.launch("sh", "-c", "read word; echo $word; exit 6", terminal=True)
        processes = [await world.start(each) for each in (counter, quick, typist)]
        for _ in range(3):
            await asyncio.sleep(0.06)
            os.kill(await world.supervisor_pid(), signal.SIGKILL)
        await asyncio.sleep(0.3)
        assert {each.id for each in await world.runtime.list()} == {counter.id, quick.id, typist.id}
        assert processes[2].pty_fd is not None
        os.write(processes[2].pty_fd, b"word\n")
        assert [await world.code(each.id) for each in (counter, quick, typist)] == [9, 5, 6]
        assert world.output(counter.id).split() == [b"%d" % number for number in range(1, 3001)]
        assert world.output(quick.id) == b"last words\n"
        assert world.output(typist.id) == b"word\r\nword\r\n"
        for process in processes:
            process.close()

    _run(tmp_path, case)


def test_a_flood_does_not_stop_others_and_memory_kills_are_told(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        flood = world.launch("yes", "a line that is as long as lines of logs usually are")
        process = await world.start(flood)
        for _ in range(5):
            quick = world.launch("echo", "here")
            started = await world.start(quick)
            assert await world.code(quick.id) == 0
            assert world.output(quick.id) == b"here\n"
            started.close()
        assert not world.exit_of(flood.id).done(), "it goes on meanwhile"
        await world.runtime.signal(flood.id, signal.SIGKILL)
        assert await world.code(flood.id) == 137
        process.close()
        limit = oci.MemoryLimits(limit=16 << 20, swap=16 << 20)
        eater = world.launch("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", resources=oci.Resources(memory=limit))
        process = await world.start(eater)
        end = (await asyncio.wait_for(world.exit_of(eater.id), 60 * PATIENCE)).exit
        assert (end.code, end.oom) == (137, True)
        process.close()

    _run(tmp_path, case)


def test_fifty_at_once(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        launches = [world.launch("sh", "-c", f"echo {number}; exit {number}") for number in range(50)]
        processes = await asyncio.gather(*(world.start(each) for each in launches))
        codes = [await world.code(each.id) for each in launches]
        assert codes == list(range(50))
        assert [world.output(each.id) for each in launches] == [b"%d\n" % number for number in range(50)]
        for process in processes:
            process.close()

    _run(tmp_path, case)


def test_a_kill_for_memory_is_told_while_the_container_lives(tmp_path: Path) -> None:
    async def case(world: World) -> None:
        limit = oci.MemoryLimits(limit=16 << 20, swap=16 << 20)
        script = "dd if=/dev/zero of=/dev/null bs=64M; sleep 0.3; exit 2"
        launch = world.launch("sh", "-c", script, resources=oci.Resources(memory=limit))
        process = await world.start(launch)
        end = (await asyncio.wait_for(world.exit_of(launch.id), 60 * PATIENCE)).exit
        assert (end.code, end.oom) == (2, True)
        assert world.out_of_memory == [launch.id]
        process.close()

    _run(tmp_path, case)


class _Forgetful:
    """Start programs as on a kernel before 6.15: PIDFD_GET_INFO is unknown to them, by a seccomp filter."""

    def __init__(self) -> None:
        rule = oci.SeccompRule(
            names=("ioctl",),
            action="SCMP_ACT_ERRNO",
            errno_ret=errno.ENOTTY,
            args=(oci.SeccompArg(index=1, value=_GET_INFO, op="SCMP_CMP_EQ"),),
        )
        self._filter = seccomp.compile(oci.Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,)))
        self._start = subprocess.Popen

    def __call__(self, *words: Any, **options: Any) -> subprocess.Popen[bytes]:
        return self._start(*words, **options, preexec_fn=lambda: syscalls.seccomp_set_filter(self._filter))


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this process nor a supervisor that it starts learns anything from a dead process' pidfd."""
    monkeypatch.setattr(subprocess, "Popen", _Forgetful())
    monkeypatch.setattr("cove.kernel.process.exit_info", lambda pidfd: None)


@pytest.mark.usefixtures("forgetful")
def test_a_supervisor_killed_before_it_could_write_an_exit_code_down_has_not_lost_it(tmp_path: Path) -> None:
    """It hangs where it replaces the state's file, by a FIFO that nobody reads in its place."""

    async def case(world: World) -> None:
        launch = world.launch("sh", "-c", "read word; exit 5", stdin=True)
        process = await world.start(launch)
        assert process.stdin_fd is not None
        state = world.run.container(launch.id).state
        while '"running"' not in state.read_text():
            await asyncio.sleep(0.01)
        barrier = Path(f"{state}.new")
        os.mkfifo(barrier)
        pid = await world.supervisor_pid()
        os.write(process.stdin_fd, b"go on\n")
        select.select([process.pidfd], [], [], 30)
        while "wait_for_partner" not in (wait := Path(f"/proc/{pid}/wchan").read_text()) and "fifo" not in wait:
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        barrier.unlink()
        assert await world.code(launch.id) == 5
        process.close()

    _run(tmp_path, case)


@pytest.mark.usefixtures("forgetful")
def test_a_code_that_the_host_s_first_process_reaps_is_heard_of_on_an_older_kernel(tmp_path: Path) -> None:
    """This process stands for it: it ignores SIGCHLD, so that no zombie ever waits."""
    if ProcConnector.open() is None:
        pytest.skip("the kernel's process connector does not answer here (CONFIG_PROC_EVENTS)")

    async def case(world: World) -> None:
        launch = world.launch("sh", "-c", "read word; exit 5", stdin=True)
        process = await world.start(launch)
        assert process.stdin_fd is not None
        os.kill(await world.supervisor_pid(), signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert len(await world.runtime.list()) == 1
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            os.write(process.stdin_fd, b"go on\n")
            assert await world.code(launch.id) == 5
        finally:
            signal.signal(signal.SIGCHLD, before)
        process.close()

    _run(tmp_path, case)


def test_an_end_between_two_supervisors_keeps_its_code_though_another_reaps_it(tmp_path: Path) -> None:
    """As under a restarted daemon, which is no ancestor of the supervisor that its predecessor started."""

    async def case(world: World) -> None:
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        launch = world.launch("sh", "-c", "sleep 0.02; echo end; exit 5")
        supervisor = await world.supervisor_pid()
        process = await world.start(launch)
        os.kill(supervisor, signal.SIGKILL)  # before the end, which it would still report otherwise
        assert await world.code(launch.id) == 5
        assert world.output(launch.id) == b"end\n"
        process.close()

    release = tuple(map(int, os.uname().release.split(".")[:2]))
    if release < (6, 15):
        pytest.skip("needs PIDFD_GET_INFO with exit codes, kernel 6.15")
    _run(tmp_path, case)


def test_requests_wait_for_a_supervisor_that_is_slow_to_take_them(tmp_path: Path) -> None:
    """More of them than its socket holds are neither lost nor refused, however long it takes."""

    async def case(world: World) -> None:
        supervisor = await world.supervisor_pid()
        os.kill(supervisor, signal.SIGSTOP)
        try:
            asked = [asyncio.create_task(world.runtime.signal(f"{number:060d}", 0)) for number in range(2000)]
            await asyncio.sleep(1.5)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60 * PATIENCE)
        assert {type(answer) for answer in answers} == {NotFound}

    _run(tmp_path, case)
