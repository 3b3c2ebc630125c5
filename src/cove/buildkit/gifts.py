"""What a session gives a build besides files: secrets, ssh agents, credentials for registries.

Nothing is kept: each is asked for when a step or a pull needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from cove.buildkit.messages import session as ask
from cove.buildkit.messages.common import BytesMessage, Empty
from cove.buildkit.sessions import Session
from cove.engine.build.bases import Auth
from cove.engine.build.mounts import Agent
from cove.errors import Unavailable
from cove.grpc.calls import Asked
from cove.grpc.status import Code, RpcError
from cove.image.distribution import Credentials
from cove.oci.reference import DEFAULT_DOMAIN, Reference

_AGENT_ID = "buildkit.ssh.id"
_HUB = "registry-1.docker.io"
_NONE = (Code.NOT_FOUND, Code.UNIMPLEMENTED)
_CHUNK = 32 << 10

FindSession = Callable[[], Awaitable[Session | None]]


class Gifts:
    """A build's secrets and agents, as its client has them (`cove.engine.build.mounts.Giver`)."""

    def __init__(self, session: FindSession) -> None:
        self._session = session

    async def secret(self, identity: str) -> bytes | None:
        """A secret; None when the client has none of that id."""
        session = await self._session()
        if session is None:
            return None
        try:
            request = ask.GetSecretRequest(id=identity)
            return (await session.client.unary(ask.GET_SECRET, request, ask.GetSecretResponse)).data
        except RpcError as error:
            if error.code in _NONE:
                return None
            raise Unavailable(f"the client cannot give the secret {identity}: {error.message}") from error

    async def agent(self, identity: str) -> Agent | None:
        """A way to the client's ssh agent; None when it forwards none of that id."""
        session = await self._session()
        if session is None:
            return None
        try:
            await session.client.unary(ask.CHECK_AGENT, ask.CheckAgentRequest(id=identity), Empty)
        except RpcError:
            return None

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _forward(session, identity, reader, writer)

        return connect


def credentials(find: FindSession) -> Auth:
    """Who knows the credentials for an image's registry: the client."""

    async def auth(reference: Reference) -> Credentials | None:
        session = await find()
        if session is None:
            return None
        host = _HUB if reference.domain == DEFAULT_DOMAIN else reference.domain
        try:
            request = ask.CredentialsRequest(host=host)
            answer = await session.client.unary(ask.CREDENTIALS, request, ask.CredentialsResponse)
        except RpcError as error:
            if error.code in _NONE:
                return None
            raise Unavailable(f"the client cannot give credentials for {host}: {error.message}") from error
        if not answer.secret:
            return None
        if not answer.username:
            return Credentials(identity_token=answer.secret, server_address=reference.domain)
        return Credentials(username=answer.username, password=answer.secret, server_address=reference.domain)

    return auth


async def _forward(
    session: Session, identity: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection of a step to the client's agent, until either side ends it."""
    try:
        async with session.client.call(ask.FORWARD_AGENT, {_AGENT_ID: [identity]}) as call:
            to_agent = asyncio.ensure_future(_to_agent(call, reader))
            try:
                while (message := await call.receive(BytesMessage)) is not None:
                    writer.write(message.data)
                    await writer.drain()
            finally:
                to_agent.cancel()
                await asyncio.gather(to_agent, return_exceptions=True)
    except (RpcError, OSError):
        pass  # the agent went away: the step sees its end of file
    finally:
        with contextlib.suppress(OSError):
            writer.close()


async def _to_agent(call: Asked, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_CHUNK):
        await call.send(BytesMessage(data=data))
    await call.end()
