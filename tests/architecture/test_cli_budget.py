"""What the command may import on its way to a running container."""

from __future__ import annotations

import subprocess
import sys

DEAR = {
    "argparse", "asyncio", "collections", "contextlib", "dataclasses", "email", "enum", "h11", "http.client",
    "inspect", "json", "logging", "msgspec", "re", "signal", "socket", "ssl", "subprocess", "tempfile",
    "typing", "urllib3",
}  # fmt: skip
VERBS = ("run", "exec", "ps", "logs", "lifecycle", "start")


def test_the_hot_verbs_import_nothing_dear() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import cove.cli.main, cove.cli.table\n"
        f"for verb in {VERBS}: __import__('cove.cli.commands.' + verb)\n"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cove.cli.commands.run" in found
    assert not DEAR & set(found)


def test_every_verb_of_the_table_exists() -> None:
    from cove.cli.flags import Verb
    from cove.cli.main import load
    from cove.cli.table import TABLE

    for place, _, summary in TABLE.values():
        assert isinstance(load(place), Verb)
        assert summary
