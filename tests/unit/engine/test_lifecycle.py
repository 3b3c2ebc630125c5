"""A start that fails in a way that nobody foresaw is a start that failed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cove.engine.containers.lifecycle import Lifecycle


@pytest.mark.parametrize("auto_remove", [True, False])
def test_whoever_waits_for_its_removal_is_told(auto_remove: bool) -> None:
    noted: list[dict[str, Any]] = []
    removed: list[object] = []

    async def prepare(_: object) -> None:
        raise RuntimeError("a mistake")

    async def remove(container: object, *, volumes: bool) -> None:
        removed.append(container)

    lifecycle: Any = object.__new__(Lifecycle)
    lifecycle.prepare = prepare
    lifecycle._registry = SimpleNamespace(note=lambda _, **facts: noted.append(facts))
    lifecycle._removal = SimpleNamespace(remove=remove)
    container = SimpleNamespace(record=SimpleNamespace(host=SimpleNamespace(auto_remove=auto_remove)))
    with pytest.raises(RuntimeError):
        asyncio.run(lifecycle._start(container, restarts=0))
    assert noted == [{"error": "RuntimeError: a mistake", "exit_code": 128, "wanted": "stopped"}]
    assert removed == [container] * auto_remove
