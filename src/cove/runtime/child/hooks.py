"""Hooks: programs that the runtime specification lets run at six moments of a container's life.

    create ── clone3 ─▶ mounts ─▶ prestart, createRuntime   in the runtime's namespaces, by the process that made init
                                  createContainer           in the container's, by init before it moves into its root
    start  ── Go ─▶ rights dropped ─▶ startContainer        in the container's, by init, with the process' own rights
              execve ─▶ poststart                           in the runtime's namespaces
    delete ── everything gone ─▶ poststop                   in the runtime's namespaces

Each reads the container's State as JSON from its standard input. The first one that fails ends its stage. What
it writes comes back in the error. Nothing is imported here late: init calls it inside the container's root.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Mapping

import msgspec

from cove.oci.spec import OCI_VERSION, Hook, Hooks
from cove.runtime.child.common import Failure

_TOLD = 1000


class State(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The state that hooks read and that the runtime's `state` prints (runtime.md, "State")."""

    oci_version: str = OCI_VERSION
    id: str
    status: str
    pid: int = msgspec.field(default=0)
    bundle: str
    annotations: dict[str, str] = {}


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(State).decode
decode(encode(State(id="", status="", bundle="")))


def at_creation(hooks: Hooks | None) -> bool:
    """Whether there is any that init or its maker must run before the program."""
    if hooks is None:
        return False
    return bool(hooks.prestart or hooks.create_runtime or hooks.create_container or hooks.start_container)


def beside_init(hooks: Hooks | None) -> bool:
    """Whether there is any that init does not run by itself."""
    return hooks is not None and hooks != Hooks(create_container=hooks.create_container)


def run(stage: str, hooks: Iterable[Hook], state: State, env: Mapping[str, str] | None = None) -> None:
    """Run `hooks` one after the other; Failure tells of the first that fails.

    A hook without an environment has the runtime's, or `env`: inside the container, that of its process.
    """
    content = encode(state)
    inherited = dict(os.environ if env is None else env)
    for number, hook in enumerate(hooks):
        try:
            _run(stage, hook, content, inherited, state.annotations)
        except Failure as failure:
            failure.message = f"error running {stage} hook #{number}: {failure.message}"
            raise


def _run(stage: str, hook: Hook, content: bytes, inherited: dict[str, str], annotations: Mapping[str, str]) -> None:
    if not hook.path.startswith("/"):
        raise Failure(f"{hook.path} is no absolute path")
    given, told = _memory(content), _memory(b"")
    opened = [given, told]
    try:
        streams = [given, *(_output(stage, name, annotations, told, opened) for name in ("stdout", "stderr"))]
        pid = os.posix_spawn(
            hook.path,
            list(hook.args) or [hook.path],
            dict(entry.split("=", 1) for entry in hook.env if "=" in entry) or inherited,
            file_actions=[(os.POSIX_SPAWN_DUP2, source, number) for number, source in enumerate(streams)],
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        timeout = hook.timeout if hook.timeout and hook.timeout > 0 else None
        status = _wait(pid, timeout)
        if status != 0:
            reason = _reason(status) if status is not None else f"it did not end within {timeout} seconds"
            said = os.pread(told, _TOLD, 0).decode("utf-8", "replace").strip()
            raise Failure(f"{hook.path} failed: {reason}{': ' + said if said else ''}")
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Failure(f"{hook.path} cannot be run: {reason}", number=error.errno or 0) from None
    finally:
        for fd in opened:
            os.close(fd)


def _output(stage: str, name: str, annotations: Mapping[str, str], told: int, opened: list[int]) -> int:
    """Where a hook's output goes: to the file that crun's annotation names, outside the container; else to us."""
    path = annotations.get(f"run.oci.hooks.{name}")
    if not path or stage == "startContainer":
        return told
    opened.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    return opened[-1]


def _memory(content: bytes) -> int:
    """A file without a name, read from its beginning: unlike a pipe it makes neither side wait."""
    fd = os.memfd_create("cove-hook", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _wait(pid: int, timeout: int | None) -> int | None:
    """The wait status of `pid`; None when it had to be killed, with all of its process group."""
    if timeout is not None:
        pidfd = os.pidfd_open(pid)
        try:
            waiting = select.poll()
            waiting.register(pidfd, select.POLLIN)
            if not waiting.poll(timeout * 1000):
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
        finally:
            os.close(pidfd)
    return os.waitpid(pid, 0)[1]


def _reason(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    return f"it was ended by signal {-code} ({(signal.strsignal(-code) or 'unknown').lower()})"
