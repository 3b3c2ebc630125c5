"""Pages for people: the repositories, and of one of them the tags with their platforms side by side.

Plain HTML that this process serves alone: no script, no picture, no font from anywhere. Everything that
came from outside is escaped, and the policy in the header forbids whatever should have slipped through.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable
from html import escape
from urllib.parse import quote, urlencode

from cove.httpd.messages import Reply, Response
from cove.oci import digest as digests
from cove.oci.image import Descriptor
from cove.registry import names, refusals
from cove.registry.calls import Call
from cove.registry.style import STYLE
from cove.registry.views import Layer, RepositoryLine, TagView, Variant, line, tag_view

_REPOSITORIES = 100
_TAGS = 20
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_HEADERS = (
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


# ── endpoints ─────────────────────────────────────────────────────────────────────────────────────


async def overview(call: Call) -> Reply:
    """Every repository, or those whose name has what was searched for."""
    registry = call.registry
    await registry.access.check_overview(call.request, page=True)
    wanted, after = call.request.query.text("q")[:100], call.request.query.text("last")

    def look() -> tuple[list[RepositoryLine], bool]:
        found = registry.storage.catalogue.repositories(after=after)
        fitting = [name for name in found if wanted.lower() in name]
        return [line(registry.storage, name) for name in fitting[:_REPOSITORIES]], len(fitting) > _REPOSITORIES

    lines, more = await registry.run(look)
    onward = f"/?{urlencode({'q': wanted, 'last': lines[-1].name})}" if more else ""
    return _page("Repositories", _overview(lines, wanted, onward, registry.storage.room.taken))


async def repository(call: Call) -> Reply:
    """One repository's tags."""
    registry, name = call.registry, names.repository(call.request.params["name"])
    await registry.access.check_overview(call.request, page=True)
    after = call.request.query.text("last")

    def look() -> tuple[list[TagView], bool]:
        tags = registry.storage.catalogue.tags(name, after=after, most=_TAGS + 1)
        shown = [view for tag in tags[:_TAGS] if (view := tag_view(registry.storage, name, tag))]
        return shown, len(tags) > _TAGS

    if not registry.storage.catalogue.has_repository(name):
        raise refusals.name_unknown(name)
    views, more = await registry.run(look)
    onward = f"/r/{quote(name)}?{urlencode({'last': views[-1].name})}" if more and views else ""
    host = registry.settings.url.partition("://")[2].rstrip("/") or call.request.headers.get("host", "")
    return _page(name, _repository(name, views, onward, host))


def _page(title: str, body: Iterable[str]) -> Response:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} · registry</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        '<header><a class="brand" href="/">cove<span>registry</span></a></header><main id="main">'
        f"{''.join(body)}</main></body></html>"
    )
    return Response(body=html.encode(), content_type="text/html; charset=utf-8", headers=_HEADERS)


# ── all repositories ──────────────────────────────────────────────────────────────────────────────


def _overview(lines: list[RepositoryLine], wanted: str, onward: str, taken: int) -> Iterable[str]:
    yield '<div class="head"><h1>Repositories</h1><form action="/" role="search"><input type="search" name="q" '
    yield f'value="{escape(wanted)}" placeholder="Search" aria-label="Search"></form></div>'
    if not lines:
        yield f'<p class="empty">{"No repository fits." if wanted else "Nothing has been pushed yet."}</p>'
        return
    yield '<table><thead><tr><th>Name<th class="n">Tags<th class="n">Size<th class="late">Last push</thead><tbody>'
    for each in lines:
        yield f'<tr><td><a href="/r/{quote(each.name)}">{escape(each.name)}</a><td class="n">{each.tags}'
        yield f'<td class="n">{size(each.size)}<td class="late">{ago(each.changed)}'
    yield f'</tbody></table><p class="note">{size(taken)} on disk; what repositories share is stored once.</p>'
    yield _onward(onward)


def _onward(onward: str) -> str:
    return f'<p><a class="more" href="{escape(onward)}">More</a></p>' if onward else ""


# ── one repository ────────────────────────────────────────────────────────────────────────────────


def _repository(name: str, views: list[TagView], onward: str, host: str) -> Iterable[str]:
    yield '<p class="trail"><a href="/">All repositories</a></p>'
    yield f'<div class="head"><h1>{escape(name)}</h1></div>'
    if len(views) > 1:
        links = "".join(f'<li><a href="#{escape(view.name)}">{escape(view.name)}</a>' for view in views)
        yield f'<nav aria-label="Tags"><ul class="tags">{links}</ul></nav>'
    if not views:
        yield '<p class="empty">There is no tag here.</p>'
    for view in views:
        yield from _tag(name, view, host)
    yield _onward(onward)


def _tag(name: str, view: TagView, host: str) -> Iterable[str]:
    images = [variant for variant in view.variants if variant.is_image]
    others = [variant for variant in view.variants if not variant.is_image]
    yield f'<section class="tag" id="{escape(view.name)}"><div class="head"><h2>{escape(view.name)}</h2>'
    yield f'<code title="{escape(view.digest)}">{_short(view.digest)}</code><span>{ago(view.changed)}</span></div>'
    yield f"<pre>cove pull {escape(host)}/{escape(name)}:{escape(view.name)}</pre>"
    yield '<div class="variants">'
    for variant in images or others:
        yield from _variant(variant)
    yield "</div>"
    attached = [
        *(_attached_variant(variant) for variant in (others if images else ())),
        *map(_attached, view.attached),
    ]
    if attached:
        yield f'<p class="note">Attached: {", ".join(attached)}</p>'
    yield "</section>"


def _variant(variant: Variant) -> Iterable[str]:
    system = variant.platform.os if variant.platform.os in ("linux", "windows") else "other"
    title = str(variant.platform) if variant.is_image else variant.artifact_type or variant.media_type
    yield f'<article class="{system}"><h3>{escape(title)}</h3>'
    if variant.platform.os_version:
        yield f'<p class="version">{escape(variant.platform.os_version)}</p>'
    if not variant.layers and not variant.complete:
        yield '<p class="note">Not stored here.</p></article>'
        return
    yield f"<dl>{_fact('Size', size(variant.size))}{_fact('Layers', str(len(variant.layers)))}"
    yield _fact("Digest", f'<code title="{escape(variant.digest)}">{_short(variant.digest)}</code>')
    if variant.created:
        yield _fact("Created", escape(variant.created[:10]))
    if variant.command:
        yield _fact("Runs", f"<code>{escape(' '.join(variant.command)[:200])}</code>")
    yield "</dl>"
    if not variant.complete:
        yield '<p class="note">Some of its layers are not stored here.</p>'
    yield from _layers(variant.layers)
    yield "</article>"


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{name}<dd>{value}</div>"


def _layers(layers: tuple[Layer, ...]) -> Iterable[str]:
    if not layers:
        return
    largest = max(layer.size for layer in layers) or 1
    yield "<details><summary>Layers</summary><ol>"
    for layer in layers:
        share = max(1, round(layer.size * 100 / largest))
        yield f'<li><code title="{escape(layer.digest)}">{_short(layer.digest)}</code><b>{size(layer.size)}</b>'
        yield f'<meter min="0" max="100" value="{share}"></meter>'
        yield f'<span class="step">{escape(layer.step[:300])}</span>' if layer.step else ""
    yield "</ol></details>"


def _attached(descriptor: Descriptor) -> str:
    kind = descriptor.artifact_type or descriptor.media_type
    return f'{escape(kind)} <code title="{escape(descriptor.digest)}">{_short(descriptor.digest)}</code>'


def _attached_variant(variant: Variant) -> str:
    kind = variant.artifact_type or "attestation"
    return f'{escape(kind)} <code title="{escape(variant.digest)}">{_short(variant.digest)}</code>'


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


def size(count: float) -> str:
    """Bytes as people read them, decimal, as registries' clients show them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}&nbsp;{unit}" if unit != "B" else f"{count:.0f}&nbsp;B"
        count /= 1000
    return f"{count:.3g}&nbsp;TB"


def ago(moment: float) -> str:
    """A moment as the time since then."""
    if not moment:
        return ""
    past = max(time.time() - moment, 0)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if past >= length:
            count = int(past // length)
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return "just now"


def _short(digest: str) -> str:
    return escape(digests.short(digest))
