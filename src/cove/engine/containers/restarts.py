"""Restart policies: whether a container that ended starts again, and after how long.

Pure. The pause begins at 100 ms and doubles up to a minute; a run of 10 seconds forgets it.
"""

from __future__ import annotations

from cove.engine.containers.records import Facts
from cove.wire.containers import RestartPolicy

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 60.0
LONG_RUN = 10.0


def pause(policy: RestartPolicy, facts: Facts, *, exit_code: int, ran: float) -> float | None:
    """Seconds to wait before the restart, None for no restart.

    `facts.restarts` are those so far; `ran` is how long the last run took, in seconds. A container that its
    user stopped is not restarted.
    """
    if facts.wanted == "stopped":
        return None
    if policy.name == "on-failure":
        if exit_code == 0 or (policy.maximum_retry_count and facts.restarts >= policy.maximum_retry_count):
            return None
    elif policy.name not in ("always", "unless-stopped"):
        return None
    if ran >= LONG_RUN:
        return FIRST_PAUSE
    return min(FIRST_PAUSE * 2.0 ** min(facts.restarts, 16), LONGEST_PAUSE)


def after_reboot(policy: RestartPolicy, facts: Facts) -> bool:
    """Whether a container that no longer runs starts again with the daemon."""
    if policy.name == "always":
        return facts.started_ns > 0
    if policy.name == "unless-stopped":
        return facts.wanted == "running"
    if policy.name == "on-failure":
        return facts.wanted == "running" and facts.exit_code != 0
    return False
