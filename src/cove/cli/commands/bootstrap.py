"""`cove image bootstrap`: an image made of Debian's own packages, without any registry."""

from __future__ import annotations

from cove.cli import progress
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect


def run(call: Call) -> int:
    include = [name.strip() for text in call.list("include") for name in text.split(",") if name.strip()]
    body = {
        "name": call.arguments[0],
        "suite": call.text("suite"),
        "include": include,
        "variant": call.text("variant"),
        "mirror": call.text("mirror"),
    }
    progress.show(connect(call.host).images.bootstrap(body), quiet=call.flag("quiet"))
    return 0


_EXAMPLES = """
  cove image bootstrap debian:bookworm
  cove image bootstrap web:1 --suite bookworm --include nginx-light
"""
BOOTSTRAP = Verb(
    run,
    "Make an image out of Debian's packages, with mmdebstrap.",
    "NAME[:TAG]",
    (
        Flag("include", "Packages to add, separated by commas", "list", hint="packages"),
        Flag("mirror", "Where the packages come from", hint="url"),
        Flag("quiet", "Show no progress", "bool", short="q"),
        Flag("suite", "Release of Debian; the image's tag, unless told otherwise", hint="name"),
        Flag("variant", "Which packages to begin with", default="minbase", hint="name"),
    ),
    least=1,
    most=1,
    notes=_EXAMPLES,
)
