"""Stubs and outfitters: what a stub does and refuses, and that no start depends on a single outfitter."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cove.ipc import channel
from cove.kernel import mounts, operations
from cove.kernel.operations import Operation, Program
from cove.paths import RunRoot
from cove.runtime import state
from cove.runtime.forker import Forker, Newborn, of_stubs
from cove.runtime.makers import PROGRAM
from tests.conftest import BIN, PATIENCE, Daemon, below, eventually, has_ended
from tests.integration.faults_world import leftovers, pids

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not PROGRAM.exists(), reason="Cove was installed without a C compiler: there are no stubs"),
]


@pytest.fixture
def forker() -> Iterator[Forker]:
    opened = mounts.readonly_file(str(PROGRAM))
    program = os.dup(opened)
    made = Forker(of_stubs(program))
    made.start()
    yield made
    made.close()
    os.close(program)
    os.close(opened)


def _tell(stub: Newborn, *wanted: Operation, back: int = -1, given: tuple[int, ...] = ()) -> None:
    program = Program()
    for fd in given:
        program.give(fd)
    for operation in wanted:
        program.add(operation)
    channel.send(stub.gate, 0, program.encode(back), program.fds)


def _code(stub: Newborn) -> int:
    result = os.waitid(os.P_PIDFD, stub.pidfd, os.WEXITED)
    assert result is not None
    os.close(stub.pidfd)
    stub.gate.close()
    return result.si_status


def test_a_stub_does_what_it_is_told_and_gives_back_what_it_opened(forker: Forker) -> None:
    stub = forker.fork(0, ordinary=False)
    reader, writer = os.pipe()
    _tell(stub, operations.write(writer, b"told"), operations.open_filesystem("proc"))
    packet = channel.receive(stub.gate)
    assert packet is not None and (packet.number, struct.unpack("=i", packet.body)[0]) == (2, 0)
    assert os.read(reader, 9) == b"told"
    (context,) = packet.fds
    assert os.readlink(f"/proc/self/fd/{context}") == "anon_inode:[fscontext]"
    _tell(stub, operations.leave(7))
    assert _code(stub) == 7
    for fd in (reader, writer, context):
        os.close(fd)


def test_what_fails_is_told_with_a_descriptor_and_ends_nothing_but_its_program(forker: Forker) -> None:
    stub = forker.fork(0, ordinary=False)
    reader, writer = os.pipe()
    unborn = operations.execve("/no such program", ("x",), {})
    _tell(stub, operations.umask(0o77), unborn, operations.leave(9), back=0, given=(writer,))
    packet = channel.receive(stub.gate)
    assert packet is not None and (packet.number, struct.unpack("=i", packet.body)[0]) == (1, 2)
    os.write(packet.fds[0], b"the same pipe")
    assert os.read(reader, 99) == b"the same pipe"
    _tell(stub, operations.leave(8))
    assert _code(stub) == 8
    for fd in (reader, writer, *packet.fds):
        os.close(fd)


def test_a_program_larger_than_a_packet_is_executed(forker: Forker) -> None:
    stub = forker.fork(0, ordinary=False)
    many = {f"NAME{number}": "x" * 1000 for number in range(500)}
    count = "exit $(($(env | grep -c ^NAME) % 256))"
    _tell(stub, operations.execve(os.path.realpath("/usr/bin/env"), ("env", "sh", "-c", count), many))
    assert _code(stub) == 500 % 256


def test_end_of_file_ends_a_stub(forker: Forker) -> None:
    stub = forker.fork(0, ordinary=False)
    stub.gate.shutdown(socket.SHUT_RDWR)
    assert _code(stub) == 125


def test_programs_that_make_no_sense_do_nothing(forker: Forker) -> None:
    """Their sizes, places and kinds are checked, so that what is garbled ends a stub and never its maker."""
    program = Program()
    program.add(operations.execve("/bin/true", ("true",), {"A": "b"}))
    program.add(operations.write(0, b"x"))
    whole = program.encode()
    chance = random.Random(20)
    for _ in range(60):
        stub = forker.fork(0, ordinary=False)
        garbled = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        if len(garbled) == len(whole):
            garbled[chance.randrange(16)] ^= 1 << chance.randrange(8)  # the counts at its head
        channel.send(stub.gate, 0, bytes(garbled))
        stub.gate.shutdown(socket.SHUT_WR)
        assert _code(stub) in (125, 0)
    assert _code_of_another(forker) == 3


def _code_of_another(forker: Forker) -> int:
    stub = forker.fork(0, ordinary=False)
    _tell(stub, operations.leave(3))
    return _code(stub)


# ── outfitters ────────────────────────────────────────────────────────────────────────────────────


def _echo(daemon: Daemon, *words: str) -> subprocess.Popen[str]:
    command = [BIN / "cove", "run", "--rm", *words, "busybox", "echo", "there"]
    environment = os.environ | {"COVE_HOST": daemon.host}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_outfitter_that_hangs_holds_up_its_own_start_alone(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "--rm", "busybox", "true")
    (stopped,) = pids(own_daemon, "outfitter")
    os.kill(stopped, signal.SIGSTOP)
    held = _echo(own_daemon)
    try:
        assert eventually(lambda: len(pids(own_daemon, "outfitter")) == 1)
        for _ in range(3):
            first = _echo(own_daemon)
            if first.communicate(timeout=20 * PATIENCE)[0] == "there\n":
                break
        assert held.poll() is None, "it waits for the one that was stopped"
        assert len(pids(own_daemon, "outfitter")) == 2
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert held.communicate(timeout=20 * PATIENCE)[0] == "there\n"
    assert eventually(lambda: len(pids(own_daemon, "outfitter")) == 1), "the second one goes when it has rested"


def test_one_that_hangs_is_ended_with_the_container_that_it_works_for(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "--rm", "busybox", "true")
    (stopped,) = pids(own_daemon, "outfitter")
    os.kill(stopped, signal.SIGSTOP)
    held = _echo(own_daemon, "--name", "held")
    try:
        assert eventually(lambda: "held" in own_daemon.cove("ps", "-a", "--format", "{{.Names}}").stdout)
        identity = own_daemon.cove("inspect", "-f", "{{.Id}}", "held").stdout.strip()
        assert eventually(lambda: identity in {path.name for path in below(Path("/sys/fs/cgroup"))}), "it is started"
        # The supervisor does one after the other: after this one, the order is given.
        own_daemon.cove("run", "--rm", "busybox", "true")
        for pid in pids(own_daemon, "spares"):  # the one that was taken is among them
            os.kill(pid, signal.SIGKILL)
        held.wait(60 * PATIENCE)
        assert eventually(lambda: stopped not in pids(own_daemon, "outfitter"))
        assert own_daemon.cove("run", "--rm", "busybox", "echo", "there").stdout == "there\n"
    finally:
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)  # where it was not ended, it ends its work now


def _held_up(daemon: Daemon, name: str) -> tuple[int, subprocess.Popen[str]]:
    """An outfitter that was stopped, and a start that it works at for good."""
    daemon.cove("run", "--rm", "busybox", "true")
    (stopped,) = pids(daemon, "outfitter")
    os.kill(stopped, signal.SIGSTOP)
    held = _echo(daemon, "--name", name)
    assert eventually(lambda: _is_born(daemon, name)), "its process waits for the outfitter"
    return stopped, held


def _is_born(daemon: Daemon, name: str) -> bool:
    found = daemon.cove("ps", "-a", "--no-trunc", "--filter", f"name=^{name}$", "--format", "{{.ID}}").stdout.strip()
    status = state.load(RunRoot(daemon.run).container(found).state) if found else None
    return status is not None and state.is_born(status)


def test_a_start_whose_outfitter_is_killed_is_tried_with_another(own_daemon: Daemon) -> None:
    killed, held = _held_up(own_daemon, "held")
    os.kill(killed, signal.SIGKILL)
    assert held.communicate(timeout=20 * PATIENCE)[0] == "there\n"
    assert held.returncode == 0
    assert eventually(lambda: not leftovers(own_daemon))


def test_a_start_that_loses_two_outfitters_says_so(own_daemon: Daemon) -> None:
    first, held = _held_up(own_daemon, "held")
    assert _echo(own_daemon).communicate(timeout=20 * PATIENCE)[0] == "there\n"
    (second,) = set(pids(own_daemon, "outfitter")) - {first}
    os.kill(second, signal.SIGSTOP)
    before = _born(own_daemon)
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: _is_born(own_daemon, "held") and not before & _born(own_daemon)), "tried once more"
    os.kill(second, signal.SIGKILL)
    _, words = held.communicate(timeout=20 * PATIENCE)
    assert held.returncode == 125
    assert "was killed before its program ran; try again" in words
    assert eventually(lambda: not leftovers(own_daemon))


def _born(daemon: Daemon) -> set[int]:
    return {each.pid for each in state.load_all(RunRoot(daemon.run))}


def test_an_exec_whose_outfitter_is_killed_says_so(own_daemon: Daemon) -> None:
    own_daemon.cove("run", "-d", "--name", "box", "busybox", "sleep", "600")
    (stopped,) = pids(own_daemon, "outfitter")
    os.kill(stopped, signal.SIGSTOP)
    spares = set(pids(own_daemon, "spares"))
    environment = os.environ | {"COVE_HOST": own_daemon.host}
    command = [BIN / "cove", "exec", "box", "echo", "there"]
    held = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert eventually(lambda: set(pids(own_daemon, "spares")) - spares), "its process waits for the outfitter"
    os.kill(stopped, signal.SIGKILL)
    assert "was killed before its program ran; try again" in held.communicate(timeout=20 * PATIENCE)[1]
    assert held.returncode not in (0, None)
    assert own_daemon.cove("exec", "box", "echo", "there").stdout == "there\n"


def test_a_removal_by_force_ends_a_start_that_hangs(own_daemon: Daemon) -> None:
    stopped, held = _held_up(own_daemon, "held")
    own_daemon.cove("rm", "-f", "held")
    _, words = held.communicate(timeout=20 * PATIENCE)
    assert held.returncode == 125
    assert "held is removed while it starts" in words
    assert own_daemon.cove("ps", "-aq").stdout == ""
    assert eventually(lambda: stopped not in pids(own_daemon, "outfitter"))
    assert own_daemon.cove("run", "--rm", "--name", "held", "busybox", "echo", "there").stdout == "there\n"
    assert eventually(lambda: not leftovers(own_daemon))


@pytest.mark.parametrize("victim", ["outfitter", "stubs", "spares"])
def test_another_comes_after_one_that_was_killed(own_daemon: Daemon, victim: str) -> None:
    own_daemon.cove("run", "-d", "--name", "box", "busybox", "sleep", "600")
    assert eventually(lambda: bool(pids(own_daemon, victim)))
    killed = pids(own_daemon, victim)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: all(map(has_ended, killed)))
    assert own_daemon.cove("run", "--rm", "busybox", "echo", "there").stdout == "there\n"
    assert own_daemon.cove("exec", "box", "echo", "there").stdout == "there\n"


def test_nothing_stays_with_an_outfitter(own_daemon: Daemon) -> None:
    """Neither descriptors nor namespaces, of starts that went well or not."""
    own_daemon.cove("run", "-d", "--name", "box", "busybox", "sleep", "600")
    own_daemon.cove("exec", "box", "true")
    before = _held(own_daemon)
    for _ in range(3):
        own_daemon.cove("run", "--rm", "busybox", "true")
        own_daemon.cove("exec", "box", "true")
        for words in (["nosuchprogram"], ["sh", "-c", "exit 3"], ["/etc"]):
            subprocess.run(
                [BIN / "cove", "run", "--rm", "busybox", *words],
                env=os.environ | {"COVE_HOST": own_daemon.host},
                capture_output=True,
            )
    assert eventually(lambda: _held(own_daemon) == before)


def test_an_init_passes_signals_on_and_buries_orphans(own_daemon: Daemon) -> None:
    script = "trap 'exit 9' TERM; (sleep 0.1 &); while :; do sleep 0.05; done"
    own_daemon.cove("run", "-d", "--init", "--name", "box", "busybox", "sh", "-c", script)
    caught = "until grep -q 'SigCgt:.*[4-7c-f]...$' /proc/2/status; do usleep 10000; done"
    own_daemon.cove("exec", "box", "sh", "-c", caught)
    assert own_daemon.cove("exec", "box", "cat", "/proc/1/cmdline").stdout.startswith("/sbin/cove-init\0")
    assert own_daemon.cove("exec", "box", "sh", "-c", "cat /proc/2/comm").stdout == "sh\n"
    states = "cat /proc/[0-9]*/stat | cut -d' ' -f3"
    assert eventually(lambda: "Z" not in own_daemon.cove("exec", "box", "sh", "-c", states).stdout)
    own_daemon.cove("stop", "box")
    assert own_daemon.cove("inspect", "-f", "{{.State.ExitCode}}", "box").stdout == "9\n"


_SPACES = ("mnt", "net", "ipc", "uts", "cgroup", "pid_for_children")


def _held(daemon: Daemon) -> dict[int, tuple[int, list[str]]]:
    found = {}
    for pid in pids(daemon, "outfitter"):
        at = Path(f"/proc/{pid}")
        with suppress(FileNotFoundError, ProcessLookupError):
            spaces = [os.readlink(at / "ns" / each) for each in _SPACES]
            found[pid] = (len(list((at / "fd").iterdir())), spaces)
    return found


class _WithoutStubs:
    """Begin supervisors as if Cove had been installed without a compiler."""

    def __init__(self) -> None:
        self._start = subprocess.Popen

    def __call__(self, words: list[Any], **options: Any) -> subprocess.Popen[bytes]:
        script = (
            "import pathlib; from cove.runtime import supervisor, makers; "
            "makers.PROGRAM = pathlib.Path('/nonexistent'); supervisor.main()"
        )
        at = words.index("-m")
        return self._start([*words[:at], "-c", script, *words[at + 2 :]], **options)


def test_without_the_program_children_do_it_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from cove.runtime.messages import ExecLaunch
    from tests.integration.test_supervisor import World, _run

    monkeypatch.setattr(subprocess, "Popen", _WithoutStubs())

    async def case(world: World) -> None:
        launch = world.launch("sh", "-c", "cat; exit 4", stdin=True)
        process = await world.start(launch)
        further = ExecLaunch(id="further", container=launch.id, process=world.process("sh", "-c", "exit 5"))
        null = os.open(os.devnull, os.O_RDWR)
        executed = await world.runtime.exec(further, (null, null, null))
        await executed.go()
        assert await world.code("further") == 5
        assert process.stdin_fd is not None
        os.write(process.stdin_fd, b"by itself\n")
        os.close(process.stdin_fd)
        process.stdin_fd = None
        await world.runtime.close_stdin(launch.id)
        assert await world.code(launch.id) == 4
        assert world.output(launch.id) == b"by itself\n"
        executed.close()
        process.close()
        os.close(null)

    _run(tmp_path, case)
    assert "installed without its program for stubs" in capfd.readouterr().err
