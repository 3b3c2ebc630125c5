"""What `cove explain --format json` has is told in docs/explain.md, member by member."""

from __future__ import annotations

import inspect
from pathlib import Path

from cove.wire import explain
from cove.wire.base import Value


def test_every_member_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/explain.md").read_text()
    kinds = [kind for _, kind in inspect.getmembers(explain, inspect.isclass) if issubclass(kind, Value)]
    names = {name for kind in kinds for name in kind.__struct_encode_fields__}
    assert names, "no member was found"
    assert {name for name in names if f"`{name}`" not in page} == set()
