"""The containers there are, by identity and by name: the authoritative copy in memory.

Every change goes to the database first, in one small transaction, then here; a reader never waits.
A container's lock orders the transitions of that container; this module takes none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from cove.engine.containers.records import Facts, Record
from cove.errors import Conflict, Internal, InvalidArgument, NotFound
from cove.store.database import Database
from cove.store.documents import Documents
from cove.wire.containers import ContainerSummary, Health, WaitResponse

_log = logging.getLogger("cove.engine")

if TYPE_CHECKING:
    from cove.runtime.newborn import Process


class Container:
    """A container as the daemon knows it now.

    `record` and `facts` are frozen values that the registry replaces. `process` is there while processes
    are. `ended` fires at every exit that no restart follows, `gone` at removal.
    `stopping`: a user asked for its end; `restarting`: and for its start after that.
    `starting`: who starts it now, until its program runs; `attempts`: how often that was tried.
    `began`: since when (monotonic) its run goes on, unless an earlier daemon began it.
    `started` is set while the first process runs; whoever waits for stdin waits for it.
    """

    __slots__ = (
        "attempts",
        "began",
        "ended",
        "execs",
        "facts",
        "gone",
        "health",
        "lock",
        "process",
        "record",
        "removing",
        "restarting",
        "started",
        "starting",
        "stopping",
        "summary",
    )

    def __init__(self, record: Record, facts: Facts) -> None:
        self.record = record
        self.facts = facts
        self.lock = asyncio.Lock()
        self.attempts = 0
        self.starting: asyncio.Task[Any] | None = None
        self.began: float | None = None
        self.process: Process | None = None
        self.started = asyncio.Event()
        self.ended: list[asyncio.Future[WaitResponse]] = []
        self.gone: list[asyncio.Future[WaitResponse]] = []
        self.execs: set[str] = set()
        self.health: Health | None = None
        self.removing = False
        self.stopping = False
        self.restarting = False
        self.summary: ContainerSummary | None = None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> str:
        """Docker's word for the state."""
        return "removing" if self.removing else self.facts.phase


class Registry:
    """All containers of this daemon."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records = Documents(database, "containers", Record, named=True)
        self._facts = Documents(database, "facts", Facts)
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}
        self.set_aside: dict[str, Facts] = {}
        """What is known of containers whose records cannot be read: they may run, and hold what they hold."""

    def load(self) -> tuple[str, ...]:
        """Read everything; returns the identities whose rows are damaged."""
        facts = self._facts.load()
        for identity, record in self._records.load().items():
            self._by_id[identity] = Container(record, facts.pop(identity, Facts()))
            self._by_name[record.name] = identity
        damaged = self._records.damaged
        self.set_aside = {identity: each for identity, each in facts.items() if identity in damaged}
        for orphan in facts.keys() - damaged.keys():
            self._facts.delete(orphan)
        return tuple(damaged)

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, identity: str) -> Container | None:
        """The container with this full identity."""
        return self._by_id.get(identity)

    def find(self, ref: str) -> Container:
        """By identity, name, or a beginning of an identity that only one has; raises NotFound."""
        name = ref.removeprefix("/")
        found = self._by_id.get(ref) or self._by_id.get(self._by_name.get(name, ""))
        if found is not None:
            return found
        matches = [identity for identity in self._by_id if name and identity.startswith(name)]
        if len(matches) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        if not matches:
            raise NotFound(f"No such container: {ref}")
        return self._by_id[matches[0]]

    # ── names ─────────────────────────────────────────────────────────────────────────────────────

    def name_taken(self, name: str) -> bool:
        return name in self._by_name

    @contextmanager
    def claim(self, name: str, identity: str) -> Iterator[None]:
        """Hold a name while the container that shall bear it is made; raises Conflict."""
        owner = self._by_name.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._by_name[name] = identity
        try:
            yield
        except BaseException:
            del self._by_name[name]
            raise

    # ── changes ───────────────────────────────────────────────────────────────────────────────────

    def add(self, record: Record) -> Container:
        """A new container, in one transaction."""
        facts = Facts()
        with self._database.transaction():
            self._records.put(record.id, record, name=record.name)
            self._facts.put(record.id, facts)
        container = self._by_id[record.id] = Container(record, facts)
        self._by_name[record.name] = record.id
        return container

    def rewrite(self, container: Container, **changes: Any) -> None:
        """Replace parts of what the user asked for."""
        record = msgspec.structs.replace(container.record, **changes)
        self._records.put(record.id, record, name=record.name)
        if record.name != container.name:
            self._by_name.pop(container.name, None)
            self._by_name[record.name] = record.id
        container.record = record
        container.summary = None

    def note(self, container: Container, **changes: Any) -> None:
        """Write down facts that were seen. On a full disk they hold in memory: what has happened is never undone."""
        container.facts = msgspec.structs.replace(container.facts, **changes)
        container.summary = None
        if not container.removing or container.id in self._by_id:
            try:
                self._facts.put(container.id, container.facts)
            except Internal as error:
                _log.error("what happened to container %s is not on the disk yet: %s", container.name, error.message)

    def drop(self, container: Container) -> None:
        """Forget a container and free its name."""
        with self._database.transaction():
            self._records.delete(container.id)
            self._facts.delete(container.id)
        self._by_id.pop(container.id, None)
        self._by_name.pop(container.name, None)
