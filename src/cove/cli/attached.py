"""Running a container attached: the order of calls that loses no output and no exit code.

    attach ──▶ wait (next-exit, or removed) ──▶ start ──▶ pump ──▶ the exit code

Both attach and wait are answered before the start, so that even a program that ends at once
has written to somebody and is waited for by somebody.
"""

from __future__ import annotations

from cove.cli.session import Session
from cove.client.codec import decode
from cove.client.errors import ApiError
from cove.errors import CoveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cove.client import Client
    from cove.client.http import Response


_NOT_FOUND = ("executable file not found", "no such file or directory", "not found in $path")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "exec format error")


class ProgramFailed(CoveError):
    """The program could not be run; `exit_code` is what a shell would say: 125, 126 or 127."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def start_failure(error: ApiError) -> ProgramFailed:
    """A refused start as the error that a user sees, with the exit code of a shell.

    The API has no field for it; like other engines' clients, this reads it off the sentence.
    """
    text = error.message.lower()
    if any(
        words in text for words in ("executable file not found", "no such file or directory", "not found in $path")
    ):
        return ProgramFailed(error.message, 127)
    if any(words in text for words in _NOT_EXECUTABLE):
        return ProgramFailed(error.message, 126)
    return ProgramFailed(error.message, 125)


def exit_code(waiting: Response) -> int:
    """The code of a wait that was begun earlier."""
    answer = decode(waiting.read())
    waiting.close()
    problem = (answer.get("Error") or {}).get("Message")
    if problem:
        raise ProgramFailed(str(problem), 125)
    return int(answer["StatusCode"])


def resizer(client: Client, container: str) -> Callable[[int, int], object]:
    """Tells a container's terminal its size; that it ended meanwhile is no matter."""

    def resize(rows: int, columns: int) -> None:
        try:
            client.containers.resize(container, height=rows, width=columns)
        except ApiError as error:
            if error.status not in {404, 409, 500}:
                raise

    return resize


def forwarder(client: Client, container: str) -> Callable[[int], object]:
    """Passes a signal on; that the program ended meanwhile is no matter."""

    def forward(number: int) -> None:
        try:
            client.containers.act(container, "kill", signal=str(number))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    return forward


def run_attached(
    client: Client,
    container: str,
    *,
    tty: bool,
    streams: dict[str, bool],
    detach_keys: str,
    sig_proxy: bool,
    removed: bool,
) -> int:
    """Attach to a created container, start it, stay until it ends; returns its exit code."""
    stream = client.containers.attach(container, stream=True, detachKeys=detach_keys, **streams)
    waiting = client.containers.wait(container, "removed" if removed else "next-exit")

    def start() -> None:
        try:
            client.containers.start(container, detach_keys=detach_keys)
        except ApiError as error:
            raise start_failure(error) from error

    session = Session(
        stream,
        tty=tty,
        stdin=streams["stdin"],
        resize=resizer(client, container),
        forward=forwarder(client, container) if sig_proxy else None,
        detach_keys=detach_keys,
    )
    session.run(start)
    if session.detached:
        waiting.close()
        return 0
    return exit_code(waiting)
