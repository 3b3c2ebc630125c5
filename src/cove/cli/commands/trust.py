"""`cove image verify`, `cove image attachments`: who vouches for an image."""

from __future__ import annotations

from cove.cli import credentials, humanize, output, reference
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import connect


def verify(call: Call) -> int:
    (name,) = call.arguments
    keys = []
    for path in call.list("key"):
        try:
            with open(path, encoding="utf-8") as file:
                keys.append(file.read())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the key {path} cannot be read: {error}") from error
    auth = credentials.header(reference.registry(name))
    found = connect(call.host).images.verify(name, keys, auth=auth)
    output.show(
        found, (("Digest", "DIGEST"), ("Key", "KEY (SHA-256)"), ("Identity", "SIGNED AS")), call.text("format")
    )
    return 0


def attachments(call: Call) -> int:
    client = connect(call.host)
    rows = [
        {
            "Type": each["ArtifactType"],
            "Digest": each["Digest"],
            "Subject": each["Subject"],
            "Size": humanize.size(each["Size"]),
        }
        for name in call.arguments
        for each in client.images.attachments(name)
    ]
    columns = (("Type", "TYPE"), ("Size", "SIZE"), ("Digest", "DIGEST"), ("Subject", "ABOUT"))
    output.show(rows, columns, call.text("format"))
    return 0


_FORMAT = Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format")

VERIFY = Verb(
    verify,
    "Show which keys signed an image, here or at its registry; fails if none did.",
    "IMAGE",
    (_FORMAT, Flag("key", "A public key (PEM) that counts; else those that the policy names", "list", hint="file")),
    least=1,
    most=1,
)
ATTACHMENTS = Verb(
    attachments,
    "List what is attached to images here: signatures, bills of materials, provenance.",
    "IMAGE [IMAGE...]",
    (_FORMAT,),
    least=1,
    most=None,
)
