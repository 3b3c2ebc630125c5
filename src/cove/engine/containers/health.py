"""Health checks: one task for each running container that has one.

start ──▶ starting ──success──▶ healthy ⇄ unhealthy      `retries` failures in a row outside of the
                                                         start period make it unhealthy
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from cove.engine.containers.execs import Execs
from cove.engine.containers.registry import Container
from cove.engine.context import Context
from cove.engine.tasks import Tasks
from cove.engine.telling import tell
from cove.errors import CoveError, InvalidArgument
from cove.wire.containers import Health, HealthConfig, HealthResult
from cove.wire.times import stamp

_INTERVAL = _TIMEOUT = 30.0
_START_INTERVAL = 5.0
_RETRIES = 3
_LOG = 5
_SHORTEST = 1_000_000


def check_config(config: HealthConfig | None) -> None:
    """Refuse what makes no sense; raises InvalidArgument."""
    if config is None:
        return
    if config.test and config.test[0] in ("CMD", "CMD-SHELL") and len(config.test) < 2:
        raise InvalidArgument(f"HEALTHCHECK {config.test[0]} needs a command")
    for name in ("interval", "timeout", "start_period", "start_interval"):
        value = getattr(config, name)
        if value and value < _SHORTEST:
            called = name.title().replace("_", "")
            raise InvalidArgument(f"{called} in Healthcheck cannot be less than 1ms")
    if config.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def command(config: HealthConfig | None, shell: tuple[str, ...] | None) -> tuple[str, ...]:
    """What to run, nothing when there is no check. Words without a type are a command, as after CMD."""
    if config is None or not config.test or config.test[0] == "NONE":
        return ()
    if config.test[0] == "CMD-SHELL":
        return (*(shell or ("/bin/sh", "-c")), config.test[1])
    return config.test[1:] if config.test[0] == "CMD" else config.test


def judged(health: Health, result: HealthResult, *, retries: int, starting: bool) -> Health:
    """The health after one more result. Pure."""
    log = (*health.log, result)[-_LOG:]
    if result.exit_code == 0:
        return Health(status="healthy", failing_streak=0, log=log)
    if starting and health.status == "starting":
        return Health(status="starting", failing_streak=0, log=log)
    streak = health.failing_streak + 1
    return Health(status="unhealthy" if streak >= retries else health.status, failing_streak=streak, log=log)


class HealthChecks:
    """Begins and ends with the containers' runs."""

    def __init__(self, context: Context, execs: Execs, tasks: Tasks) -> None:
        self._context = context
        self._execs = execs
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}

    def begin(self, container: Container) -> None:
        """Watch a container that was started."""
        config = container.record.config.healthcheck
        words = command(config, container.record.config.shell)
        if not words or config is None:
            container.health = None
            return
        container.health = Health(status="starting")
        container.summary = None
        self._running[container.id] = self._tasks.begin(
            self._watch(container, config, words), f"health of {container.name}"
        )

    def end(self, container: Container) -> None:
        """Stop watching it; what was seen last stays."""
        task = self._running.pop(container.id, None)
        if task is not None:
            task.cancel()
        if container.health is not None:
            container.health = msgspec.structs.replace(container.health, status="unhealthy")

    async def _watch(self, container: Container, config: HealthConfig, words: tuple[str, ...]) -> None:
        begun = time.monotonic()
        period = config.start_period / 1e9
        while True:
            starting = time.monotonic() - begun < period
            still = container.health is not None and container.health.status == "starting"
            usual = config.interval / 1e9 or _INTERVAL
            quick = min(usual, config.start_interval / 1e9 or _START_INTERVAL)
            await asyncio.sleep(quick if starting and still else usual)
            if container.facts.phase != "running" or container.health is None:
                continue
            result = await self._probe(container, words, config.timeout / 1e9 or _TIMEOUT)
            before = container.health
            starting = time.monotonic() - begun < period
            container.health = judged(before, result, retries=config.retries or _RETRIES, starting=starting)
            container.summary = None
            if container.health.status != before.status:
                tell(self._context.events, container, f"health_status: {container.health.status}")

    async def _probe(self, container: Container, words: tuple[str, ...], timeout: float) -> HealthResult:
        start, begun = time.time_ns(), time.monotonic_ns()
        try:
            code, output = await self._execs.probe(container, words, timeout)
        except CoveError as error:
            code, output = 255, error.message
        end = start + time.monotonic_ns() - begun
        return HealthResult(start=stamp(start), end=stamp(end), exit_code=code, output=output)
