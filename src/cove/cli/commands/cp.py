"""`cove cp`: files between a container and this machine, in either direction, and between containers.

    cove cp CONTAINER:PATH LOCAL|-        cove cp LOCAL|- CONTAINER:PATH        cove cp CONTAINER:PATH CONTAINER:PATH

The rules are those of `cp -a`: into a directory that exists, under the source's own name;
else, to the name given. SOURCE/. means what is in it. `-` is a tar archive on stdin or
stdout. A symbolic link is copied as a link, with -L as what it points to.
"""

from __future__ import annotations

import os
import posixpath
import sys

from cove.cli.files import chunks_of
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.localtar import pack, renamed, unpack
from cove.cli.terminal import is_terminal
from cove.client import ApiError, Client, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Go's os.FileMode bits, in which the API says what a path is.
_DIRECTORY, _LINK = 1 << 31, 1 << 27


def run(call: Call) -> int:
    source, target = call.arguments
    from_container, to_container = _split(source), _split(target)
    client = connect(call.host)
    if from_container and to_container:
        return _across(client, call, *from_container, *to_container)
    if from_container:
        return _out(client, call, *from_container, target)
    if to_container:
        return _into(client, call, source, *to_container)
    raise UsageError("one of the two paths must be in a container: CONTAINER:PATH")


def _split(text: str) -> tuple[str, str] | None:
    """(container, path), or None for a local path: one that begins with / or ., or has no colon."""
    container, colon, path = text.partition(":")
    if not colon or not container or container.startswith(("/", ".")):
        return None
    return container, path


def _out(client: Client, call: Call, container: str, path: str, target: str) -> int:
    if target == "-":
        if is_terminal(1):
            raise UsageError("a tar archive is not for a terminal; send it somewhere with | or >")
        for chunk in client.containers.read_archive(container, path).chunks():
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return 0
    if call.flag("follow-link"):
        path = _followed(client, container, path)
    stat = _stat(client, container, path)
    is_directory = bool(stat["mode"] & _DIRECTORY)
    contents = path.endswith("/.") or path == "." or not path.strip("/")
    directory, name = _local_place(target, stat["name"], is_directory=is_directory, contents=contents)
    response = client.containers.read_archive(container, path, sparse=True)
    top = posixpath.basename(path.rstrip("/")) if not contents else ""
    rename = ((top or stat["name"]), name) if not contents else None
    # What SOURCE/. names begins with "." in the archive: what is in it lands in the target itself.
    if contents:
        directory, rename = os.path.join(directory, name) if name else directory, (stat["name"], "")
        os.makedirs(directory, exist_ok=True)
    unpack(response.chunks(), directory, rename=rename, keep_ids=call.flag("archive"))
    return 0


def _local_place(target: str, name: str, *, is_directory: bool, contents: bool) -> tuple[str, str]:
    """The local directory to write into and the name to take there ("" with `contents`: none)."""
    if os.path.isdir(target):
        return target, "" if contents else name
    if os.path.islink(target.rstrip("/")):
        target = os.path.realpath(target)  # the user's own link: what is copied goes where it points
    parent, last = os.path.split(target.rstrip("/") or "/")
    parent = parent or "."
    if not os.path.isdir(parent):
        raise UsageError(f"the directory {parent} does not exist")
    if os.path.exists(target) and is_directory:
        raise UsageError(f"a directory cannot be copied over the file {target}")
    if target.endswith("/") and not is_directory:
        raise UsageError(f"the directory {target} does not exist")
    return parent, last


def _stat(client: Client, container: str, path: str) -> dict[str, Any]:
    """What is at a container's path; the answer to HEAD has no sentence, so a refusal gets one here."""
    try:
        return client.containers.stat_path(container, path)
    except ApiError as error:
        if error.status != 404:
            raise
        client.containers.inspect(container)  # raises when it is the container that is missing
        raise ApiError(404, f"there is no {path} in the container {container}") from error


def _followed(client: Client, container: str, path: str) -> str:
    stat = _stat(client, container, path)
    if stat["mode"] & _LINK and stat.get("linkTarget"):
        link = stat["linkTarget"]
        return str(link if link.startswith("/") else posixpath.join(posixpath.dirname(path), link))
    return path


def _into(client: Client, call: Call, source: str, container: str, path: str) -> int:
    keep = call.flag("archive")
    path, found = _target(client, container, path)
    exists_as_directory = bool(found and found["mode"] & _DIRECTORY)
    if source == "-":
        if not exists_as_directory:
            raise UsageError(f"an archive can only be copied into a directory, which {container}:{path} is not")
        client.containers.write_archive(container, path, chunks_of(sys.stdin.buffer), copy_ids=keep)
        return 0
    follow = call.flag("follow-link")
    if not os.path.lexists(source):
        raise UsageError(f"{source} does not exist")
    is_directory = os.path.isdir(source) and (follow or not os.path.islink(source) or source.endswith(("/", "/.")))
    contents = source.endswith("/.") or source == "."
    usual = "." if contents else os.path.basename(os.path.abspath(source))
    directory, name = _place(container, path, found, usual, is_directory=is_directory)
    local = source.rstrip("/") if len(source) > 1 and not source.endswith("/.") else source
    archive = pack(local, name, follow=follow or source.endswith("/"), keep_ids=keep)
    client.containers.write_archive(container, directory, archive, copy_ids=keep)
    return 0


def _across(client: Client, call: Call, container: str, path: str, other: str, target: str) -> int:
    """From one container into another one, through this process; owners as when it went over this machine."""
    if call.flag("follow-link"):
        path = _followed(client, container, path)
    stat = _stat(client, container, path)
    contents = path.endswith("/.") or path == "." or not path.strip("/")
    target, found = _target(client, other, target)
    usual = "." if contents else stat["name"]
    directory, name = _place(other, target, found, usual, is_directory=bool(stat["mode"] & _DIRECTORY))
    keep = call.flag("archive")
    archive = renamed(client.containers.read_archive(container, path, sparse=True).chunks(), name, keep_ids=keep)
    client.containers.write_archive(other, directory, archive, copy_ids=keep)
    return 0


def _place(
    container: str, path: str, found: dict[str, Any] | None, usual: str, *, is_directory: bool
) -> tuple[str, str]:
    """The directory in a container to write into and the name to take there; `usual` in one that is there."""
    if found and found["mode"] & _DIRECTORY:
        return path, usual
    if path.endswith("/") and not is_directory:
        raise UsageError(f"the directory {container}:{path} does not exist")
    if found and is_directory:
        raise UsageError(f"a directory cannot be copied over the file {container}:{path}")
    return posixpath.dirname(path.rstrip("/")) or "/", posixpath.basename(path.rstrip("/"))


def _target(client: Client, container: str, path: str) -> tuple[str, dict[str, Any] | None]:
    """Where a container's path leads, links followed, and what is there; None when there is nothing."""
    try:
        found = _stat(client, container, path)
        if not found["mode"] & _LINK:
            return path, found
        path = _followed(client, container, path)
        return path, _stat(client, container, path)
    except ApiError as error:
        if error.status != 404:
            raise
    client.containers.inspect(container)  # it is only the path that is missing
    return path, None


COPY = Verb(
    run,
    "Copy files between a container and this machine, or between containers; - is a tar archive on stdin or stdout.",
    "CONTAINER:PATH LOCAL|-  or  LOCAL|- CONTAINER:PATH  or  CONTAINER:PATH CONTAINER:PATH",
    (
        Flag("archive", "Keep owners, groups and attributes", "bool", short="a"),
        Flag("follow-link", "Copy what a link points to", "bool", short="L"),
        Flag("quiet", "Accepted; nothing is said anyway", "bool", short="q"),
    ),
    least=2,
    most=2,
)
