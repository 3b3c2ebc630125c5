"""`cove login`, `cove logout`: passwords of registries."""

from __future__ import annotations

import sys

from cove.cli import credentials
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.terminal import is_terminal
from cove.client import connect

_DEFAULT = "docker.io"


def login(call: Call) -> int:
    registry = call.arguments[0] if call.arguments else _DEFAULT
    registry = registry.removeprefix("https://").removeprefix("http://").rstrip("/")
    username, password = call.text("username"), call.text("password")
    if call.flag("password-stdin"):
        if not username or call.given("password"):
            raise UsageError("--password-stdin needs --username, and no --password")
        password = sys.stdin.read().rstrip("\r\n")
    elif not password:
        username, password = _ask(username)
    body = {"username": username, "password": password, "serveraddress": registry}
    answer = connect(call.host).system.login(body)
    path = credentials.keep(registry, username, password)
    print(f"{answer.get('Status') or 'Login Succeeded'} (kept in {path})")
    return 0


def _ask(username: str) -> tuple[str, str]:
    if not is_terminal(0):
        raise UsageError("there is no terminal to ask for the password; use --username and --password-stdin")
    from getpass import getpass

    username = username or input("Username: ").strip()
    return username, getpass("Password: ")


def logout(call: Call) -> int:
    registry = call.arguments[0] if call.arguments else _DEFAULT
    if not credentials.forget(registry):
        raise UsageError(f"nobody is logged in to {registry}")
    print(f"Removed the password of {registry}")
    return 0


LOGIN = Verb(
    login,
    "Log in to a registry; Docker Hub, unless told otherwise.",
    "[REGISTRY]",
    (
        Flag("password", "Password or token; others can see it in the list of processes", short="p"),
        Flag("password-stdin", "Read the password from stdin", "bool"),
        Flag("username", "User name", short="u"),
    ),
    most=1,
)
LOGOUT = Verb(logout, "Log out from a registry.", "[REGISTRY]", most=1)
