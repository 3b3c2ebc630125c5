"""`cove backup` and `cove restore`: a container with all it has, as one archive or at a registry."""

from __future__ import annotations

import os
import sys

from cove.cli import credentials, progress, reference
from cove.cli.files import chunks_of, open_input, open_output
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import pairs
from cove.cli.terminal import is_terminal
from cove.client import connect


def backup(call: Call) -> int:
    (name,) = call.arguments
    path, target = call.text("output"), call.text("push")
    if path and target:
        raise UsageError("a backup goes to a file (-o) or to a registry (--push), not to both at once")
    if not path and not target and is_terminal(1):
        raise UsageError("a backup is not for a terminal; use -o FILE or --push NAME, or send it on with | or >")
    left_out = {each: False for each in ("volumes", "image", "pause") if call.flag(f"no-{each}")}
    client = connect(call.host)
    if target:
        auth = credentials.header(reference.registry(target))
        progress.show(client.containers.push_backup(name, target, left_out, auth=auth), quiet=call.flag("quiet"))
        return 0
    response = client.containers.backup(name, left_out)
    with open_output("" if path == "-" else path) as out:
        for chunk in response.chunks():
            out.write(chunk)
    return 0


def restore(call: Call) -> int:
    (source,) = call.arguments
    query = {
        "name": call.text("name") or None,
        "volume": [f"{old}={new}" for old, new in pairs(call.list("volume"), "volume").items()] or None,
        "trust": call.flag("trust") or None,
    }
    client = connect(call.host)
    if source == "-" or os.path.exists(source):
        with open_input("" if source == "-" else source) as file:
            made = client.containers.restore(query, upload=chunks_of(file))
    elif source.startswith(("/", ".")):
        raise UsageError(f"the file {source} does not exist")
    else:
        made = client.containers.restore(
            {**query, "from": source}, auth=credentials.header(reference.registry(source))
        )
    for warning in made.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    print(made["Id"])
    return 0


BACKUP = Verb(
    backup,
    "Keep a container, its changes, configuration and volumes, as one archive or at a registry.",
    "CONTAINER",
    (
        Flag("no-image", "Name the image by its digest instead of including it", "bool"),
        Flag("no-pause", "Let those who write go on meanwhile", "bool"),
        Flag("no-volumes", "Without the content of volumes", "bool"),
        Flag("output", "Write to a file", short="o", hint="file"),
        Flag("push", "Send it to a registry: REGISTRY/NAME[:TAG]", hint="name"),
        Flag("quiet", "Show no progress", "bool", short="q"),
    ),
    least=1,
    most=1,
)
RESTORE = Verb(
    restore,
    "Make a container out of a backup; it is not started.",
    "FILE|-|REGISTRY/NAME[:TAG]",
    (
        Flag("name", "Another name than it had"),
        Flag("trust", "Grant what it asks for of the host: devices, directories, rights, namespaces", "bool"),
        Flag("volume", "Another name for a volume: OLD=NEW", "list"),
    ),
    least=1,
    most=1,
)
