"""`cove daemon`: the daemon itself, in this process. Only this verb imports the server half."""

from __future__ import annotations

from cove.cli.flags import Call, Verb


def run(call: Call) -> int:
    from cove.daemon.main import run as run_daemon

    words = [*(("--host", call.host) if call.host else ()), *call.arguments]
    return int(run_daemon(words) or 0)


DAEMON = Verb(run, "Run the daemon in the foreground.", "[OPTIONS]", most=None, verbatim=True)
