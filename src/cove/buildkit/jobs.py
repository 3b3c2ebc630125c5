"""All jobs, by the reference that their clients gave them: those that run, and for a while those that ended.

Calls of one build come on their own, in any order: who asks for a job that is not there yet waits a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cove import ids
from cove.buildkit.job import Job, Outcome
from cove.buildkit.sessions import Sessions
from cove.engine.build.service import BuildService
from cove.errors import Conflict, NotFound
from cove.grpc.status import Code, RpcError

_PATIENCE = 5.0
_REMEMBERED = 32


class Jobs:
    """The jobs of one daemon."""

    def __init__(self, service: BuildService, sessions: Sessions) -> None:
        self.service = service
        self._sessions = sessions
        self._running: dict[str, Job] = {}
        self._ended: OrderedDict[str, Job] = OrderedDict()
        self._news = asyncio.Event()
        self._listeners: set[asyncio.Queue[tuple[Job, bool]]] = set()

    @asynccontextmanager
    async def running(self, ref: str, session: str) -> AsyncIterator[Job]:
        """A new job for the time of a `with`."""
        ref = ref or ids.new_id()[:25]
        if ref in self._running:
            raise Conflict(f"job ID {ref} exists")
        job = self._running[ref] = Job(self.service, self._sessions, ref, session, self.outcome)
        self._news.set()
        self._news = asyncio.Event()
        self._tell(job)
        try:
            yield job
        except RpcError as error:
            job.error = error
            raise
        except Exception as error:
            job.error = RpcError(Code.INTERNAL, str(error))
            raise
        except asyncio.CancelledError:
            job.error = RpcError(Code.CANCELLED, "the build was cancelled")
            raise
        finally:
            job.ended_ns = time.time_ns()
            del self._running[ref]
            self._ended[ref] = job
            while len(self._ended) > _REMEMBERED:
                loose = (name for name, each in self._ended.items() if not each.pinned)
                self.forget(next(loose, next(iter(self._ended))))
            self._tell(job)
            await job.close()

    def all(self) -> list[Job]:
        """Those that run, and those that ended and are remembered."""
        return [*self._running.values(), *self._ended.values()]

    def forget(self, ref: str) -> None:
        """Remember a build no longer that ended. Raises NotFound."""
        job = self._ended.pop(ref, None)
        if job is None:
            raise NotFound(f"no build {ref} that ended is remembered")
        self._tell(job, forgotten=True)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[tuple[Job, bool]]]:
        """News of jobs, for the time of a `with`: those that began or ended, and those that are forgotten."""
        queue: asyncio.Queue[tuple[Job, bool]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def _tell(self, job: Job, *, forgotten: bool = False) -> None:
        for queue in self._listeners:
            queue.put_nowait((job, forgotten))

    async def get(self, ref: str) -> Job:
        """A job that runs or has just ended, as soon as there is one. Raises NotFound."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while ref not in self._running and ref not in self._ended:
                    await self._news.wait()
        except TimeoutError:
            raise NotFound(f"no such job {ref}") from None
        return self._running.get(ref) or self._ended[ref]

    def outcome(self, identity: str, *, made: bool = False) -> tuple[Job, Outcome]:
        """A result of any job that still runs; with `made` also one that was made and is remembered. NotFound."""
        for job in self.all() if made else self._running.values():
            outcome = job.outcomes.get(identity)
            if outcome is not None and (not job.ended_ns or outcome.is_made):
                return job, outcome
        raise NotFound(f"the result {identity} of another build is not there any more")
