"""All jobs, by the reference that their clients gave them: those that run, and for a while those that ended.

Calls of one build come on their own, in any order: who asks for a job that is not there yet waits a moment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cove import ids
from cove.buildkit.job import Job, Outcome
from cove.buildkit.sessions import Sessions
from cove.engine.build.service import BuildService
from cove.errors import Conflict, NotFound

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

    @asynccontextmanager
    async def running(self, ref: str, session: str) -> AsyncIterator[Job]:
        """A new job for the time of a `with`."""
        ref = ref or ids.new_id()[:25]
        if ref in self._running:
            raise Conflict(f"job ID {ref} exists")
        job = self._running[ref] = Job(self.service, self._sessions, ref, session, self.outcome)
        self._news.set()
        self._news = asyncio.Event()
        try:
            yield job
        finally:
            del self._running[ref]
            self._ended[ref] = job
            while len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)
            await job.close()

    async def get(self, ref: str) -> Job:
        """A job that runs or has just ended, as soon as there is one. Raises NotFound."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while ref not in self._running and ref not in self._ended:
                    await self._news.wait()
        except TimeoutError:
            raise NotFound(f"no such job {ref}") from None
        return self._running.get(ref) or self._ended[ref]

    def outcome(self, identity: str) -> tuple[Job, Outcome]:
        """A result of any job that still runs. Raises NotFound."""
        for job in self._running.values():
            if identity in job.outcomes:
                return job, job.outcomes[identity]
        raise NotFound(f"the result {identity} of another build is not there any more")
