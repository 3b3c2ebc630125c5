"""`cove save`, `load`, `import`: images as tar archives."""

from __future__ import annotations

import os
import sys

from cove.cli import progress
from cove.cli.files import chunks_of, input_of, open_input, output_of, write_all
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import connect


def save(call: Call) -> int:
    path = output_of(call)
    response = connect(call.host).images.save(call.arguments, platform=call.text("platform"))
    write_all(response.chunks(), path)
    return 0


def load(call: Call) -> int:
    path = input_of(call, "load")
    with open_input(path) as source:
        messages = connect(call.host).images.load(
            chunks_of(source), quiet=call.flag("quiet"), platform=call.text("platform")
        )
        progress.show(messages)
    return 0


def import_(call: Call) -> int:
    from cove.cli.reference import split

    source, *target = call.arguments
    repository, tag = split(target[0]) if target else ("", "")
    query = {
        "repo": repository,
        "tag": tag,
        "message": call.text("message"),
        "changes": call.list("change"),
        "platform": call.text("platform"),
    }
    client = connect(call.host)
    if source.startswith(("http://", "https://")):
        raise UsageError(f"cove import reads a file or stdin; fetch it first: curl -L {source} | cove import -")
    if source != "-" and not os.path.exists(source):
        raise UsageError(f"the archive {source} does not exist")
    with open_input("" if source == "-" else source) as stream:
        progress.show(_ending(client.images.import_(chunks_of(stream), query)), sys.stderr)
    return 0


def _ending(messages: progress.Messages) -> progress.Messages:
    """The messages; the image's id, which the API sends as a status, goes to stdout instead."""
    for message in messages:
        if str(message.get("status", "")).startswith("sha256:"):
            print(message["status"])
        else:
            yield message


SAVE = Verb(
    save,
    "Write images as a tar archive, to stdout unless told otherwise.",
    "IMAGE [IMAGE...]",
    (
        Flag("output", "Write to a file", short="o", hint="file"),
        Flag("platform", "Only this one of the platforms that an image has"),
    ),
    least=1,
    most=None,
)
LOAD = Verb(
    load,
    "Read images from a tar archive, on stdin unless told otherwise.",
    "",
    (
        Flag("input", "Read from a file", short="i", hint="file"),
        Flag("platform", "Only the variant for this platform: linux/arm64"),
        Flag("quiet", "Show no progress", "bool", short="q"),
    ),
)
IMPORT = Verb(
    import_,
    "Make an image of a file system's tar archive.",
    "FILE|- [REPOSITORY[:TAG]]",
    (
        Flag("change", "Apply an instruction of a Dockerfile: 'CMD [\"sh\"]'", "list", short="c", hint="instruction"),
        Flag("message", "Say what the image is", short="m"),
        Flag("platform", "Platform of the image: linux/amd64"),
    ),
    least=1,
    most=2,
)
