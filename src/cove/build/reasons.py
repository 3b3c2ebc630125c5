"""Why a step ran although it ran before, in words: what its key is made of now, beside what it was made of then.

Pure. The parts of a key are texts and digests by name (`cove.build.steps`): "file PATH" is one file that is copied,
"variable NAME" one of the environment, SHOWN how the instruction stands in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

SHOWN = "shown instruction"
"""A part that is told, but is not of the key."""

FRESH = "you asked for it: its cache was not to be used (--no-cache, --no-cache-filter)"
BELOW = "the layer below"
_INSTRUCTION, _OPTIONS, _WORDS = (
    "the instruction",
    "the instruction's options",
    "the command's words",
)
_NAMES = {"cwd": "working directory", "script": "here-document", "epoch": "SOURCE_DATE_EPOCH", "user": "user"}
_MOST_FILES = 3
_MOST_TEXT = 80


def explain(before: Mapping[str, str] | None, now: Mapping[str, str], below: str) -> str:
    """What changed since the step ran last; `below` is what its layer below is: a base image, or another step."""
    if before is None:
        return "it is new: no build under this name had it before"
    different = [
        name for name in (*now, *(name for name in before if name not in now)) if _differs(name, before, now)
    ]
    if not different:
        return "nothing changed, but its result is not in the cache any more: it was pruned"
    files = [name for name in different if name.startswith("file ")]
    said = [
        text
        for name in different
        if not name.startswith(("file ", "files of ", SHOWN)) and (text := _said(name, before, now, below))
    ]
    if files:
        said.append(_files(files, before, now))
    elif not said:
        said = [f"the {name} changed" for name in different if name.startswith("files of ")]
    return "; ".join(said) or "the instruction changed"


def _differs(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    return name != SHOWN and before.get(name) != now.get(name)


def _files(names: list[str], before: Mapping[str, str], now: Mapping[str, str]) -> str:
    told = []
    for name in names[:_MOST_FILES]:
        happened = "is new" if name not in before else "is gone" if name not in now else "changed"
        told.append(f"the {name} {happened}")
    rest = len(names) - _MOST_FILES
    more = f" and {rest} more file{'s' if rest > 1 else ''}" if rest > 0 else ""
    return ", ".join(told) + more


def _said(name: str, before: Mapping[str, str], now: Mapping[str, str], below: str) -> str:
    if name == BELOW:
        return f"{below} is not the same as before"
    if name == _WORDS:
        return "" if before.get("the command") != now.get("the command") else "the command is cut into other words"
    if name == _INSTRUCTION:
        was = before.get(SHOWN, "")
        return f"the instruction was: {_short(was)}" if was and was != now.get(SHOWN) else "the instruction changed"
    if name == _OPTIONS:
        return _options(before.get(name, ""), now.get(name, ""))
    if name not in before:
        return f"{name} is new: {_short(now[name])}"
    if name not in now:
        return f"{name} is gone"
    return f"{name} changed from {_short(before[name])} to {_short(now[name])}"


def _options(before: str, now: str) -> str:
    """Which options of a RUN differ, with their values where those are short words."""
    was, is_ = _fields(before), _fields(now)
    told = []
    for key in dict.fromkeys((*is_, *was)):
        if was.get(key) == is_.get(key):
            continue
        name = f"its {_NAMES.get(key, key.replace('_', ' '))}"
        plain = all(isinstance(each.get(key, ""), str | int | None) for each in (was, is_)) and key != "script"
        values = f" from {_plain(was.get(key))} to {_plain(is_.get(key))}" if plain else ""
        told.append(f"{name} changed{values}")
    return "; ".join(told) or "the instruction's options changed"


def _fields(definition: str) -> dict[str, object]:
    """The fields in a step's canonical definition: KIND NUL JSON."""
    try:
        found = json.loads(definition.partition("\0")[2] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _plain(value: object) -> str:
    return "the default" if value in (None, "") else _short(str(value))


def _short(text: str) -> str:
    return (text or "nothing") if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}…"
