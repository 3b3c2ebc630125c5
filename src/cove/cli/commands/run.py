"""`cove run`, `cove create`: a new container from an image.

create ── no such image? pull it, progress to stderr ──▶ create
run:   create ──▶ attached (see cove.cli.attached), or with -d: start, print the id
"""

from __future__ import annotations

import os
import sys

from cove.cli.attached import ProgramFailed, run_attached, start_failure
from cove.cli.flags import Call, UsageError, Verb
from cove.cli.options.body import create_body, streams
from cove.cli.options.flags import CREATE_FLAGS, RUN_FLAGS
from cove.cli.terminal import is_terminal, size
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cove.client import Client


def run(call: Call) -> int:
    detached = call.flag("detach")
    if detached and (call.list("attach")):
        raise UsageError("--detach and --attach contradict each other; use one of them")
    image, *command = call.arguments
    wanted = streams(call, attached=not detached)
    body = create_body(call, image, command, attached=not detached)
    if call.flag("tty") and wanted["stdin"] and not is_terminal(0):
        raise UsageError("the input device is not a terminal; leave out -t to send it something else")
    if call.flag("tty") and (found := size(1)):
        body["HostConfig"]["ConsoleSize"] = list(found)
    client = connect(call.host)
    if call.flag("explain"):
        return _explained(client, call, body)
    if call.given("format"):
        raise UsageError("--format is for --explain; use them together")
    container = _create(client, call, image, body)
    if detached:
        try:
            client.containers.start(container)
        except ApiError as error:
            raise _withdrawn(client, call, container, error) from error
        print(container)
        return 0
    return _attached(client, call, container, wanted)


def _explained(client: Client, call: Call, body: dict[str, Any]) -> int:
    """What would be created; nothing is, and nothing is pulled."""
    from cove.cli.commands.explain import write

    plan = client.containers.explain_plan(body, name=call.text("name"), platform=call.text("platform"))
    write(plan, call.text("format"), verbose=False)
    return 0


def _attached(client: Client, call: Call, container: str, wanted: dict[str, bool]) -> int:
    try:
        return run_attached(
            client,
            container,
            tty=call.flag("tty"),
            streams=wanted,
            detach_keys=call.text("detach-keys"),
            sig_proxy=call.flag("sig-proxy"),
            removed=call.flag("rm"),
        )
    except ProgramFailed:
        if call.flag("rm"):
            _remove(client, container)
        raise


def _withdrawn(client: Client, call: Call, container: str, error: ApiError) -> ProgramFailed:
    """The error of a refused start; with --rm the container that never ran goes too."""
    if call.flag("rm"):
        _remove(client, container)
    return start_failure(error)


def _remove(client: Client, container: str) -> None:
    try:
        client.twin().containers.remove(container, force=True, volumes=True)
    except ApiError as error:
        if error.status not in {404, 409}:  # gone already, or on its way
            raise


def create(call: Call) -> int:
    image, *command = call.arguments
    body = create_body(call, image, command, attached=True)
    print(_create(connect(call.host), call, image, body))
    return 0


def _create(client: Client, call: Call, image: str, body: dict[str, Any]) -> str:
    """The new container's id; its image is pulled as --pull says, warnings go to stderr."""
    policy = call.text("pull")
    if policy not in {"always", "missing", "never"}:
        raise UsageError(f"the value {policy!r} of --pull is not always, missing or never")
    cidfile = call.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise UsageError(f"the file {cidfile} of --cidfile exists; remove it if its container is gone")
    name, platform = call.text("name"), call.text("platform")
    if policy == "always":
        _pull(client, call, image)
    try:
        answer = client.containers.create(body, name=name, platform=platform)
    except ApiError as error:
        if error.status != 404 or policy != "missing" or "image" not in error.message.lower():
            raise
        if not call.flag("quiet"):
            print(f"Unable to find image '{_with_tag(image)}' locally", file=sys.stderr)
        _pull(client, call, image)
        answer = client.containers.create(body, name=name, platform=platform)
    for warning in answer.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    if cidfile:
        with open(cidfile, "x") as file:
            file.write(answer["Id"])
    return str(answer["Id"])


def _pull(client: Client, call: Call, image: str) -> None:
    from cove.cli import credentials, progress, reference

    repository, tag = reference.split(image)
    auth = credentials.header(reference.registry(image))
    messages = client.images.pull(repository, tag or "latest", platform=call.text("platform"), auth=auth)
    progress.show(messages, sys.stderr, quiet=call.flag("quiet"))


def _with_tag(image: str) -> str:
    from cove.cli.reference import split

    return image if split(image)[1] else f"{image}:latest"


_ARGUMENTS = "IMAGE [COMMAND] [ARG...]"
RUN = Verb(
    run,
    "Create a container from an image and run a program in it.",
    _ARGUMENTS,
    RUN_FLAGS,
    least=1,
    most=None,
    program=True,
    failure=125,
)
CREATE = Verb(
    create,
    "Create a container without starting it, and print its id.",
    _ARGUMENTS,
    CREATE_FLAGS,
    least=1,
    most=None,
    program=True,
    failure=1,
)
