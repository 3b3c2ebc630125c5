"""`ps`: the processes of a container, as the host's ps shows them."""

from __future__ import annotations

import subprocess

from cove.errors import InvalidArgument, Unsupported
from cove.runtime.oci import compact, groups, store
from cove.runtime.oci.main import Call


def ps(call: Call, words: list[str]) -> int:
    """A table by ps(1) with the options given, or their numbers as JSON."""
    call.parse(words, ("format|f=",), 1, None, mixed=False)
    form = call.options.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument(f'invalid format option "{form}", it is table or json')
    container = store.find(call.root, call.arguments[0])
    record = container.known
    pids = groups.of(record).procs(record.cgroup)
    if form == "json":
        print(compact.encode(pids).decode())
        return 0
    print("\n".join(_rows(call.arguments[1:] or ["-ef"], set(pids))))
    return 0


def _rows(options: list[str], pids: set[int]) -> list[str]:
    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unsupported("this host has no ps program (Debian's package is procps); use --format json") from None
    if done.returncode:
        raise InvalidArgument(f"ps {' '.join(options)} failed: {done.stderr.strip()}")
    head, *lines = done.stdout.splitlines()
    names = head.split()
    if "PID" not in names:
        raise InvalidArgument(f"ps {' '.join(options)} prints no PID column, which is needed to find the processes")
    at = names.index("PID")
    return [head, *(line for line in lines if _number(line, at) in pids)]


def _number(line: str, at: int) -> int:
    words = line.split()
    return int(words[at]) if len(words) > at and words[at].isdecimal() else -1
