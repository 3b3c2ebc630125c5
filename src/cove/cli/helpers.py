"""Programs that keep registry passwords: `docker-credential-NAME`, in the field's usual protocol.

    docker-credential-NAME get    stdin: the registry   stdout: {"ServerURL", "Username", "Secret"}
    docker-credential-NAME store  stdin: such an object
    docker-credential-NAME erase  stdin: the registry

They run as the user who called `cove`, never in the daemon.
"""

from __future__ import annotations

from cove.client.codec import decode, encode
from cove.errors import InvalidArgument

_MARKS = str.maketrans("", "", "._-")
_ABSENT = "credentials not found"
_TOKEN = "<token>"
_PATIENCE = 60


def get(name: str, registry: str) -> dict[str, str]:
    """{username, password} or {identitytoken}; {} when the helper keeps nothing for the registry."""
    code, out = _run(name, "get", registry.encode())
    if code:
        if _ABSENT in out.lower():
            return {}
        raise InvalidArgument(f"the credential helper {_program(name)} refuses: {_line(out)}")
    try:
        found = decode(out.encode())
        username, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"the credential helper {_program(name)} answers something else than JSON") from error
    return {"identitytoken": secret} if username == _TOKEN else {"username": username, "password": secret}


def store(name: str, registry: str, username: str, password: str) -> None:
    body = encode({"ServerURL": registry, "Username": username, "Secret": password})
    code, out = _run(name, "store", body)
    if code:
        raise InvalidArgument(f"the credential helper {_program(name)} cannot store the password: {_line(out)}")


def erase(name: str, registry: str) -> bool:
    """Whether there was something to forget."""
    if not get(name, registry):
        return False
    code, out = _run(name, "erase", registry.encode())
    if code:
        raise InvalidArgument(f"the credential helper {_program(name)} cannot forget the password: {_line(out)}")
    return True


def _program(name: str) -> str:
    if not (name.isascii() and name[:1].isalnum() and name.translate(_MARKS).isalnum()):
        raise InvalidArgument(
            f"{name[:100]!r} is no name of a credential helper: it is NAME of docker-credential-NAME"
        )
    return f"docker-credential-{name}"


def _run(name: str, verb: str, given: bytes) -> tuple[int, str]:
    import subprocess

    program = _program(name)
    try:
        done = subprocess.run([program, verb], input=given, stdout=subprocess.PIPE, timeout=_PATIENCE, check=False)
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"the credential helper {program} is not installed; install it, or take it out of config.json"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidArgument(f"the credential helper {program} does not work: {error}") from error
    return done.returncode, done.stdout.decode(errors="replace")


def _line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[0][:200]
