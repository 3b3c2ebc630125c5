"""What a RUN's --mount options show: made before the step, given back after it.

bind    a tree's directory or file by descriptor; of a stage, or when writable, a copy that is thrown away
cache   a directory that builds share, by id: shared, locked, or private to one step at a time
tmpfs   empty memory                    secret, ssh   files on a tmpfs, gone with the step
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import os
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

import msgspec

from cove.build import ops
from cove.build.layers import Source, Workshop
from cove.engine import memory
from cove.engine.build.caches import Caches, Name
from cove.engine.context import Context
from cove.errors import InvalidArgument, NotFound, Unsupported, describe
from cove.image.overlayfs import exists_below
from cove.kernel.rootpath import open_in
from cove.oci.spec import Mount
from cove.wire.builds import BuildSecrets

_MAX_SECRET = 500 << 10


@dataclass(frozen=True, slots=True)
class Prepared:
    """The mounts of one step. `stubs`: mount points that are not in the layers below, the deepest first."""

    mounts: tuple[Mount, ...]
    env: dict[str, str]
    stubs: tuple[str, ...]


Agent = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection to an ssh agent, until either side ends it."""


class Giver(Protocol):
    """Who has the secrets of a build."""

    async def secret(self, identity: str) -> bytes | None:
        """A secret, None for one that was not given."""
        ...

    async def agent(self, identity: str) -> Agent | None:
        """A way to an ssh agent, None for one that was not given."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """What a client gave one build: secrets by id, and the sockets of its ssh agents by id."""

    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    agents: dict[str, str] = field(default_factory=dict)

    async def secret(self, identity: str) -> bytes | None:
        return self.secrets.get(identity)

    async def agent(self, identity: str) -> Agent | None:
        path = self.agents.get(identity)
        return None if path is None else partial(_relay, path)

    @classmethod
    def of(cls, sent: BuildSecrets) -> Given:
        """As the API has them; InvalidArgument."""
        try:
            secrets = {name: base64.b64decode(value, validate=True) for name, value in sent.secrets.items()}
        except (binascii.Error, ValueError):
            raise InvalidArgument("a secret of the build is not base64") from None
        return cls(secrets, dict(sent.ssh))


class BuildMounts:
    """Makes the mounts of one build's steps."""

    def __init__(self, context: Context, workshop: Workshop, caches: Caches, given: Giver) -> None:
        self._context = context
        self._workshop = workshop
        self._caches = caches
        self._given = given

    @asynccontextmanager
    async def prepared(self, step: ops.Run, sources: tuple[Source, ...]) -> AsyncIterator[Prepared]:
        """The step's mounts for the time of a `with`."""
        async with AsyncExitStack() as stack:
            made: list[Mount] = []
            env: dict[str, str] = {}
            caches = await self._held(step.mounts, sources, stack)
            for asked in step.mounts:
                if asked in caches:
                    made.append(await self._cache(asked, caches[asked], sources))
                    continue
                mount = await self._one(asked, sources, env, stack)
                if mount is not None:
                    made.append(mount)
            if step.script is not None:
                made.append(self._script(step.script, stack))
            targets = [mount.destination for mount in made]
            stubs = await self._context.executors.bulk(self._stubs, sources[0], targets) if targets else ()
            yield Prepared(tuple(made), env, stubs)

    async def _one(
        self, asked: ops.RunMount, sources: tuple[Source, ...], env: dict[str, str], stack: AsyncExitStack
    ) -> Mount | None:
        match asked.type:
            case "tmpfs":
                size = (f"size={asked.size}",) if asked.size else ()
                return Mount(
                    destination=asked.target, source="tmpfs", type="tmpfs", options=("nosuid", "nodev", *size)
                )
            case "bind":
                return await self._bind(asked, sources[asked.input], stack)
            case "secret":
                return await self._secret(asked, env, stack)
        return await self._agent(asked, env, stack)

    # ── bind ──────────────────────────────────────────────────────────────────────────────────────

    async def _bind(self, asked: ops.RunMount, source: Source, stack: AsyncExitStack) -> Mount:
        path = asked.source or "/"
        if isinstance(source, Path) and asked.readonly:
            return self._inside(source, path, asked)
        copied = self._scratch(stack)
        selection = ops.Selection(sources=(path,), destination="/tree/", root_owned=False)
        await self._context.executors.bulk(self._copy_out, source, selection, copied)
        whole = copied / "upper" / "tree"
        name = os.path.basename(path.rstrip("/"))
        inner = name if name and (whole / name).is_symlink() is False and (whole / name).is_file() else "/"
        return self._inside(whole, inner, asked)

    def _copy_out(self, source: Source, selection: ops.Selection, target: Path) -> None:
        """Copy a selection through the confined worker into a directory of its own."""
        with self._workshop.upper("") as key:
            self._workshop.copy(key, source, selection, ())
            os.rename(self._context.data.container(key).upper, target / "upper")

    def _inside(self, tree: Path, path: str, asked: ops.RunMount) -> Mount:
        """A bind of what lies at `path` inside a tree that nobody can change: links are resolved in it, once."""
        with ExitStack() as closing:
            root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            closing.callback(os.close, root)
            try:
                found = open_in(root, path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    raise NotFound(f'the mount source "{path}" of {asked.target} is not there') from error
                raise InvalidArgument(f"the mount source {path!r} cannot be used: {describe(error)}") from error
            closing.callback(os.close, found)
            mode = os.fstat(found).st_mode
            real = Path(os.readlink(f"/proc/self/fd/{found}"))
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) or not real.is_relative_to(tree.resolve()):
            raise InvalidArgument(f"the mount source {path!r} of {asked.target} is neither a directory nor a file")
        return _bind(asked, real)

    # ── cache ─────────────────────────────────────────────────────────────────────────────────────

    async def _held(
        self, mounts: tuple[ops.RunMount, ...], sources: tuple[Source, ...], stack: AsyncExitStack
    ) -> dict[ops.RunMount, Name]:
        """The step's caches, which it has until its end: each once, and in the same order as every other step, so
        that no two wait for each other. One that is private is the first that nobody has."""
        found = {asked: _cache_name(asked, sources) for asked in mounts if asked.type == "cache"}
        turns = self._caches.turns
        alone: dict[str, bool] = {}
        for asked, name in found.items():
            if asked.sharing != "private":
                alone[name.identity] = alone.get(name.identity, False) or asked.sharing == "locked"
        for identity in sorted(alone):
            await stack.enter_async_context(turns.held(identity, alone=alone[identity]))
        for asked, name in found.items():
            if asked.sharing == "private":
                free = next(each for each in _numbered(name) if not turns.taken(each.identity))
                await stack.enter_async_context(turns.held(free.identity, alone=True))
                found[asked] = free
        return found

    async def _cache(self, asked: ops.RunMount, name: Name, sources: tuple[Source, ...]) -> Mount:
        def begin(content: Path) -> None:
            selection = ops.Selection(sources=(asked.source or "/",), destination="/", root_owned=False)
            self._copy_out(sources[asked.input], selection, content.parent)
            os.rename(content.parent / "upper", content)

        return _bind(asked, await self._caches.ready(name, begin if asked.input > 0 else None))

    # ── secrets ───────────────────────────────────────────────────────────────────────────────────

    async def _secret(self, asked: ops.RunMount, env: dict[str, str], stack: AsyncExitStack) -> Mount | None:
        content = await self._given.secret(asked.id)
        if content is None:
            if asked.required:
                raise NotFound(f"secret {asked.id}: not found; give it with --secret id={asked.id},src=FILE")
            return None
        if len(content) > _MAX_SECRET:
            raise InvalidArgument(f"the secret {asked.id} is larger than {_MAX_SECRET} bytes")
        if asked.env:
            env[asked.env] = content.decode("utf-8", "surrogateescape")
        if not asked.target:
            return None
        directory = self._memory(stack)
        file = _write(directory / "secret", content, asked.mode, asked.uid, asked.gid)
        return _file_mount(asked.target, file)

    async def _agent(self, asked: ops.RunMount, env: dict[str, str], stack: AsyncExitStack) -> Mount | None:
        """A socket of our own that leads to the agent, for whom the step wants: the agent's own stays as it is."""
        agent = await self._given.agent(asked.id)
        if agent is None:
            if asked.required:
                raise NotFound(f"ssh agent {asked.id}: not found; give it with --ssh {asked.id}")
            return None
        target = asked.target or f"/run/buildkit/ssh_agent.{sum(name == 'SSH_AUTH_SOCK' for name in env)}"
        env["SSH_AUTH_SOCK"] = target
        path = self._memory(stack) / "agent"
        server = await asyncio.start_unix_server(agent, path)
        stack.callback(server.close)
        os.chmod(path, asked.mode)
        os.chown(path, asked.uid, asked.gid)
        return _file_mount(target, path)

    def _script(self, script: ops.Script, stack: AsyncExitStack) -> Mount:
        """A here-document as a program at /dev/pipes/NAME."""
        directory = self._scratch(stack)
        file = _write(directory / "script", script.content.encode("utf-8", "surrogateescape"), 0o755, 0, 0)
        return _file_mount(f"/dev/pipes/{os.path.basename(script.name)}", file)

    # ── places ────────────────────────────────────────────────────────────────────────────────────

    def _scratch(self, stack: AsyncExitStack) -> Path:
        directory = self._context.data.tmp / f"mount-{secrets.token_hex(8)}"
        directory.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    def _memory(self, stack: AsyncExitStack) -> Path:
        """A private directory that is in memory only: what lies there never reaches a disk."""
        directory = memory.directory(self._context)
        if directory is None:
            raise Unsupported("secrets need a tmpfs at /run or /dev/shm, so that they never reach a disk")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    def _stubs(self, base: Source, targets: list[str]) -> tuple[str, ...]:
        """Mount points, and directories on the way to them, that the layers below do not have."""
        paths: set[str] = set()
        for target in targets:
            parts = target.strip("/").split("/")
            paths |= {"/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        layers = self._context.store.layers.stack(str(base)) if base else []
        with ExitStack() as closing:
            lower = []
            for layer in layers:
                lower.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                closing.callback(os.close, lower[-1])
            missing = [path for path in paths if not exists_below(lower, path)]
        return tuple(sorted(missing, key=len, reverse=True))


def _cache_name(asked: ops.RunMount, sources: tuple[Source, ...]) -> Name:
    """Another owner or base is another cache."""
    base = sources[asked.input] if asked.input > 0 else None
    return Name(
        id=asked.id.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        source=asked.source,
        uid=asked.uid,
        gid=asked.gid,
        mode=asked.mode,
        base=base if isinstance(base, str) else "",
    )


def _numbered(name: Name) -> Iterator[Name]:
    return (msgspec.structs.replace(name, number=number) for number in count())


def _write(path: Path, content: bytes, mode: int, uid: int, gid: int) -> Path:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
    return path


def _bind(asked: ops.RunMount, source: Path) -> Mount:
    access = "ro" if asked.readonly else "rw"
    options = ("bind", access, "rprivate", "nosuid", "nodev")
    return Mount(destination=asked.target, source=str(source), type="bind", options=options)


def _file_mount(target: str, file: Path) -> Mount:
    return Mount(
        destination=target, source=str(file), type="bind", options=("bind", "ro", "rprivate", "nosuid", "nodev")
    )


async def _relay(agent: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of a step to the agent, until either side ends it."""
    try:
        to_agent, from_agent = None, None
        from_agent, to_agent = await asyncio.open_unix_connection(agent)
        await asyncio.gather(_pass_on(reader, to_agent), _pass_on(from_agent, writer))
    except OSError:
        pass  # the agent went away: the step sees its end of file
    finally:
        for end in (writer, to_agent):
            if end is not None:
                end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
