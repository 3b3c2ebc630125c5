"""What a shell is told may come next; without a daemon, names are left out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cove.cli.commands.completion import _SCRIPTS
from cove.cli.completion import complete


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COVE_HOST", f"unix://{tmp_path}/none.sock")


def offered(*words: str) -> list[str]:
    return [word for word, _ in complete(words)]


def test_verbs_groups_and_flags() -> None:
    assert offered("ren") == ["rename"]
    assert {"run", "ps", "volume", "container"} <= set(offered(""))
    assert "ls" in offered("volume", "")
    assert offered("ps", "--no-t") == ["--no-trunc"]
    assert "--host" in offered("-")


def test_flags_before_the_verb_do_not_confuse_it() -> None:
    assert offered("-H", "unix:///x.sock", "ren") == ["rename"]


def test_what_belongs_to_the_program_is_left_alone() -> None:
    assert offered("run", "-it", "busybox", "-") == []
    assert "--rm" in offered("run", "-it", "--r")
    assert offered("run", "--name", "-") == []


def test_no_daemon_is_no_error() -> None:
    assert offered("start", "") == []


def test_the_script_of_bash_completes() -> None:
    script = f"{_SCRIPTS['bash']}\ncove() {{ printf 'logs\\tShow\\nlogin\\tLog in\\n'; }}\n"
    script += 'COMP_WORDS=(cove lo); COMP_CWORD=1; _cove cove lo cove; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "logs login\n"
