"""`cove pull`, `cove push`: images from and to a registry."""

from __future__ import annotations

from cove.cli import credentials, progress, reference
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import connect

_QUIET = Flag("quiet", "Show no progress", "bool", short="q")
_TRUST = Flag("disable-content-trust", "Accepted; images are always verified by digest", "bool")
_ALL = Flag("all-tags", "Every tag of the repository", "bool", short="a")


def pull(call: Call) -> int:
    (name,) = call.arguments
    repository, tag = reference.split(name)
    if call.flag("all-tags"):
        if tag:
            raise UsageError(f"--all-tags takes a repository without a tag, not {name}")
    elif not tag:
        tag = "latest"
        if not call.flag("quiet"):
            print("Using default tag: latest")
    auth = credentials.header(reference.registry(name))
    every = call.flag("all-platforms")
    messages = connect(call.host).images.pull(repository, tag, platform=call.text("platform"), every=every, auth=auth)
    progress.show(messages, quiet=call.flag("quiet"))
    host = reference.registry(name)
    full = repository if repository.startswith(f"{host}/") else f"{host}/{_official(repository)}"
    print(f"{full}@{tag}" if tag.startswith("sha256:") else f"{full}:{tag}" if tag else full)
    return 0


def _official(repository: str) -> str:
    return repository if "/" in repository else f"library/{repository}"


def push(call: Call) -> int:
    (name,) = call.arguments
    repository, tag = reference.split(name)
    if tag.startswith("sha256:"):
        raise UsageError(f"cove push takes a name with a tag, not a digest as in {name}")
    tag = "" if call.flag("all-tags") else tag or "latest"
    auth = credentials.header(reference.registry(name))
    messages = connect(call.host).images.push(repository, tag, platform=call.text("platform"), auth=auth)
    progress.show(messages, quiet=call.flag("quiet"))
    if call.flag("quiet"):
        print(name)
    return 0


PULL = Verb(
    pull,
    "Download an image from a registry.",
    "NAME[:TAG|@DIGEST]",
    (
        Flag("all-platforms", "Every platform that the image has, not only this host's", "bool"),
        _ALL,
        _TRUST,
        Flag("platform", "Image platform, if the image has several: linux/amd64"),
        _QUIET,
    ),
    least=1,
    most=1,
)
PUSH = Verb(
    push,
    "Upload an image to a registry.",
    "NAME[:TAG]",
    (_ALL, _TRUST, Flag("platform", "Only this one of the platforms that the image has"), _QUIET),
    least=1,
    most=1,
)
