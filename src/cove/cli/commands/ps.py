"""`cove ps`: a list of containers."""

from __future__ import annotations

from cove.cli import humanize, output
from cove.cli.flags import Call, Flag, Verb
from cove.client import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format")
_FLAGS = (
    Flag("all", "Show stopped containers too", "bool", short="a"),
    Flag("filter", "Only those that fit: NAME=VALUE", "list", short="f", hint="filter"),
    FORMAT,
    Flag("last", "Show the last N created", "int", short="n", default="-1"),
    Flag("latest", "Show the last created", "bool", short="l"),
    Flag("no-trunc", "Show everything in full", "bool"),
    Flag("quiet", "Show ids only", "bool", short="q"),
    Flag("size", "Show sizes", "bool", short="s"),
)
_COLUMNS = (
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
)
_HEADINGS = {
    "CreatedAt": "CREATED AT",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
    "State": "STATE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}


def run(call: Call) -> int:
    limit = 1 if call.flag("latest") else max(call.number("last"), 0)
    form = call.text("format")
    sized = call.flag("size") or ".Size" in form
    found = connect(call.host).containers.list(
        all=call.flag("all") or limit > 0,
        limit=limit,
        size=sized,
        filters=output.filters(call.list("filter")),
    )
    full = call.flag("no-trunc")
    if call.flag("quiet"):
        for one in found:
            print(output.short_id(one["Id"], full=full))
        return 0
    columns = (*_COLUMNS, ("Size", "SIZE")) if sized else _COLUMNS
    output.show((row(one, full=full) for one in found), columns, form, headings=_HEADINGS)
    return 0


def _platform(one: dict[str, Any]) -> str | None:
    """The platform of its image, where the daemon tells."""
    found = (one.get("ImageManifestDescriptor") or {}).get("platform") or {}
    return "/".join(found[key] for key in ("os", "architecture", "variant") if found.get(key)) or None


def row(one: dict[str, Any], *, full: bool) -> dict[str, Any]:
    """A container as the fields that `--format` knows."""
    labels = one.get("Labels") or {}
    command = one.get("Command") or ""
    names = [name.lstrip("/") for name in one.get("Names") or ()]
    mounts = [mount.get("Name") or mount.get("Source") or "" for mount in one.get("Mounts") or ()]
    image = one.get("Image") or "<no image>"
    if image.startswith("sha256:"):
        image = output.short_id(image, full=full)
    return {
        "ID": output.short_id(one["Id"], full=full),
        "Names": ",".join(names if full else [name for name in names if "/" not in name] or names),
        "Image": image,
        "Command": f'"{command if full else output.ellipsis(command, 20)}"',
        "CreatedAt": humanize.local(one["Created"]),
        "RunningFor": humanize.ago(one["Created"]),
        "Ports": ports(one.get("Ports") or ()),
        "Platform": _platform(one),
        "State": one.get("State", ""),
        "Status": one.get("Status", ""),
        "Size": _size(one),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Mounts": ",".join(mount if full else output.ellipsis(mount, 15) for mount in mounts),
        "LocalVolumes": str(sum(1 for mount in one.get("Mounts") or () if mount.get("Driver") == "local")),
        "Networks": ",".join(sorted((one.get("NetworkSettings") or {}).get("Networks") or {})),
        "Label": lambda name: labels.get(name, ""),
    }


def _size(one: dict[str, Any]) -> str:
    written = humanize.size(one.get("SizeRw") or 0)
    total = one.get("SizeRootFs") or 0
    return f"{written} (virtual {humanize.size(total)})" if total else written


def ports(found: Any) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`; neighbouring ports that map alike become a range."""
    runs: list[list[Any]] = []
    for port in sorted(found, key=_port_order):
        key = (port.get("IP") or "", port.get("Type", "tcp"), bool(port.get("PublicPort")))
        private, public = port["PrivatePort"], port.get("PublicPort") or 0
        last = runs[-1] if runs else None
        if last and last[0] == key and private == last[2] + 1 and (not public or public == last[4] + 1):
            last[2], last[4] = private, public
        elif not (last and last[0] == key and last[2] == private and last[4] == public):
            runs.append([key, private, private, public, public])
    texts = []
    for (address, protocol, published), first, last_port, public, public_last in runs:
        inside = _span(first, last_port)
        host = f"[{address}]" if ":" in address else address
        head = f"{host}:{_span(public, public_last)}->" if published else ""
        texts.append((first, not published, f"{head}{inside}/{protocol}"))
    return ", ".join(text for _, _, text in sorted(texts, key=lambda entry: entry[:2]))


def _port_order(port: dict[str, Any]) -> tuple[str, str, int, int]:
    return port.get("Type", ""), port.get("IP") or "", port["PrivatePort"], port.get("PublicPort") or 0


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


PS = Verb(run, "List containers.", "", _FLAGS)
