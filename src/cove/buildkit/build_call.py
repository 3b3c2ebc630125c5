"""POST /build?version=2: what Docker's command before buildx sends, a build whose files come over a session.

    POST /session                            the client's directory, secrets, agents, credentials
    POST /build?version=2&session=…       answered with {"id": "moby.buildkit.trace", "aux": base64(StatusResponse)}
    POST /build?version=2&buildid=upload-request:ID    a context that the client has as an archive, in the body

The parameters become the frontend's options; from there on it is a build like any other of the door's.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

from cove import ids
from cove.buildkit.control import Control
from cove.buildkit.files import BODY
from cove.buildkit.jobs import Jobs
from cove.buildkit.messages.common import CacheOptionsEntry
from cove.buildkit.messages.control import CacheOptions, Exporter, SolveRequest
from cove.errors import Conflict, InvalidArgument, NotFound, Unsupported
from cove.grpc.protobuf import encode
from cove.grpc.status import RpcError
from cove.wire.builds import BuildOptions

Message = dict[str, Any]

_UPLOAD = "upload-request:"
_PATIENCE = 5.0


class _Upload:
    """A context on its way from one request to another."""

    def __init__(self) -> None:
        self.body: asyncio.Future[AsyncIterator[bytes]] = asyncio.get_running_loop().create_future()
        self.taken = asyncio.Event()


class BuildCall:
    """The call over one engine's jobs."""

    def __init__(self, jobs: Jobs, control: Control) -> None:
        self._jobs = jobs
        self._control = control
        self._uploads: dict[str, _Upload] = {}
        self._running: dict[str, asyncio.Task[dict[str, str]]] = {}

    async def build(self, options: BuildOptions, session: str, body: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        """The messages of a build. What is wrong with the request is raised before the first."""
        if options.build_id.startswith(_UPLOAD):
            return self._uploaded(options.build_id.removeprefix(_UPLOAD), body)
        request = _request(options, session)
        if options.remote == "upload-request":
            body = await self._wait(options.build_id)
        return self._messages(options, request, body)

    async def cancel(self, identity: str) -> None:
        """End a running build. Raises NotFound."""
        task = self._running.get(identity)
        if task is None:
            raise NotFound(f"no build {identity} is running")
        task.cancel()

    async def _messages(
        self, options: BuildOptions, request: SolveRequest, body: AsyncIterator[bytes]
    ) -> AsyncIterator[Message]:
        task = asyncio.ensure_future(self._control.solved(request, body=body))
        identity = options.build_id or request.ref
        self._running[identity] = task
        try:
            job = await self._jobs.get(request.ref)
            async for each in job.trace.follow():
                yield {"id": "moby.buildkit.trace", "aux": base64.b64encode(encode(each)).decode()}
            told = await task
            if "containerimage.digest" in told:
                yield {"id": "moby.image.id", "aux": {"ID": told["containerimage.digest"]}}
        except RpcError as error:
            yield {"errorDetail": {"message": error.message}, "error": error.message}
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            yield {"errorDetail": {"message": "the build was cancelled"}, "error": "the build was cancelled"}
        finally:
            del self._running[identity]
            if (upload := self._uploads.pop(options.build_id, None)) is not None:
                upload.taken.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # ── uploads ───────────────────────────────────────────────────────────────────────────────────

    async def _uploaded(self, identity: str, body: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        """Hand a body over, and end when it was read."""
        upload = self._uploads.setdefault(identity, _Upload())
        if upload.body.done():
            raise Conflict(f"the context of the build {identity} is there already")
        upload.body.set_result(body)
        try:
            await upload.taken.wait()
        finally:
            self._uploads.pop(identity, None)
        no_messages: tuple[Message, ...] = ()
        for each in no_messages:
            yield each

    async def _wait(self, identity: str) -> AsyncIterator[bytes]:
        upload = self._uploads.setdefault(identity, _Upload())
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.shield(upload.body)
        except TimeoutError:
            raise NotFound(f"the context of the build {identity} did not come") from None


def _request(options: BuildOptions, session: str) -> SolveRequest:
    """The parameters as a request to solve. Raises InvalidArgument or Unsupported."""
    if len(options.outputs) > 1:
        raise InvalidArgument("multiple outputs not supported")
    exporters: tuple[Exporter, ...] = (Exporter(type="moby", attributes=_named(options, {})),)
    if options.outputs:
        kind = str(options.outputs[0].get("Type", ""))
        attributes = {str(k): str(v) for k, v in (options.outputs[0].get("Attrs") or {}).items()}
        if kind in ("image", "moby"):
            attributes = _named(options, attributes)
        exporters = () if kind == "cacheonly" else (Exporter(type=kind, attributes=attributes),)
    inline = options.arguments.get("BUILDKIT_INLINE_CACHE", "").lower() in ("1", "t", "true")
    exports = (CacheOptionsEntry(type="inline"),) if inline else ()
    return SolveRequest(
        ref=ids.new_id()[:25],
        exporters=exporters,
        frontend="dockerfile.v0",
        frontend_attributes=_frontend(options),
        session=session,
        cache=CacheOptions(exports=exports),
        entitlements=("network.host",) if options.network == "host" else (),
    )


def _named(options: BuildOptions, attributes: Mapping[str, str]) -> dict[str, str]:
    return {**attributes, "name": ",".join(options.tags)} if options.tags else dict(attributes)


def _frontend(options: BuildOptions) -> dict[str, str]:
    """The frontend's options for the parameters."""
    if options.check:
        raise Unsupported("a check is not made in a build over a session; ask without one, or with buildx --check")
    if options.network not in ("", "default", "host", "none"):
        raise Unsupported(f"the network {options.network!r} is not possible in a build over a session")
    found = {
        "target": options.target,
        "filename": options.dockerfile,
        "context": {"client-session": "", "upload-request": BODY, "": BODY}.get(options.remote, options.remote),
        "cache-from": ",".join(options.cache_only),
        "platform": ",".join(options.platforms),
        "force-network-mode": options.network if options.network != "default" else "",
        "add-hosts": ",".join("=".join(host.split(":", 1)) for host in options.extra_hosts),
        "shm-size": str(options.shm_size or ""),
        "ulimit": ",".join(f"{each.name}={each.soft}:{each.hard}" for each in options.ulimits),
        "cgroup-parent": options.cgroup_parent,
        "memory": str(options.memory or ""),
        "memswap": str(options.memory_swap or ""),
        "cpushares": str(options.cpu_shares or ""),
        "cpuperiod": str(options.cpu_period or ""),
        "cpuquota": str(options.cpu_quota or ""),
        "cpusetcpus": options.cpuset_cpus,
        "cpusetmems": options.cpuset_mems,
    }
    found = {key: value for key, value in found.items() if value}
    if options.no_cache:
        found["no-cache"] = ""
    found["image-resolve-mode"] = "pull" if options.pull else "default"
    found |= {f"build-arg:{name}": value for name, value in options.arguments.items()}
    return found | {f"label:{name}": value for name, value in options.labels.items()}
