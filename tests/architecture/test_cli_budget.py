"""What may be imported on the way to a running container: by the commands, and by a daemon that begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

DEAR = {
    "argparse", "asyncio", "collections", "contextlib", "dataclasses", "email", "enum", "h11", "http.client",
    "inspect", "json", "logging", "msgspec", "re", "signal", "socket", "ssl", "subprocess", "tempfile",
    "typing", "urllib3",
}  # fmt: skip
VERBS = ("run", "exec", "ps", "logs", "lifecycle", "start", "build")


def _imported(*modules: str) -> set[str]:
    """Everything that an interpreter imports for `modules`."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"for module in {modules}: __import__(module)\n"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert found.issuperset(modules)
    return found


def test_the_hot_verbs_import_nothing_dear() -> None:
    verbs = (f"cove.cli.commands.{verb}" for verb in VERBS)
    assert not DEAR & _imported("cove.cli.main", "cove.cli.table", "cove.cli.credentials", *verbs)


@pytest.mark.parametrize("verb", ["start", "state", "delete", "kill"])
def test_the_short_verbs_of_the_runtime_import_little(verb: str) -> None:
    allowed = {"collections", "enum", "json", "re"} if verb == "state" else set[str]()  # it prints JSON for people
    assert not (DEAR - allowed) & _imported("cove.runtime.oci.main", f"cove.runtime.oci.{verb}")


def test_what_makes_containers_defines_no_dataclasses() -> None:
    """Each costs half a millisecond at import, and brings `inspect`; a Struct or a NamedTuple costs a tenth."""
    code = (
        "import sys; sys.modules['typing_extensions'] = None\n"
        "import cove.runtime.oci.create, cove.kernel.cgroups_v1, cove.kernel.cgroups_v2, cove.runtime.supervisor\n"
        "print(*{'asyncio', 'dataclasses', 'inspect', 'argparse'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_daemon_begins_its_supervisor_before_it_loads_itself() -> None:
    found = _imported("cove.daemon.main")
    assert "asyncio" not in found
    assert not [name for name in found if name.startswith(("cove.api", "cove.engine.engine", "cove.image"))]


def test_every_verb_of_the_table_exists() -> None:
    from cove.cli.flags import Verb
    from cove.cli.main import load
    from cove.cli.table import TABLE

    for place, _, summary in TABLE.values():
        assert isinstance(load(place), Verb)
        assert summary
