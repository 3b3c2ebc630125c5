"""The daemon's life: from its arguments to its last log line.

    configuration ─▶ root? ─▶ locks on both roots ─▶ supervisor begun ─▶ import ─▶ assemble (engine, recovery)
      ─▶ listen ─▶ READY to systemd ─▶ … (SIGHUP: `reload`) ─▶ SIGTERM or SIGINT
      ─▶ stop listening, let requests end ─▶ engine and runtime closed; containers run on

Owns the order of beginning. It serves nothing (`serving`) and wires nothing itself (`assemble`).
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
from collections.abc import Sequence

from cove.daemon.config import load
from cove.daemon.locks import held
from cove.errors import CoveError, InvalidArgument
from cove.runtime.spawning import begun

_log = logging.getLogger("cove.daemon")


def run(argv: Sequence[str]) -> int:
    """Run a daemon until it is told to stop; its exit status."""
    gc.disable()  # what a start makes, modules above all, stays; looking through it again and again found nothing
    try:
        config = load(argv)
        if config.only_validate:
            config.check()
            print("configuration OK")
            return 0
        if os.geteuid() != 0:
            raise InvalidArgument(
                "The daemon needs root, for it makes namespaces, mounts and control groups; try sudo"
            )
        _log_to_stderr(config.log_level)
        _raise_descriptors()
        with held(config.data, config.run), begun(config.run) as supervisor:
            from cove.daemon.serving import serve

            serve(config, argv, supervisor)
    except CoveError as error:
        print(f"cove daemon: {error.message}", file=sys.stderr)
        return 1
    except Exception:
        _log.exception("the daemon failed in a way that it did not foresee")
        return 1
    return 0


def _raise_descriptors() -> None:
    """Each container needs some descriptors, here and in the supervisor: as many as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to_stderr(level: str) -> None:
    """Plain lines; what collects them adds the date if it likes."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.captureWarnings(True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
