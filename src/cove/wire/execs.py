"""Further processes in running containers."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cove.wire.base import Value


class ExecCreateRequest(Value, frozen=True, kw_only=True):
    """The body of POST /containers/{id}/exec; `console_size` is (height, width)."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: tuple[int, int] | None = None
    detach_keys: str = ""
    tty: bool = False
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


class ExecStartRequest(Value, frozen=True, kw_only=True):
    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


class IdResponse(Value, frozen=True, kw_only=True):
    id: str


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Named in lower case, as the API has it."""

    tty: bool = False
    entrypoint: str = ""
    arguments: tuple[str, ...] = ()
    privileged: bool = False
    user: str | UnsetType = UNSET


class ExecInspect(Value, frozen=True, kw_only=True):
    """`exit_code` is None until the process has ended; `pid` 0 until it has begun."""

    id: str = msgspec.field(name="ID")
    running: bool
    exit_code: int | None = None
    process_config: ProcessConfig
    open_stdin: bool = False
    open_stdout: bool = False
    open_stderr: bool = False
    can_remove: bool = False
    container_id: str = msgspec.field(name="ContainerID")
    detach_keys: str = ""
    pid: int = 0
