"""What `--help` and `--version` print, laid out as runc does: programs read the one, people both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

_ABOUT = "Open Container Initiative runtime"


def _name() -> str:
    """This program as it was called: it may be installed under another one's name."""
    return os.path.basename(sys.argv[0]) or "cove-oci"


def _shown(flag: str) -> str:
    names = flag.rstrip("*=").split("|")
    return ", ".join(("-" if len(name) == 1 else "--") + name for name in names) + (" value" if "=" in flag else "")


def _section(title: str, lines: Iterable[str]) -> None:
    print(f"\n{title}:\n" + "\n".join(f"   {line}" for line in lines))


def overview(commands: Mapping[str, str], flags: Iterable[str]) -> None:
    """Of the whole program."""
    print(f"NAME:\n   {_name()} - {_ABOUT}")
    _section("USAGE", [f"{_name()} [global options] command [command options] [arguments...]"])
    _section("COMMANDS", (f"{command:<12}{told}" for command, told in commands.items()))
    _section("GLOBAL OPTIONS", map(_shown, flags))


def of_command(command: str, told: str, flags: Iterable[str], *, takes_id: bool) -> None:
    """Of one command."""
    print(f"NAME:\n   {_name()} {command} - {told}")
    _section(
        "USAGE", [f"{_name()} {command} [command options] {'<container-id> [arguments...]' * takes_id}".rstrip()]
    )
    _section("OPTIONS", map(_shown, flags))


def version() -> None:
    """The lines that engines look for; a release is known by its version, so that is its commit too."""
    from cove import __version__
    from cove.oci.spec import OCI_VERSION

    print(f"{_name()} version {__version__}\ncommit: {__version__}\nspec: {OCI_VERSION}")
