"""Further processes in running containers: made, started, watched, forgotten.

    create ──▶ start ─── output ───▶ Exited (supervisor) ──▶ the rest of the output ──▶ end of stream

The pipes' near ends are the daemon's, so an exec's output ends with the daemon; the process lives on. The
exit code is there before the stream ends: a client asks for it right after. Nothing of this is written down.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from contextlib import suppress

from msgspec import UNSET

from cove import ids
from cove.engine.containers import merge
from cove.engine.containers.exec_streams import Exec, ExecAttachment, FailedAttachment, StartingAttachment
from cove.engine.containers.framing import STDOUT, DetachKeys, parse_keys
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.isolation import security
from cove.engine.isolation.seccomp import installation
from cove.engine.tasks import Tasks
from cove.engine.telling import tell
from cove.errors import Conflict, CoveError, InvalidArgument, NotFound, StartFailed
from cove.oci.spec import ConsoleSize, Process
from cove.runtime.child import users
from cove.runtime.child.common import Failure
from cove.runtime.messages import ExecLaunch, Exit
from cove.wire import execs as wire
from cove.wire.times import duration

_NUMBERS = re.compile(r"\d{1,9}(:\d{1,9})?")
_USER_PATIENCE = 2.0
"""Seconds that a container's files may take to be read before anything of it runs."""
_KEPT = 64
"""Execs that have ended and can still be inspected, of each container."""
_REMEMBERED = 1024
_NOT_RUN = 126
"""The exit code of an exec that could not be run; 127 where its program is not there."""
_MOST_SAID, _LAST_WORDS = 4096, 0.5
"""How much of a health check's output is kept; how long its last words may take once it was killed."""


class Execs:
    """The use cases of execs; also how health checks run."""

    def __init__(self, context: Context, registry: Registry, tasks: Tasks) -> None:
        self._context = context
        self._registry = registry
        self._tasks = tasks
        self._execs: dict[str, Exec] = {}
        self._gone: dict[str, str] = {}  # the container's id by exec id, of those that ended with their container

    async def create(self, ref: str, body: wire.ExecCreateRequest) -> str:
        """Prepare an exec; Conflict when the container does not run."""
        container = self._registry.find(ref)
        self._require_running(container, ref)
        if not body.cmd:
            raise InvalidArgument("No exec command specified")
        parse_keys(body.detach_keys)
        if body.user and not _NUMBERS.fullmatch(body.user):
            with suppress(TimeoutError):
                checked = self._context.executors.bulk(_check_user, container.facts.pid, body.user)
                await asyncio.wait_for(checked, _USER_PATIENCE)
            self._require_running(container, ref)
        made = Exec(ids.new_id(), container, body)
        self._execs[made.id] = made
        container.execs.add(made.id)
        self._forget_old(container)
        tell(self._context.events, container, f"exec_create: {' '.join(body.cmd)}", execID=made.id)
        return made.id

    async def start(self, exec_id: str, body: wire.ExecStartRequest) -> StartingAttachment | None:
        """Run it; None when `body.detach`. A program that is not there is told on the stream, as clients expect."""
        found = self._find(exec_id)
        self._require_running(found.container, found.container.id)
        if found.running or found.exit_code is not None:
            raise Conflict(f"Error: Exec command {exec_id} is already running or has ended")
        if body.detach:
            await self._start(found, body)
            return None
        found.running = True

        async def begin() -> ExecAttachment | FailedAttachment:
            try:
                attachment = await self._start(found, body)
                assert attachment is not None
                return attachment
            except CoveError as error:
                return FailedAttachment(error.message, tty=body.tty)

        return StartingAttachment(begin, tty=body.tty)

    async def _start(self, found: Exec, body: wire.ExecStartRequest) -> ExecAttachment | None:
        try:
            attachment = await self._run(found, body)
        except CoveError as error:
            found.running, found.exit_code = False, 128
            found.container.execs.discard(found.id)
            found.ended.set()
            if not isinstance(error, StartFailed):
                raise
            found.exit_code = max(error.exit_code, _NOT_RUN)
            message = (
                f"OCI runtime exec failed: exec failed: unable to start container process: {error.message}: unknown"
            )
            raise StartFailed(message, stage=error.stage, errno=error.errno, exit_code=found.exit_code) from error
        tell(self._context.events, found.container, f"exec_start: {' '.join(found.asked.cmd)}", execID=found.id)
        return attachment

    async def _run(self, found: Exec, body: wire.ExecStartRequest) -> ExecAttachment | None:
        asked = found.asked
        if asked.working_dir and not asked.working_dir.startswith("/"):
            wrong = f"the working directory '{asked.working_dir}' is invalid, it needs to be an absolute path"
            raise StartFailed(wrong, stage="process", errno=errno.EINVAL, exit_code=_NOT_RUN)
        launch = ExecLaunch(
            id=found.id,
            container=found.container.id,
            process=self._process(found, body.console_size),
            user=asked.user or found.container.record.config.user,
            group_add=found.container.record.host.group_add or (),
            seccomp=installation(found.container.record.host, self._context.host),
        )
        if asked.tty:
            pty = await self._go(found, launch, None)
            assert pty is not None
            os.set_blocking(pty, False)
            stdin = os.dup(pty) if asked.attach_stdin else None
            attachment = ExecAttachment(
                found, {STDOUT: pty}, stdin, DetachKeys(parse_keys(asked.detach_keys)), tty=body.tty
            )
        else:
            near, far = _pipes(asked, detach=body.detach)
            try:
                await self._go(found, launch, far)
            except BaseException:
                for descriptor in near.values():
                    os.close(descriptor)
                raise
            finally:
                for descriptor in set(far):
                    os.close(descriptor)
            stdin = near.pop(0, None)
            attachment = ExecAttachment(found, near, stdin, None, tty=body.tty)
        if body.detach:
            await attachment.close()
            return None
        return attachment

    async def _go(self, found: Exec, launch: ExecLaunch, far: tuple[int, int, int] | None) -> int | None:
        """Let it run; its pty, if it has one, is the caller's: the process may have ended by then."""
        process = await self._context.runtime.exec(launch, far)
        pty, process.pty_fd = process.pty_fd, None
        found.pid, found.process, found.running = process.pid, process, True
        try:
            await process.go()
        except BaseException:
            found.running = False
            process.close()
            if pty is not None:
                os.close(pty)
            raise
        return pty

    def _process(self, found: Exec, size: tuple[int, int] | None) -> Process:
        asked, record = found.asked, found.container.record
        host = record.host
        if asked.privileged:
            host = type(host)(privileged=True)
        values, _ = security.rlimits(host.ulimits, self._context.host)
        options = security.security_options(host, self._context.host)
        base = merge.environment(record.config, record.config.hostname, tty=asked.tty)
        height, width = size or asked.console_size or (0, 0)
        return Process(
            args=asked.cmd,
            env=_with(base, asked.env),
            cwd=asked.working_dir or record.config.working_dir or "/",
            terminal=asked.tty,
            console_size=ConsoleSize(height=height, width=width) if asked.tty and height and width else None,
            capabilities=security.capabilities(host, self._context.host),
            rlimits=values,
            no_new_privileges=options.no_new_privileges,
            apparmor_profile=options.apparmor,
            oom_score_adj=host.oom_score_adj or None,
        )

    # ── while it runs, and after ──────────────────────────────────────────────────────────────────

    def exited(self, exec_id: str, exit_: Exit) -> None:
        """The supervisor's word that it ended."""
        found = self._execs.get(exec_id)
        if found is None or found.ended.is_set():
            return
        self._end(found, exit_.code)

    def _end(self, found: Exec, code: int) -> None:
        found.running, found.exit_code = False, code
        found.container.execs.discard(found.id)
        process, found.process = found.process, None
        if process is not None:
            process.close()
        found.ended.set()
        found.stirred.set()
        tell(self._context.events, found.container, "exec_die", execID=found.id, exitCode=str(code))

    def container_ended(self, container: Container) -> None:
        """With its first process every other one of a container ends."""
        for found in [each for each in self._execs.values() if each.container is container]:
            if found.running:
                self._end(found, 137)
            self._gone[found.id] = container.id
            del self._execs[found.id]
        container.execs.clear()
        while len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    async def inspect(self, exec_id: str) -> wire.ExecInspect:
        """What is known of it."""
        found = self._find(exec_id)
        asked = found.asked
        return wire.ExecInspect(
            id=found.id,
            running=found.running,
            exit_code=found.exit_code,
            process_config=wire.ProcessConfig(
                tty=asked.tty,
                entrypoint=asked.cmd[0],
                arguments=asked.cmd[1:],
                privileged=asked.privileged,
                user=asked.user or UNSET,
            ),
            open_stdin=asked.attach_stdin,
            open_stdout=asked.attach_stdout,
            open_stderr=asked.attach_stderr,
            container_id=found.container.id,
            detach_keys=asked.detach_keys,
            pid=found.pid,
        )

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        """New size of its terminal."""
        if exec_id in self._gone:
            raise Conflict(f"container {self._gone[exec_id]} is not running: its processes ended with it")
        found = self._find(exec_id)
        if not found.running:
            raise Conflict(f"Exec {exec_id} is not running")
        await self._context.runtime.resize(found.container.id, height=height, width=width, exec_id=exec_id)

    async def probe(self, container: Container, cmd: tuple[str, ...], timeout: float) -> tuple[int, str]:
        """Run a health check: (exit code, output); -1 when it took longer than `timeout` seconds."""
        asked = wire.ExecCreateRequest(cmd=cmd, attach_stdout=True, attach_stderr=True)
        exec_id = await self.create(container.id, asked)
        collected = bytearray()
        try:
            attachment = await self.start(exec_id, wire.ExecStartRequest())
            assert attachment is not None
            reading = asyncio.create_task(_read(attachment, collected))
            killing = asyncio.create_task(self._kill_late(container, exec_id, attachment, timeout))
            try:
                await asyncio.wait((reading, killing), return_when=asyncio.FIRST_COMPLETED)
                killed = killing.done()
                if killed:  # its children may live on and hold its output
                    await asyncio.wait((reading,), timeout=_LAST_WORDS)
                if reading.done():
                    reading.result()
            finally:
                for task in (reading, killing):
                    task.cancel()
                await attachment.close()
            if killed:
                said = collected.decode(errors="replace")
                late = f"Health check exceeded timeout ({duration(round(timeout * 1e9))})"
                return -1, f"{late}: {said}" if said else late
            code = self._find(exec_id).exit_code
            return (255 if code is None else code), collected.decode(errors="replace")
        finally:
            self._execs.pop(exec_id, None)
            container.execs.discard(exec_id)

    async def _kill_late(
        self, container: Container, exec_id: str, attachment: StartingAttachment, seconds: float
    ) -> None:
        """The time that a health check may take begins with its program."""
        await attachment.begun()
        await asyncio.sleep(seconds)
        with suppress(CoveError):
            await self._context.runtime.signal(container.id, 9, exec_id=exec_id)

    def _find(self, exec_id: str) -> Exec:
        found = self._execs.get(exec_id)
        if found is None and exec_id in self._gone:
            ended = f"it ended with its container {self._gone[exec_id]}"
            raise NotFound(f"No such exec instance: {exec_id}: {ended}")
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    def _require_running(self, container: Container, called: str) -> None:
        if container.facts.phase == "paused":
            raise Conflict(f"Container {called} is paused, unpause the container before exec")
        if not container.facts.running:
            raise Conflict(f"container {container.id} is not running")

    def _forget_old(self, container: Container) -> None:
        ended = [each for each in self._execs.values() if each.container is container and each.ended.is_set()]
        for old in ended[:-_KEPT]:
            self._execs.pop(old.id, None)


def _check_user(pid: int, user: str) -> None:
    """Raise InvalidArgument for a user whom the container's own files do not know."""
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it has just ended
    try:
        users.resolve(root, user, ())
    except Failure as error:
        raise InvalidArgument(error.message) from None
    finally:
        os.close(root)


def _pipes(asked: wire.ExecCreateRequest, *, detach: bool) -> tuple[dict[int, int], tuple[int, int, int]]:
    """(near ends by stream, far ends for the process); what nobody attached to is /dev/null."""
    near: dict[int, int] = {}
    far: list[int] = []
    wanted = (asked.attach_stdin, asked.attach_stdout, asked.attach_stderr)
    for stream, attached in enumerate(wanted):
        if detach or not attached:
            far.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            continue
        reading, writing = os.pipe2(os.O_CLOEXEC)
        near[stream], other = (writing, reading) if stream == 0 else (reading, writing)
        far.append(other)
        os.set_blocking(near[stream], False)
    return near, (far[0], far[1], far[2])


def _with(base: tuple[str, ...], extra: tuple[str, ...]) -> tuple[str, ...]:
    """The container's variables with the exec's own in their place."""
    variables = dict(entry.split("=", 1) for entry in base)
    for entry in extra:
        name, equals, value = entry.partition("=")
        if equals:
            variables[name] = value
        else:
            variables.pop(name, None)
    return tuple(f"{name}={value}" for name, value in variables.items())


async def _read(attachment: StartingAttachment, into: bytearray) -> None:
    """The output up to its end, as far as it is kept."""
    async for data in attachment.output():
        into += data[8:][: max(0, _MOST_SAID - len(into))]
