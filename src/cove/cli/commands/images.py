"""`cove images`, `tag`, `rmi`, `history`: what is in the store."""

from __future__ import annotations

from cove.cli import humanize, output
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_FORMAT = Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format")
_NONE = "<none>"
_COLUMNS = (
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
)


def images(call: Call) -> int:
    filters = output.filters(call.list("filter"))
    if call.arguments:
        filters.setdefault("reference", []).append(call.arguments[0])
    digests = call.flag("digests")
    tree = call.flag("tree")
    found = connect(call.host).images.list(all=call.flag("all"), digests=digests, manifests=tree, filters=filters)
    found.sort(key=lambda image: -image.get("Created", 0))
    if tree:
        return _tree(call, found)
    full, form = call.flag("no-trunc"), call.text("format")
    rows = [row for image in found for row in _rows(image, full=full, digests=digests or ".Digest" in form)]
    if call.flag("quiet"):
        for identity in dict.fromkeys(row["ID"] for row in rows):
            print(identity)
        return 0
    columns = (*_COLUMNS[:2], ("Digest", "DIGEST"), *_COLUMNS[2:]) if digests else _COLUMNS
    output.show(rows, columns, form, headings={"CreatedAt": "CREATED AT", "Digest": "DIGEST"})
    return 0


def _rows(image: dict[str, Any], *, full: bool, digests: bool) -> Iterable[dict[str, Any]]:
    """One row for each name; for each digest too where digests are shown."""
    names = [name for name in image.get("RepoTags") or () if not name.startswith(_NONE)]
    pinned = dict(name.split("@", 1) for name in image.get("RepoDigests") or () if not name.startswith(_NONE))
    base = {
        "ID": image["Id"] if full else output.short_id(image["Id"]),
        "CreatedAt": humanize.local(image.get("Created", 0)),
        "CreatedSince": humanize.ago(image.get("Created", 0)),
        "Size": humanize.size(image.get("Size", 0)),
        "VirtualSize": humanize.size(image.get("Size", 0), digits=4),
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": _count(image.get("Containers", -1)),
    }
    for name in names:
        repository, _, tag = name.rpartition(":")
        yield {**base, "Repository": repository, "Tag": tag, "Digest": pinned.get(repository, _NONE)}
    if not names:
        for repository, digest in (pinned or {_NONE: _NONE}).items():
            yield {**base, "Repository": repository, "Tag": _NONE, "Digest": digest if digests else _NONE}


def _tree(call: Call, found: Iterable[dict[str, Any]]) -> int:
    """Each image, and below it the platforms that it is for; those that are not here have no size."""
    for flag in ("quiet", "format", "no-trunc", "digests"):
        if call.given(flag):
            raise UsageError(f"--tree draws a table of its own; it cannot be combined with --{flag}")
    lines: list[list[str]] = []
    for image in found:
        names = [name for name in image.get("RepoTags") or () if not name.startswith(_NONE)] or ["<untagged>"]
        offers = [each for each in image.get("Manifests") or () if each.get("Kind") == "image"]
        users = sum(len(each["ImageData"].get("Containers") or ()) for each in offers)
        size = humanize.size(image.get("Size", 0))
        lines.append([", ".join(names), output.short_id(image["Id"]), size, _used(users)])
        for number, offer in enumerate(offers, 1):
            data = offer["ImageData"]
            platform = data["Platform"]
            name = "/".join(filter(None, (platform.get("os"), platform.get("architecture"), platform.get("variant"))))
            branch = "└─" if number == len(offers) else "├─"
            room = humanize.size(offer["Size"]["Total"]) if offer["Available"] else "not here"
            used = _used(len(data.get("Containers") or ()))
            lines.append([f"{branch} {name}", output.short_id(offer["ID"]), room, used])
    output.table(["IMAGE", "ID", "SIZE", "IN USE"], lines)
    return 0


def _used(containers: int) -> str:
    return "yes" if containers > 0 else ""


def _count(number: int) -> str:
    return str(number) if number >= 0 else "N/A"


def tag(call: Call) -> int:
    from cove.cli.reference import split

    source, target = call.arguments
    repository, name = split(target)
    if name.startswith("sha256:"):
        raise UsageError(f"an image cannot be tagged as {target}, because that is a digest; use REPOSITORY[:TAG]")
    connect(call.host).images.tag(source, repository, name or "latest")
    return 0


def remove(call: Call) -> int:
    client = connect(call.host)
    platforms = call.list("platform")
    code = 0
    for name in call.arguments:
        try:
            done = client.images.remove(
                name, force=call.flag("force"), keep_parents=call.flag("no-prune"), platforms=platforms
            )
        except ApiError as error:
            if error.status == 404 and call.flag("force"):
                continue
            code = _tell(error)
        else:
            for entry in done:
                print("".join(f"{what}: {which}" for what, which in entry.items() if which))
    return code


def _tell(error: ApiError) -> int:
    import sys

    sys.stdout.flush()
    print(f"cove: {error.message}", file=sys.stderr)
    return 1


def history(call: Call) -> int:
    (name,) = call.arguments
    full, human = call.flag("no-trunc"), call.flag("human")
    rows = [
        _step(step, full=full, human=human)
        for step in connect(call.host).images.history(name, platform=call.text("platform"))
    ]
    if call.flag("quiet"):
        for row in rows:
            print(row["ID"])
        return 0
    columns = (
        ("ID", "IMAGE"),
        ("CreatedSince" if human else "CreatedAt", "CREATED" if human else "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    )
    output.show(rows, columns, call.text("format"))
    return 0


def _step(step: dict[str, Any], *, full: bool, human: bool) -> dict[str, Any]:
    made_by = (step.get("CreatedBy") or "").replace("\t", " ")
    identity = step.get("Id") or "<missing>"
    return {
        "ID": identity if full or identity.startswith("<") else output.short_id(identity),
        "CreatedAt": humanize.local(step.get("Created", 0)),
        "CreatedSince": humanize.ago(step.get("Created", 0)),
        "CreatedBy": made_by if full else output.ellipsis(made_by, 45),
        "Size": humanize.size(step.get("Size", 0)) if human else str(step.get("Size", 0)),
        "Comment": step.get("Comment") or "",
    }


LIST = Verb(
    images,
    "List images.",
    "[REPOSITORY[:TAG]]",
    (
        Flag("all", "Show intermediate images too", "bool", short="a"),
        Flag("digests", "Show digests", "bool"),
        Flag("filter", "Only those that fit: NAME=VALUE", "list", short="f", hint="filter"),
        _FORMAT,
        Flag("no-trunc", "Show everything in full", "bool"),
        Flag("quiet", "Show ids only", "bool", short="q"),
        Flag("tree", "Show below each image the platforms that it is for", "bool"),
    ),
    most=1,
)
TAG = Verb(tag, "Give an image one more name.", "SOURCE-IMAGE[:TAG] TARGET-IMAGE[:TAG]", least=2, most=2)
REMOVE = Verb(
    remove,
    "Remove images, or names of images.",
    "IMAGE [IMAGE...]",
    (
        Flag("force", "Remove it although it has other names or stopped containers", "bool", short="f"),
        Flag("no-prune", "Keep parents that have no name", "bool"),
        Flag("platform", "Only the variant for this platform, where the daemon can do that", "list"),
    ),
    least=1,
    most=None,
)
HISTORY = Verb(
    history,
    "Show how an image was made.",
    "IMAGE",
    (
        _FORMAT,
        Flag("human", "Sizes and dates in words", "bool", short="H", default="true"),
        Flag("no-trunc", "Show everything in full", "bool"),
        Flag("platform", "The variant for this platform: linux/arm64"),
        Flag("quiet", "Show ids only", "bool", short="q"),
    ),
    least=1,
    most=1,
)
