"""moby.buildkit.v1.sourcepolicy: which sources a build may use, by rules or by asking the client."""

from __future__ import annotations

from typing import Annotated

from cove.buildkit.messages.common import Platform, SourceOp
from cove.grpc.protobuf import Message

CHECK = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy"
ALLOW, DENY, CONVERT = range(3)
WILDCARD, EXACT, REGEX = range(3)
EQUAL, NOT_EQUAL, MATCHES = range(3)


class Update(Message, frozen=True):
    """What a source is converted to."""

    identifier: Annotated[str, 1] = ""
    attributes: Annotated[dict[str, str], 2] = {}


class Constraint(Message, frozen=True):
    """What an attribute of a source has to be."""

    key: Annotated[str, 1] = ""
    value: Annotated[str, 2] = ""
    condition: Annotated[int, 3] = 0


class Selector(Message, frozen=True):
    """Which sources a rule is about."""

    identifier: Annotated[str, 1] = ""
    match_type: Annotated[int, 2] = 0
    constraints: Annotated[tuple[Constraint, ...], 3] = ()


class Rule(Message, frozen=True):
    action: Annotated[int, 1] = 0
    selector: Annotated[Selector | None, 2] = None
    updates: Annotated[Update | None, 3] = None


class Policy(Message, frozen=True):
    """Rules, of which the last one that matches decides; a conversion decides at once."""

    version: Annotated[int, 1] = 0
    rules: Annotated[tuple[Rule, ...], 2] = ()


class SourceMeta(Message, frozen=True):
    """gateway.ResolveSourceMetaResponse, or …Request: what is known of a source, or what is to be found out."""

    source: Annotated[SourceOp | None, 1] = None


class CheckPolicyRequest(Message, frozen=True):
    """A source, for the client to judge."""

    platform: Annotated[Platform | None, 1] = None
    source: Annotated[SourceMeta | None, 2] = None


class DenyMessage(Message, frozen=True):
    message: Annotated[str, 1] = ""


class Decision(Message, frozen=True):
    """What the client says of it."""

    action: Annotated[int, 1] = 0
    deny_messages: Annotated[tuple[DenyMessage, ...], 2] = ()
    update: Annotated[SourceOp | None, 3] = None


class CheckPolicyResponse(Message, frozen=True):
    """A decision, or what the client wants to know before."""

    decision: Annotated[Decision | None, 1] = None
    request: Annotated[SourceMeta | None, 2] = None
