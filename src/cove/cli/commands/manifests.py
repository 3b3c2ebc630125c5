"""`cove manifest create|annotate|inspect|push|rm`: one name for images of several platforms."""

from __future__ import annotations

import sys

from cove.cli import credentials, progress, reference
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import pairs
from cove.client import ApiError, Client, connect


def create(call: Call) -> int:
    name, *members = call.arguments
    client = connect(call.host)
    for member in members:
        _have(client, member)
    print(client.images.make_list(name, {"Images": members, "Amend": call.flag("amend")}))
    return 0


def _have(client: Client, name: str) -> None:
    """Pull an image that is not here, with all its platforms."""
    try:
        client.images.inspect(name)
    except ApiError as error:
        if error.status != 404:
            raise
        repository, tag = reference.split(name)
        auth = credentials.header(reference.registry(name))
        progress.show(client.images.pull(repository, tag or "latest", every=True, auth=auth), sys.stderr)


def annotate(call: Call) -> int:
    name, member = call.arguments
    body = {
        "Image": member,
        "Os": call.text("os"),
        "Architecture": call.text("arch"),
        "Variant": call.text("variant"),
        "OsVersion": call.text("os-version"),
        "OsFeatures": call.list("os-features"),
        "Annotations": pairs(call.list("annotation"), "annotation"),
    }
    if not any(value for key, value in body.items() if key != "Image"):
        raise UsageError("nothing is to be changed: use --os, --arch, --variant, --os-version or --annotation")
    print(connect(call.host).images.annotate_list(name, body))
    return 0


def inspect(call: Call) -> int:
    for name in call.arguments:
        auth = credentials.header(reference.registry(name))
        sys.stdout.write(connect(call.host).images.document(name, auth=auth).decode() + "\n")
    return 0


def push(call: Call) -> int:
    name = call.arguments[-1]
    if len(call.arguments) == 2:
        repository, tag = reference.split(name)
        connect(call.host).images.tag(call.arguments[0], repository, tag or "latest")
    repository, tag = reference.split(name)
    auth = credentials.header(reference.registry(name))
    client = connect(call.host)
    progress.show(client.images.push(repository, tag or "latest", auth=auth), quiet=call.flag("quiet"))
    if call.flag("purge"):
        client.images.remove(name, force=False, keep_parents=False)
    return 0


def remove(call: Call) -> int:
    client = connect(call.host)
    for name in call.arguments:
        client.images.remove(name, force=False, keep_parents=False)
        print(name)
    return 0


CREATE = Verb(
    create,
    "Put several images under one name. What is not here is pulled first, with all its platforms.",
    "LIST IMAGE [IMAGE...]",
    (Flag("amend", "Add to the list that has this name already", "bool", short="a"),),
    least=2,
    most=None,
)
ANNOTATE = Verb(
    annotate,
    "Change what a list says of one of its images, which is named by name or by digest.",
    "LIST IMAGE",
    (
        Flag("annotation", "Annotation of the entry: NAME=VALUE", "list"),
        Flag("arch", "Processor architecture"),
        Flag("os", "Operating system"),
        Flag("os-features", "Features that the operating system must have", "list"),
        Flag("os-version", "Version of the operating system"),
        Flag("variant", "Variant of the architecture"),
    ),
    least=2,
    most=2,
)
INSPECT = Verb(
    inspect, "Show the manifest or list of an image, from here or else from its registry.", "NAME", least=1, most=None
)
PUSH = Verb(
    push,
    "Upload a list and its images; a second name says where to.",
    "LIST [NAME[:TAG]]",
    (
        Flag("purge", "Remove the list here afterwards", "bool", short="p"),
        Flag("quiet", "Show no progress", "bool", short="q"),
    ),
    least=1,
    most=2,
)
REMOVE = Verb(remove, "Remove lists; images that have other names stay.", "LIST [LIST...]", least=1, most=None)
