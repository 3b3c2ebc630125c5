"""All jobs, by the reference that their clients gave them: those that run, and the records of those that ended.

    running ─▶ Job ─▶ ended: a record in the database; the job itself, with its results, for a while

Calls of one build come on their own, in any order: who asks for a job that is not there yet waits a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cove import ids
from cove.buildkit.job import Job, Outcome
from cove.buildkit.messages.control import BuildHistoryRecord, StatusResponse
from cove.buildkit.records import Record, Records, packed
from cove.buildkit.sessions import Sessions
from cove.engine.build.service import BuildService
from cove.errors import Conflict, CoveError, NotFound
from cove.grpc.status import Code, RpcError

_log = logging.getLogger(__name__)
_PATIENCE = 5.0
_HELD = 32
"""How many jobs that ended are held with their results, which clients may still look into."""


class Jobs:
    """The jobs of one daemon."""

    def __init__(self, service: BuildService, sessions: Sessions) -> None:
        self.service = service
        self._sessions = sessions
        self.records = Records(service.context.database)
        self._running: dict[str, Job] = {}
        self._ended: OrderedDict[str, Job] = OrderedDict()
        self._news = asyncio.Event()
        self._listeners: set[asyncio.Queue[tuple[Record, bool]]] = set()

    @asynccontextmanager
    async def running(self, ref: str, session: str) -> AsyncIterator[Job]:
        """A new job for the time of a `with`."""
        ref = ref or ids.new_id()[:25]
        if ref in self._running:
            raise Conflict(f"job ID {ref} exists")
        job = self._running[ref] = Job(self.service, self._sessions, ref, session, self.outcome)
        self._news.set()
        self._news = asyncio.Event()
        self._tell(job.record())
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
            while len(self._ended) > _HELD:
                self._ended.popitem(last=False)
            try:
                await job.close()
            finally:
                await self._remember(job)

    async def _remember(self, job: Job) -> None:
        """The record of a job that ended. That it cannot be written down does not fail the build."""
        record = job.record()
        try:
            progress = await self.service.context.executors.disk(packed, job.trace.kept)
            forgotten = self.records.put(record, progress)
        except CoveError as error:
            _log.warning("the build %s will not be remembered: %s", job.ref, error.message)
            forgotten = []
        self._tell(record)
        for ref in forgotten:
            self._tell(Record(BuildHistoryRecord(ref=ref), 0), forgotten=True)

    def all(self) -> list[Record]:
        """Those that run, and those that ended and are remembered; the newest first."""
        found = {each.ref: each for each in self.records.all()} | {
            ref: job.record() for ref, job in self._running.items()
        }
        return sorted(found.values(), key=lambda each: each.began_ns, reverse=True)

    def forget(self, ref: str) -> None:
        """Remember a build no longer that ended. Raises NotFound."""
        self.records.forget(ref)
        self._ended.pop(ref, None)
        self._tell(Record(BuildHistoryRecord(ref=ref), 0), forgotten=True)

    async def progress(self, ref: str) -> AsyncIterator[StatusResponse]:
        """What is told of a build from its beginning to its end, as soon as there is one. Raises NotFound."""
        if ref not in self._running and (past := self.records.progress(ref)) is not None:
            for news in past:
                yield news
            return
        job = await self.get(ref)
        async for news in job.trace.follow():
            yield news

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[tuple[Record, bool]]]:
        """News of jobs, for the time of a `with`: those that began or ended, and those that are forgotten."""
        queue: asyncio.Queue[tuple[Record, bool]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def _tell(self, record: Record, *, forgotten: bool = False) -> None:
        for queue in self._listeners:
            queue.put_nowait((record, forgotten))

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
        for job in [*self._running.values(), *(self._ended.values() if made else ())]:
            outcome = job.outcomes.get(identity)
            if outcome is not None and (not job.ended_ns or outcome.is_made):
                return job, outcome
        raise NotFound(f"the result {identity} of another build is not there any more")
