"""`cove update`: other limits, or another restart policy, for containers that exist."""

from __future__ import annotations

import sys

from cove.cli.each import each
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.flags import LIMITS
from cove.cli.options.ports import published
from cove.cli.options.resources import shared_resources
from cove.client import connect

_SHARED = {
    "memory", "memory-reservation", "memory-swap", "cpus", "cpu-shares", "cpu-period", "cpu-quota", "cpu-rt-period",
    "cpu-rt-runtime", "cpuset-cpus", "cpuset-mems", "pids-limit", "blkio-weight", "net-rate",
}  # fmt: skip
_FLAGS = (
    *(flag for flag in LIMITS if flag.name in _SHARED),
    Flag("publish-add", "Publish another port at once, as run's -p: 8080:80", "list", hint="port"),
    Flag("publish-rm", "Publish a port no longer: 80, or 8080:80 for one of several", "list", hint="port"),
    Flag("kernel-memory", "Kernel memory limit (obsolete)", hint="bytes"),
    Flag("restart", "When to restart it: no, on-failure[:N], always, unless-stopped", hint="policy"),
)


def run(call: Call) -> int:
    body = shared_resources(call)
    if call.text("restart"):
        name, _, count = call.text("restart").partition(":")
        if count and not count.isdecimal():
            raise UsageError(f"the value {call.text('restart')!r} of --restart has no number after the colon")
        body["RestartPolicy"] = {"Name": name, "MaximumRetryCount": int(count or 0)}
    for flag, key in (("publish-add", "PublishAdd"), ("publish-rm", "PublishRm")):
        if call.list(flag):
            body[key] = published(call.list(flag))
    if not body:
        raise UsageError("cove update needs at least one limit to change; see: cove update --help")
    client = connect(call.host)

    def update(name: str) -> None:
        for warning in client.containers.update(name, body).get("Warnings") or ():
            print(f"WARNING: {warning}", file=sys.stderr)

    return each(call.arguments, update)


UPDATE = Verb(run, "Change the limits of containers.", "CONTAINER [CONTAINER...]", _FLAGS, least=1, most=None)
