"""Lists of things on stdout: tables, JSON, or a template, as `--format` says.

A row is a dictionary from field names (`ID`, `Names`, …) to text; a value that is callable
is a method that only templates use (`{{.Label "x"}}`). `COLUMNS` pairs of (field, heading)
say what the table shows by default.

    --format table            the default columns
    --format 'table {{.ID}}\\t{{.Names}}'   these columns, with their headings
    --format json             one JSON object a line
    --format '{{.ID}}'        the template's text, once a line
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Row = dict[str, Any]
    Columns = Sequence[tuple[str, str]]


def show(rows: Iterable[Row], columns: Columns, form: str = "", *, headings: dict[str, str] | None = None) -> None:
    """Print rows as `form` says; `headings` name fields that are no default column."""
    form = unescape(form) if form else "table"
    if form == "json":
        from cove.cli.template.functions import json

        for row in rows:
            print(json(row))
    elif form == "table":
        names = [field for field, _ in columns]
        table([heading for _, heading in columns], ([str(row[name]) for name in names] for row in rows))
    elif form.startswith("table "):
        _table_of(rows, form[6:].strip(), {**dict(columns), **(headings or {})})
    else:
        write = renderer(form)
        for row in rows:
            print(write(row))


def renderer(form: str) -> Callable[[Any], str]:
    """A function that writes a value with a template; the template is read once."""
    from cove.cli.template import parse, render

    nodes = parse(unescape(form))
    return lambda value: render(nodes, value)


def unescape(form: str) -> str:
    """`\\t` and `\\n` as people type them in shell quotes."""
    return form.strip().replace("\\t", "\t").replace("\\n", "\n")


def _table_of(rows: Iterable[Row], form: str, headings: dict[str, str]) -> None:
    write = renderer(form)
    rows = list(rows)
    names: dict[str, Any] = {name: name.upper() for row in rows[:1] for name in row}
    names |= headings
    names["Label"] = lambda label: label.rpartition(".")[2].upper()
    table(write(names).split("\t"), (write(row).split("\t") for row in rows))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest text, three blanks between them."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(heads))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        sys.stdout.write("   ".join([*cells, line[-1]]).rstrip() + "\n")


def short_id(identity: str, *, full: bool = False) -> str:
    """Twelve digits of an id, or all of it; `sha256:` is kept only in full."""
    return identity if full else identity.removeprefix("sha256:")[:12]


def ellipsis(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def filters(texts: Iterable[str]) -> dict[str, list[str]]:
    """`--filter name=value` texts as the API's filters."""
    from cove.cli.flags import UsageError

    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"the value {text!r} of --filter is not of the form NAME=VALUE")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found
