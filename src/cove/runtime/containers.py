"""The containers that a supervisor looks after: each is watched from birth to end, and its state written down.

    add ──▶ watched ──▶ gate: its program runs, or its pty came ──▶ pidfd: it ended
                                                                      └─ drained, recorded, reported, released
    take_over ──▶ the same from the files that an earlier supervisor left

What is asked of them is `cove.runtime.supervisor`'s, how their processes are made `cove.runtime.children`'s.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

from cove.errors import Conflict, CoveError, NotFound, describe
from cove.ipc import channel
from cove.kernel import process
from cove.kernel.cgroups import Cgroups, drain_events
from cove.paths import RunRoot
from cove.runtime import children, seat, state
from cove.runtime import messages as m
from cove.runtime.children import Child, Container
from cove.runtime.ends import Ends
from cove.runtime.loop import Loop
from cove.runtime.makers import Makers

_LOOKS = (0.0, 0.02, 0.2)
_SAVE_AGAIN = 1.0


class Containers:
    """All of one run root, by identity."""

    def __init__(
        self, run: RunRoot, cgroups: Cgroups, makers: Makers, loop: Loop, report: Callable[[m.Report], None]
    ) -> None:
        """`report`: whom their ends are told."""
        self._run = run
        self._cgroups = cgroups
        self._makers = makers
        self._loop = loop
        self._report = report
        self._known: dict[str, Container] = {}
        self._awaiting_console: dict[int, Callable[[], None]] = {}
        self._ends = Ends(self._loop)

    def __iter__(self) -> Iterator[Container]:
        return iter(self._known.values())

    def __contains__(self, identity: str) -> bool:
        return identity in self._known

    def find(self, identity: str) -> Container:
        """NotFound when there is none."""
        container = self._known.get(identity)
        if container is None:
            raise NotFound(f"The supervisor knows no container {identity}")
        return container

    def living(self, identity: str) -> Container:
        """Conflict when it has ended."""
        container = self.find(identity)
        if container.child is None:
            raise Conflict(f"Container {identity} is not running")
        return container

    def add(self, container: Container) -> None:
        """Look after a new one."""
        self._known[container.status.id] = container
        self._watch_container(container)

    def take_over(self) -> None:
        """All that an earlier supervisor left."""
        for status in list(state.load_all(self._run)):
            self._take_over(status)
        for identity in list(state.unreadable(self._run)):
            seat.warn(f"the state of container {identity[:12]} cannot be read, so what is left of it is ended")
            self._clear(identity, f"/{self._cgroups.parent}/{identity}")

    def _take_over(self, status: m.Status) -> None:
        if not state.is_born(status):
            self._clear(status.id, status.cgroup)  # its supervisor died while it made it
            return
        if not state.is_live(status):
            self._known[status.id] = children.remember(status)
            return
        self._ends.expect(status.pid)
        container = children.readopt(status, self._run, self._loop)
        self._known[status.id] = container
        if container.child is None:
            end = children.unseen_end(self._run, status.id)
            self._finish(container, end.code, end.reason, end.at)
            return
        if status.phase == "created":
            self._begun(container, status.started_at)
        self._watch_container(container)

    def put_back(self) -> None:
        """Write those states again that somebody removed."""
        for container in self._known.values():
            paths = self._run.container(container.status.id)
            if not paths.state.exists():
                paths.root.mkdir(mode=0o700, exist_ok=True)
                self.save(container, container.status)

    def delete(self, identity: str, cgroup: str) -> None:
        """End it, and remove all of it; `cgroup` is where the processes are of one that is not known."""
        container = self._known.pop(identity, None)
        if container is None:
            self._clear(identity, cgroup)
            return
        if container.child is not None:
            process.send_signal(container.child.pidfd, signal.SIGKILL)
            self._forget_child(container.child)
            if self._is_ours(container.child):
                os.waitid(os.P_PIDFD, container.child.pidfd, os.WEXITED)
            container.child.close()
        if not container.released:
            self._kill_rest(container)
            self._release(container)
        children.remove_run_directory(self._run, identity)

    def _clear(self, identity: str, cgroup: str) -> None:
        """End and remove what may be there of a container of which no more is known."""
        if cgroup:
            self._cgroups.kill(cgroup)
            self._cgroups.remove(cgroup)
        children.remove_run_directory(self._run, identity)

    def _is_ours(self, child: Child) -> bool:
        try:
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    # ── children ──────────────────────────────────────────────────────────────────────────────────

    def when_ready(self, child: Child, answer: Callable[[], None], *, wants_console: bool) -> None:
        """At once, or as soon as the child has sent its pty (or failed)."""
        if wants_console:
            self._awaiting_console[child.pidfd] = answer
        else:
            answer()

    def _watch_container(self, container: Container) -> None:
        if container.child is not None:
            self.watch_child(container.child)
        if container.pump is not None:
            container.pump.start()
        if (events := self._cgroups.open_oom_events(container.status.cgroup)) is not None:
            container.oom_events, container.oom_kills = events, self._cgroups.oom_kills(container.status.cgroup)
            self._loop.watch(events, lambda: self._memory(container, events))

    def _memory(self, container: Container, events: int) -> None:
        """The memory limit is met for good. Version 1 tells so before it kills, so there is a second look."""
        drain_events(events)
        if container.child is not None and self._cgroups.waits_for_memory(container.status.cgroup):
            self._report(m.OutOfMemory(id=container.status.id))
        for moment in _LOOKS:
            self._loop.later(moment, lambda: self._count_kills(container))

    def _count_kills(self, container: Container) -> None:
        """The kernel killed something for the memory limit; the container itself may live on."""
        if container.child and (kills := self._cgroups.oom_kills(container.status.cgroup)) > container.oom_kills:
            container.oom_kills = kills
            self._report(m.OutOfMemory(id=container.status.id))

    def watch_child(self, child: Child) -> None:
        """See that its program runs, and that it ends."""
        self._loop.watch(child.pidfd, lambda: self._ended(child))
        if child.gate is not None:
            self._loop.watch(child.gate.fileno(), lambda: self._gate(child))

    def _gate(self, child: Child) -> None:
        """The pty arrives, or end of file: the program runs (or the child failed and its pidfd says so)."""
        assert child.gate is not None
        try:
            data, fds = channel.message(child.gate, 16, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        container = self._known.get(child.id)
        if fds:
            self._console(child, fds[0], container)
        if data:
            return
        self._loop.unwatch(child.gate.fileno())
        child.gate.close()
        child.gate = None
        child.dismiss()
        self._answer_console(child)
        if container is not None and container.child is child and container.status.phase == "created":
            self._begun(container, time.time())
            self._makers.replenish()

    def _begun(self, container: Container, at: float) -> None:
        """Its program runs."""
        try:
            self._cgroups.begin(container.status.cgroup, container.status.idle)
        except CoveError as error:
            seat.warn(f"container {container.status.id[:12]} is not idle: {error.message}")
        self.save(container, state.started(container.status, at))

    def _console(self, child: Child, fd: int, container: Container | None) -> None:
        if child.exec_id or container is None:
            child.console = fd
        else:
            self.attach_console(container, fd)
        self._answer_console(child)

    def _answer_console(self, child: Child) -> None:
        answer = self._awaiting_console.pop(child.pidfd, None)
        if answer is not None:
            answer()

    def attach_console(self, container: Container, fd: int) -> None:
        """Serve its terminal, whose master `fd` is from now on ours."""
        if container.streams.console is not None or container.pump is None:
            os.close(fd)
            return
        container.pump.attach_console(fd)

    def _ended(self, child: Child) -> None:
        """A process is over: its first process takes the container along."""
        if child.gate is not None:
            self._gate(child)
        code, reason = self._ends.code(child.pid, child.pidfd)
        self._answer_console(child)
        self._forget_child(child)
        container = self._known.get(child.id)
        if container is not None and container.child is child:
            self._finish(container, code, reason)
        else:
            if container is not None:
                container.execs.pop(child.exec_id, None)
                self._report(m.Exited(id=child.id, exec_id=child.exec_id, exit=m.Exit(code=code, at=time.time())))
            self._ends.done(child.pid, child.pidfd)
        child.close()

    def _forget_child(self, child: Child) -> None:
        self._awaiting_console.pop(child.pidfd, None)
        self._loop.unwatch(child.pidfd)
        if child.gate is not None:
            self._loop.unwatch(child.gate.fileno())

    def _finish(self, container: Container, code: int, reason: str, at: float = 0.0) -> None:
        """Everything it wrote is in the log before anybody hears of its end."""
        self._kill_rest(container)
        if container.pump is not None:
            container.pump.drain()
        kills = self._cgroups.oom_kills(container.status.cgroup)
        if kills > container.oom_kills:
            self._report(m.OutOfMemory(id=container.status.id))
        child, container.child = container.child, None
        peak = self._cgroups.memory_peak(container.status.cgroup)
        end = m.Exit(code=code, at=at or time.time(), oom=kills > 0, memory_peak=peak, reason=reason)
        self.save(container, state.exited(container.status, end))
        if child is not None:
            self._ends.done(child.pid, child.pidfd)
        self._report(m.Exited(id=container.status.id, exit=end))  # whoever answers with a request waits for the rest
        self._release(container)

    def _release(self, container: Container) -> None:
        """Let go of descriptors, log and control group."""
        if container.pump is not None:
            container.pump.stop()
            container.pump = None
        container.streams.close()
        if container.oom_events is not None:
            self._loop.unwatch(container.oom_events)
            os.close(container.oom_events)
            container.oom_events = None
        self._cgroups.remove(container.status.cgroup)
        container.released = True

    def _kill_rest(self, container: Container) -> None:
        """What outlived the first process: further processes, or all of it when the pid namespace is another's."""
        for child in container.execs.values():
            process.send_signal(child.pidfd, signal.SIGKILL)
        self._cgroups.kill(container.status.cgroup)

    def save(self, container: Container, status: m.Status) -> None:
        """A file that cannot be written (a full /run, a directory that somebody removed) is tried again later."""
        container.status = status
        try:
            state.save(self._run.container(status.id).state, status)
        except OSError as error:
            seat.warn(f"the state of container {status.id[:12]} is not written yet: {describe(error)}")
            self._loop.later(_SAVE_AGAIN, lambda: self._save_again(container, status))

    def _save_again(self, container: Container, status: m.Status) -> None:
        known = self._known.get(status.id) is container
        if known and container.status is status and self._run.container(status.id).root.is_dir():
            self.save(container, status)
